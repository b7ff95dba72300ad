"""Finds the network namespaces of the host, and keeps those open that can be entered."""

from __future__ import annotations

import errno
import logging
import os
import re
import resource
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

from loiter.limits import MAX_NAMESPACES
from loiter.logs import fields
from loiter_agent.namespace_files import NamespaceSettings, SockStat, read_file
from loiter_agent.open_namespace import DESCRIPTORS, OpenNamespace, Whereabouts
from loiter_agent.procfs import Procfs
from loiter_agent.sample import ProcessFds, ProcessKey
from loiter_agent.sock_diag import new_buffer

__all__ = ["NamespaceSettings", "Namespaces", "OpenNamespace", "SockStat", "parse_namespace_mounts"]

_log = logging.getLogger(__name__)

# The namespaces of the boot, in enum init_ns_ino of include/uapi/linux/nsfs.h; the one of the network is new there in
# Linux 6.18. No other namespace is given these numbers: those are from 0xF0000000 on.
_PID_NS_INIT_INO: Final = 0xEFFF_FFFC
_NET_NS_INIT_INO: Final = 0xEFFF_FFF9

_SETTINGS_EVERY: Final = 30  # refreshes
_LONGEST_WAIT: Final = 64  # refreshes between two attempts to enter
# What is met where a namespace or a process has just gone: nothing to be told of.
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ESTALE})


def parse_namespace_mounts(mountinfo: bytes) -> list[tuple[int, str]]:
    """Finds bind mounts of network namespaces in /proc/PID/mountinfo (proc_pid_mountinfo(5)): inode and mount point."""
    found = []
    for line in mountinfo.splitlines():
        if b" net:[" not in line:
            continue
        left, _, right = line.partition(b" - ")
        fields = left.split()
        inode = re.fullmatch(rb"net:\[([0-9]+)\]", fields[3]) if len(fields) > 4 else None
        if inode and right.split()[:1] == [b"nsfs"]:
            path = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4])
            found.append((int(inode[1]), os.fsdecode(path)))
    return found


