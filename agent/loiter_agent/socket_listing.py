"""Lists sockets one by one, between two ticks: from the same tables as a tick, and by what the last one knows.

Costs no more than a tick: a dump of the states that are asked for, and of the sockets that are shown alone what else
there is to know. Loaded on the first question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Final

from loiter_agent.collectors.processes import ProcessScan
from loiter_agent.inet_diag import (
    INET_DIAG_INFO,
    TCP_BOUND_INACTIVE,
    TCP_CLOSE_WAIT,
    TCP_LISTEN,
    TCP_SYN_SENT,
    TIME_WAIT_STATES,
    Chunk,
)
from loiter_agent.names import Names
from loiter_agent.namespaces import Namespaces, OpenNamespace
from loiter_agent.owners import Owners
from loiter_agent.places import address_text, local_port, peer_of
from loiter_agent.procfs import ProcessVanished, Unreadable
from loiter_agent.sample import ProcessKey
from loiter_agent.sock_diag import TornDumpError
from loiter_agent.socket_rows import GaveWay, Listing, NothingListed, SocketRow, Wanted, end_text
from loiter_agent.socket_selection import Chosen, Selection

_WITH_INFO: Final = 1 << (INET_DIAG_INFO - 1)
_CLOSE_WAIT: Final = 1 << TCP_CLOSE_WAIT
# From so many on, TIME_WAIT sockets are dumped apart, as in a tick.
_SPLIT_FROM_TIME_WAIT: Final = 2_000
# Nothing was sent or received in these.
_NEVER_TALKED: Final = (TCP_LISTEN, TCP_SYN_SENT, TCP_BOUND_INACTIVE)
# Descriptors that are read for one answer: 0.1 s at 5 µs each.
_MOST_FDS: Final = 20_000
# A cgroup with more processes than this is not one application's.
_MOST_MEMBERS: Final = 64


def list_sockets(
    namespaces: Namespaces, owners: Owners, names: Names, scan: ProcessScan, wanted: Wanted, due: Callable[[], bool]
) -> Listing:
    """Lists sockets. `scan` is of now, `names` has begun with it; `due` tells that a tick waits.

    Raises:
        GaveWay: A tick waits.
        NothingListed: The process is gone or can not be looked into, or the kernel refuses.
    """
    return _Reading(namespaces, owners, names, scan, wanted, due).listing()


class _Reading:
    """One question on its way to its answer."""

    def __init__(
        self,
        namespaces: Namespaces,
        owners: Owners,
        names: Names,
        scan: ProcessScan,
        wanted: Wanted,
        due: Callable[[], bool],
    ) -> None:
        self._opened = {one.id: one for one in namespaces.refresh(scan.processes.values())}
        self._owners = owners
        self._names = names
        self._scan = scan
        self._wanted = wanted
        self._due = due
        self._unread = 0
        self._apps: dict[int, str] = {}

    def listing(self) -> Listing:
        time = datetime.now(UTC)
        owner = None if self._wanted.pid is None else self._process(self._wanted.pid)
        selection = Selection(self._wanted, None if owner is None else self._held_by(owner))
        for namespace in self._to_read(owner):
            self._read(namespace, selection)
        chosen = selection.chosen()
        cgroups = {inode: one.chunk.cgroup_id(0) for one in chosen if (inode := one.chunk.inodes()[0])}
        holders = self._holders(cgroups) if owner is None else dict.fromkeys(cgroups, owner)
        rows = tuple(self._row(one, holders) for one in chosen)
        return Listing(
            time=time,
            sockets=rows,
            matching=selection.matching,
            namespaces_unread=None if owner is None and self._scan.hides_most else self._unread,
            unattributed=len(cgroups) - len(holders),
        )

    def _process(self, pid: int) -> ProcessKey:
        key = self._scan.by_pid().get(pid)
        if key is None:
            raise NothingListed(f"there is no process {pid}, or it may not be seen")
        return key

    def _held_by(self, key: ProcessKey) -> set[int]:
        """The inodes of the sockets of a process: where it has very many descriptors, partly as of the last tick."""
        try:
            return self._owners.sockets_of(key, trust=(self._scan.processes[key].fd_open or 0) > _MOST_FDS)
        except ProcessVanished:
            raise NothingListed(f"process {key.pid} has just ended") from None
        except Unreadable:
            raise NothingListed(
                f"the descriptors of process {key.pid} may not be read by this agent; 'loiter-agent check' says why"
            ) from None

    def _to_read(self, owner: ProcessKey | None) -> list[OpenNamespace]:
        """The namespaces to look into: all, or those in which a process is and has sockets."""
        if owner is None:
            return list(self._opened.values())
        inside = self._owners.namespaces_of(owner) | {self._scan.processes[owner].namespace}
        return [one for one in self._opened.values() if one.id in inside]

    def _read(self, namespace: OpenNamespace, selection: Selection) -> None:
        try:
            for chunk in self._dump(namespace):
                selection.feed(namespace.id, chunk, chunk.states())
        except TornDumpError:
            pass  # all but what has just come or gone
        except OSError as error:
            if namespace.own:
                raise NothingListed(f"the sockets can not be read: {error}") from None
            self._unread += 1

    def _dump(self, namespace: OpenNamespace) -> Iterator[Chunk]:
        if namespace.how is None:
            self._unread += 1
            return
        idle = None if self._wanted.named else namespace.idle_sockets()  # of a quiet one, listeners alone are told
        if idle is not None:
            yield from idle
            return
        states = self._wanted.states
        parts = [(states & _CLOSE_WAIT, _WITH_INFO), (states & ~_CLOSE_WAIT, 0)]
        stat = namespace.sock_stat() if states & TIME_WAIT_STATES else None
        if stat is not None and stat.tw >= _SPLIT_FROM_TIME_WAIT:
            parts[1:] = [(states & ~_CLOSE_WAIT & ~TIME_WAIT_STATES, 0), (TIME_WAIT_STATES, 0)]
        for mask, extensions in parts:
            self._give_way()
            if mask:
                with closing(namespace.dump(mask, extensions)) as chunks:
                    for chunk in chunks:
                        yield chunk
                        self._give_way()

    def _give_way(self) -> None:
        if self._due():
            raise GaveWay

    def _holders(self, cgroups: Mapping[int, int | None]) -> dict[int, ProcessKey]:
        """Finds who holds sockets: as the last tick has it, or by reading descriptors within bounds."""
        holders: dict[int, ProcessKey] = {}
        for inode in cgroups:
            key = self._owners.process(self._owners.holder_of(inode))
            if key is not None and key in self._scan.processes:
                holders[inode] = key
        wanted = cgroups.keys() - holders.keys()
        left = _MOST_FDS
        order = self._owners.in_search_order({cgroups[inode] for inode in wanted}, self._scan) if wanted else []
        for process in order:
            self._give_way()
            fd_open = process.fd_open or 0
            if not process.readable or fd_open > left:
                continue
            left -= fd_open
            try:
                found = wanted & self._owners.sockets_of(process.key)
            except (ProcessVanished, Unreadable):
                continue
            holders.update(dict.fromkeys(found, process.key))
            wanted -= found
            if not wanted:
                break
        return holders

    def _row(self, one: Chosen, holders: Mapping[int, ProcessKey]) -> SocketRow:
        chunk, namespace = one.chunk, self._opened[one.namespace]
        family, connection = chunk.family(0), chunk.connection(0)
        address, port = peer_of(connection)
        key = holders.get(chunk.inodes()[0])
        identity = self._names.of(key) if key is not None else None
        # In /proc/PID/net/tcp it is not said how many may wait.
        limit_unknown = one.state == TCP_LISTEN and namespace.how == "procfs"
        return SocketRow(
            state=one.state,
            local=end_text(address_text(family, connection[4:20]), local_port(connection)),
            peer=end_text(address_text(family, address), port),
            receive_queue=chunk.receive_queues()[0],
            send_queue=None if limit_unknown else chunk.write_queues()[0],
            age=one.age,
            idle=self._idle(one, namespace),
            pid=key.pid if key is not None else None,
            name=identity.name if identity is not None else "",
            app=identity.app if identity is not None else self._app(chunk.cgroup_id(0)),
            namespace=str(one.namespace) if one.namespace else "",
        )

    def _idle(self, one: Chosen, namespace: OpenNamespace) -> float | None:
        """For how many seconds nothing was sent or received; of most sockets the kernel is asked one by one."""
        if one.chunk.are_mini_sockets or one.state in _NEVER_TALKED:
            return None
        chunk: Chunk | None = one.chunk
        if one.state != TCP_CLOSE_WAIT:  # those came with it
            self._give_way()
            try:
                chunk = namespace.find(one.chunk, _WITH_INFO)
            except OSError:
                return None
        if chunk is None:
            return None
        sent, received = chunk.last_data_sent(0), chunk.last_data_received(0)
        return None if sent is None or received is None else min(sent, received) / 1_000

    def _app(self, cgroup: int | None) -> str:
        """What a socket without a known holder belongs to: where all processes of its cgroup are of one app, that."""
        if cgroup is None:
            return ""
        if cgroup not in self._apps:
            members = [key for key in self._scan.processes if self._owners.cgroup_of(key) == cgroup]
            apps = {self._names.of(key).app for key in members} if len(members) <= _MOST_MEMBERS else set()
            self._apps[cgroup] = apps.pop() if len(apps) == 1 else ""
        return self._apps[cgroup]