class Namespaces:
    """The network namespaces of the host. Not for use by two threads at once."""

    def __init__(self, procfs: Procfs) -> None:
        """Opens sock_diag of the agent's own namespace. Raises OSError where the kernel refuses even that."""
        self._procfs = procfs
        self._buffer = new_buffer()
        self._host = _host_namespace(procfs)
        self._own = OpenNamespace(procfs, procfs.own_network_namespace() or 0, True, self._buffer)
        self._others: dict[int, OpenNamespace] = {}
        self._attempts: dict[int, _Attempts] = {}
        self._refreshes = 0
        self._said = False
        self._own.enter()

    def refresh(self, processes: Iterable[ProcessFds]) -> list[OpenNamespace]:
        """Finds the namespaces that processes or bind mounts keep, and returns them, the agent's own first.

        Those that nothing keeps any more are closed: an open one would live on. Those that can not be entered are read
        by procfs, and tried again now and then. Where the agent's own namespace is not known, it is the only one: the
        others could not be told from it.
        """
        self._refreshes += 1
        found = self._find(processes)
        own = self._own
        own.locate(self._name(own.id, found.get(own.id)), found.pop(own.id, Whereabouts()))
        if own.entered:
            own.read_settings()
        else:  # broke
            self._try_to_enter(own)
        if not own.id:
            return [own]
        for inode in self._others.keys() - found.keys():
            self._others.pop(inode).close()
            self._attempts.pop(inode, None)
        return [own, *self._refresh_others(found)]

    def kept_open(self) -> tuple[list[OpenNamespace], int]:
        """Returns the namespaces that are read from inside, the agent's own first, without a scan of the processes.

        Those that nothing keeps any more are closed, and found no others. With it comes how many there were besides.
        """
        own = self._own
        own.locate(own.name, Whereabouts())
        if not own.entered:  # broke
            self._try_to_enter(own)
        for inode in [inode for inode, one in self._others.items() if not one.is_kept()]:
            self._others.pop(inode).close()
            self._attempts.pop(inode, None)
        entered = [self._others[inode] for inode in sorted(self._others) if self._others[inode].entered]
        return [own, *entered], len(self._others) - len(entered)

    def close(self) -> None:
        """Lets go of all namespaces. Closing twice is harmless."""
        for namespace in (self._own, *self._others.values()):
            namespace.close()
        self._others.clear()

    def _find(self, processes: Iterable[ProcessFds]) -> dict[int, Whereabouts]:
        members: dict[int, list[ProcessKey]] = {}
        for process in processes:
            if process.namespace is not None:
                members.setdefault(process.namespace, []).append(process.key)
        for keys in members.values():
            keys.sort(key=lambda key: (key.start_ticks, key.pid))
        mounts: dict[int, list[str]] = {}
        for inode, path in self._mounts():
            mounts.setdefault(inode, []).append(path)
        return {
            inode: Whereabouts(members.get(inode, ()), mounts.get(inode, ()))
            for inode in members.keys() | mounts.keys()
        }

    def _mounts(self) -> list[tuple[int, str]]:
        """Bind mounts as the agent and as pid 1 see them; what another mount namespace has to itself is not seen."""
        root = self._procfs.root
        found = []
        for pid, prefix in (("self", ""), ("1", f"{root}/1/root")):
            try:
                mountinfo = read_file(f"{root}/{pid}/mountinfo")
            except OSError:
                continue  # not ours to read
            found += [(inode, prefix + path) for inode, path in parse_namespace_mounts(mountinfo)]
        return found

    def _refresh_others(self, found: dict[int, Whereabouts]) -> list[OpenNamespace]:
        # Those that are held come first: which ones are over the limit does not change from one refresh to the next.
        order = sorted(found, key=lambda inode: (inode not in self._others, inode))
        readable = set(order[: MAX_NAMESPACES - 1])
        room = _most_entered() - sum(namespace.entered for namespace in self._others.values())
        refused: list[OSError] = []
        for inode in order:
            namespace = self._others.get(inode)
            if namespace is None:
                namespace = self._others[inode] = OpenNamespace(self._procfs, inode, False, self._buffer)
            namespace.locate(self._name(inode, found[inode]), found[inode])
            if inode not in readable:
                namespace.close()
            elif namespace.entered:
                if (self._refreshes + inode) % _SETTINGS_EVERY == 0:  # not those of all in one refresh
                    namespace.read_settings()
            else:
                error = self._try_to_enter(namespace) if room > 0 else OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                room -= namespace.entered
                if error:
                    refused.append(error)
                if not namespace.entered:
                    namespace.stay_outside()
        self._say(refused)
        return [self._others[inode] for inode in sorted(found)]

    def _try_to_enter(self, namespace: OpenNamespace) -> OSError | None:
        """Enters, unless it is too early to try again. Returns what stood in the way, where it was tried."""
        attempts = self._attempts.setdefault(namespace.id, _Attempts())
        if not attempts.due():
            return None
        try:
            namespace.enter()
        except OSError as error:
            attempts.failed()
            return error
        del self._attempts[namespace.id]
        return None

    def _say(self, refused: list[OSError]) -> None:
        """Says in the log that namespaces can not be entered: once, for all of them."""
        told = [error for error in refused if error.errno not in _GONE]
        if told and not self._said:
            self._said = True
            _log.warning(
                "%d other network namespaces can not be entered (%s); their sockets are read from /proc/PID/net/tcp,"
                " at a higher cost, and not at all where they have no process",
                len(told),
                told[0].strerror,
                extra=fields(namespaces=len(told), reason=told[0].strerror),
            )

    def _name(self, inode: int, whereabouts: Whereabouts | None) -> str:
        if inode == self._host:
            return "host"
        if whereabouts is None or not whereabouts.mounts:
            return ""
        name = PurePosixPath(whereabouts.mounts[0].removesuffix("//deleted")).name
        return os.fsencode(name).decode("utf-8", "replace")


class _Attempts:
    """How long to wait, in refreshes, before the next attempt: twice as long after each that failed."""

    def __init__(self) -> None:
        self._distance = 1
        self._wait = 0

    def due(self) -> bool:
        self._wait -= 1
        return self._wait < 0

    def failed(self) -> None:
        self._wait = self._distance - 1
        self._distance = min(2 * self._distance, _LONGEST_WAIT)


def _host_namespace(procfs: Procfs) -> int:
    """The inode number of the host's network namespace.

    Before Linux 6.18 it has no number of its own: there it is that of pid 1, if pid 1 is the first process of the host
    and not of a container. Where that can not be told, the number that no other namespace has.
    """
    try:
        if os.stat(procfs.root / "1/ns/pid").st_ino == _PID_NS_INIT_INO:
            return procfs.network_namespace(1)
    except OSError:
        pass  # not ours to read
    return _NET_NS_INIT_INO


def _most_entered() -> int:
    """How many namespaces can be kept open with half of the descriptors that the agent may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_NAMESPACES if soft == resource.RLIM_INFINITY else soft // 2 // DESCRIPTORS
