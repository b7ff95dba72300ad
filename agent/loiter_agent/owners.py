"""Charges sockets to processes: inode → process, incrementally.

A socket that was charged before costs a dictionary look-up. Only an inode that is not known yet causes descriptors to
be read, first those of processes in the socket's own cgroup, and of those only what was not read before.

A socket that several processes hold (a child inherited it, or it was passed on) is charged once, as a rule to the one
that started first. When that one closes its descriptor, the charge moves to another holder: processes whose number of
descriptors and number of charged sockets stop moving together are read again, and now and then those that hold
CLOSE_WAIT sockets, in turn and within a budget per tick.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import add
from typing import Final

from loiter_agent.collectors.processes import ProcessScan
from loiter_agent.connections import Connections
from loiter_agent.inet_diag import TCP_BOUND_INACTIVE, TCP_CLOSE_WAIT, TCP_LISTEN, Chunk
from loiter_agent.places import (
    MOST_PLACES,
    OWNERLESS,
    ROLE_NONE,
    STATES,
    UNKNOWN,
    Place,
    Places,
    place_of,
    same_connection,
)
from loiter_agent.procfs import ProcessVanished, Procfs, Unreadable, parse_unified_cgroup
from loiter_agent.sample import ProcessFds, ProcessKey

# The number of the place of a socket that was not seen before.
_NEW: Final = -1

# How many descriptors may be read in a tick only to see whether what is known still holds: 10 ms at 5 µs each.
_REVIEW_FDS_PER_TICK: Final = 2_000
# How many descriptors may be read anew in a tick to find a socket that nobody seems to hold; what is not used is saved
# up. An agent without rights meets such sockets in every tick.
_DISTRUST_FDS_PER_TICK: Final = 2_000
_DISTRUST_FDS: Final = 20_000
# A charge of CLOSE_WAIT sockets is verified after so many ticks: five minutes at 10 s.
_VERIFY_AFTER_TICKS: Final = 30
_LAST_KEPT_FD: Final = 1 << 20
# An inode that nobody was found to hold is looked for again after 1, 2, 4, … ticks, but at least this often.
_LONGEST_RETRY_TICKS: Final = 16
# Places that no socket is in any more are dropped when there are so many of them.
_UNUSED_PLACES: Final = 5_000

# Tells whether a connection was accepted: of a namespace, by its ports and addresses.
Accepted = Callable[[int, bytes], bool]


@dataclass(slots=True)
class _Holder:
    """A process that holds sockets. `inodes` is indexed by descriptor; 0 stands for no socket, or not read."""

    key: ProcessKey
    index: int
    inodes: array[int] = field(default_factory=lambda: array("I"))
    # Descriptors less charged sockets when it was last read. While this stays, nothing suggests a change.
    balance: int | None = None
    # The tick in which every descriptor was last read.
    verified: int = 0

    def remember(self, held: Mapping[int, int]) -> None:
        """Keeps descriptor → inode in 4 bytes each. A descriptor may have any number: huge ones are not kept."""
        last = max((fd for fd in held if fd < _LAST_KEPT_FD), default=-1)
        self.inodes = array("I", bytes(4 * (last + 1)))
        for fd, inode in held.items():
            if fd <= last:
                self.inodes[fd] = inode


@dataclass(frozen=True, slots=True)
class Charges:
    """The outcome of a tick: full sockets by place and state (TCP state number)."""

    places: Mapping[Place, Mapping[int, int]]
    attributed: int
    unattributed: int
    ownerless: int
    # Of the places, the sockets that were not there in the last tick. None of a namespace that was not read then.
    fresh: Mapping[Place, int]


class Owners:
    """Keeps who holds which socket from tick to tick. A tick is `begin`, `feed` for each chunk, `finish`."""

    def __init__(self, procfs: Procfs) -> None:
        """Takes the procfs whose processes hold the sockets."""
        self._procfs = procfs
        self._cgroups = _CgroupIds(procfs)
        self._tick = 0
        self._scan = ProcessScan({}, 0, 0, {})
        self._places = Places()
        self._holders: dict[int, _Holder] = {}
        self._index_of: dict[ProcessKey, int] = {}
        self._next_index = 0
        # A socket's key is its inode. Without one, it is the cookie, negative.
        self._place_of: dict[int, int] = {}
        self._unknown: dict[int, int | None] = {}  # inodes whose holder is not known → cgroup id
        self._retries: dict[int, tuple[int, int]] = {}  # inode → tick of the next try, ticks to wait after it
        self._fd_open_before: dict[ProcessKey, int | None] = {}
        self._review_credit = 0
        self._distrust_credit = _DISTRUST_FDS
        self._before = Connections()
        self._remember = True
        self._forget_tick()

    def _forget_tick(self) -> None:
        self._keys: list[int] = []
        self._seen: list[int] = []
        self._states = bytearray()
        self._new = False
        self._new_inodes: dict[int, int | None] = {}  # → cgroup id
        self._fresh: list[int] = []
        self._orphans: dict[int, tuple[int, bytes]] = {}  # key → namespace, connection
        self._now = Connections()

    def begin(self, scan: ProcessScan, remember: bool = True) -> None:
        """Starts a tick. May be called again in the same tick, to start the count over.

        Without `remember`, the next tick is not told what connections there were in this one.
        """
        self._scan = scan
        self._remember = remember
        gone = {index for index, holder in self._holders.items() if holder.key not in scan.processes}
        if gone:
            for index in gone:
                del self._index_of[self._holders.pop(index).key]
            moved = {
                number: self._places.with_holder(number, UNKNOWN)
                for number, place in list(self._places)
                if place.holder in gone
            }
            for key, number in self._place_of.items():
                if number in moved:
                    self._unknown[key] = None
                    self._place_of[key] = moved[number]
        self._forget_tick()

    def feed(self, namespace: int, offset: int, chunk: Chunk, states: bytes, accepted: Accepted) -> None:
        """Takes in full sockets of a dump. `offset` keeps the cookies of one namespace apart from those of others."""
        inodes = chunk.inodes()
        keys = inodes
        if 0 in inodes:
            keys = [inode or -offset - cookie for inode, cookie in zip(inodes, chunk.cookies(), strict=True)]
        places = list(map(self._place_of.get, keys, repeat(_NEW)))
        if _NEW in places:
            self._new = True
            if namespace in self._before:
                self._fresh += [key for key, place in zip(keys, places, strict=True) if place == _NEW]
            for index, place in enumerate(places):
                if place == _NEW:
                    places[index] = self._place_new(namespace, keys[index], chunk, index, states[index], accepted)
        self._keys += keys
        self._seen += places
        self._states += states
        if self._remember:
            self._now.add(namespace, chunk)

    def _place_new(self, namespace: int, key: int, chunk: Chunk, index: int, state: int, accepted: Accepted) -> int:
        """Gives a socket that was not seen before its place; its holder is yet to be found."""
        holder = UNKNOWN
        if key > 0:
            self._new_inodes[key] = chunk.cgroup_id(index)
        else:
            holder = OWNERLESS
        if state in (TCP_LISTEN, TCP_BOUND_INACTIVE):
            return self._places.number(Place(namespace, holder))
        connection = chunk.connection(index)
        place = place_of(namespace, holder, chunk.family(index), connection, accepted(namespace, connection))
        if holder == OWNERLESS and state != TCP_CLOSE_WAIT:
            self._orphans[key] = namespace, connection
            place = place._replace(cgroup=chunk.cgroup_id(index))
        return self._places.number(place)

    def forget_connections(self) -> None:
        """Forgets what connections there were: the tick to come is not the next one, and ports are used again."""
        self._before = Connections()

    def before(self, wanted: Collection[tuple[int, bytes]]) -> dict[tuple[int, bytes], Place]:
        """Finds the places that connections had in the last tick: those of one holder, or of one cgroup.

        `wanted` are namespaces and connections as `Chunk.connection` gives them. To be asked between `feed` and
        `finish`.
        """
        if not wanted:
            return {}
        found = self._before.find(wanted)
        places: dict[tuple[int, bytes], Place] = {}
        for namespace, connection in wanted:
            numbers = found.get((namespace, connection), ())
            same = [place for place in map(self._places.get, numbers) if place and same_connection(place, connection)]
            if len({(place.holder, place.former, place.cgroup) for place in same}) == 1:
                places[namespace, connection] = same[0]
        return places

    def finish(self) -> Charges:
        """Ends a tick: finds who holds what is not known yet, and adds up."""
        self._tick += 1
        self._distrust_credit = min(_DISTRUST_FDS, self._distrust_credit + _DISTRUST_FDS_PER_TICK)
        seen = self._seen
        if self._new or self._unknown or len(self._keys) != len(self._place_of):
            # From here on the map holds the sockets of this tick and no others.
            self._place_of = dict(zip(self._keys, self._seen, strict=True))
            self._remember_former_holders()
            self._unknown = {inode: cgroup for inode, cgroup in self._unknown.items() if inode in self._place_of}
            self._unknown.update(self._new_inodes)
            if self._unknown:
                self._resolve()
            seen = list(map(self._place_of.__getitem__, self._keys))
        codes = Counter(map(add, seen, self._states))
        counts = {(code - code % STATES, code % STATES): count for code, count in codes.items()}
        self._now.settle(seen)
        self._before = self._now
        fresh = Counter(self._place_of[key] for key in self._fresh)
        charges = self._charges(counts, fresh)
        self._review(counts)
        self._fd_open_before = {key: process.fd_open for key, process in self._scan.processes.items()}
        self._forget_outgrown_places(counts, seen)
        used = len({number for number, _ in counts})
        if len(self._places) > min(2 * used + _UNUSED_PLACES, max(used, MOST_PLACES - _UNUSED_PLACES)):
            self._places.keep_only(self._place_of.values())
        self._forget_tick()
        return charges

    def holders_of(self, inodes: Iterable[int]) -> list[int]:
        """The holders that sockets of the tick that has ended are charged to; UNKNOWN for inodes that are not there."""
        holder_of = {number: place.holder for number, place in self._places}
        return [holder_of[number] if (number := self._place_of.get(inode)) is not None else UNKNOWN for inode in inodes]

    def holder_of(self, inode: int) -> int:
        """The holder that one socket is charged to, as `holders_of` tells of many."""
        number = self._place_of.get(inode)
        return UNKNOWN if number is None else self._places[number].holder

    def process(self, holder: int) -> ProcessKey | None:
        """The process that a place's holder stands for, while it lives."""
        found = self._holders.get(holder)
        return found.key if found is not None else None

    def namespaces_of(self, key: ProcessKey) -> set[int]:
        """The namespaces of the sockets that a process was charged with in the tick that has ended."""
        index = self._index_of.get(key)
        return {place.namespace for _, place in self._places if place.holder == index}

    def sockets_of(self, key: ProcessKey, trust: bool = False) -> set[int]:
        """Reads the inodes of the sockets that a process holds now, apart from any tick. Changes no charge.

        With `trust`, descriptors are taken for what they were in the tick that has ended, and others read. Raises
        ProcessVanished and Unreadable.
        """
        index = self._index_of.get(key)
        holder = self._holders[index] if index is not None else _Holder(key, UNKNOWN)
        with self._procfs.fd_folder(key.pid) as folder:
            return set(self._read_fds(folder, holder, trust).values())

    def cgroup_of(self, key: ProcessKey) -> int | None:
        """The v2 cgroup of a process, as sock_diag numbers it; None where it can not be told."""
        return self._cgroups.of(key)

    def in_cgroup(self, cgroup: int) -> tuple[ProcessKey, ...]:
        """The processes that are in a v2 cgroup themselves, not those in cgroups below it."""
        return tuple(key for key in self._scan.processes if self._cgroups.of(key) == cgroup)

    def _remember_former_holders(self) -> None:
        """Finds who held the sockets that nobody holds any more."""
        before = self.before(set(self._orphans.values()))
        for key, connection in self._orphans.items():
            known = before.get(connection)
            if known is not None:
                former = known.holder if known.holder >= 0 else known.former
                place = self._places[self._place_of[key]]._replace(former=former)
                self._place_of[key] = self._places.number(place)

    def _forget_outgrown_places(self, counts: Mapping[tuple[int, int], int], seen: Sequence[int]) -> None:
        """Has sockets that were bound or listened, and are connections now, looked at as new ones in the next tick."""
        outgrown = {
            number
            for number, state in counts
            if self._places[number].role == ROLE_NONE and state not in (TCP_LISTEN, TCP_BOUND_INACTIVE)
        }
        if outgrown:
            for key, number, state in zip(self._keys, seen, self._states, strict=True):
                if number in outgrown and state not in (TCP_LISTEN, TCP_BOUND_INACTIVE):
                    self._place_of.pop(key, None)

    def _charges(self, counts: Mapping[tuple[int, int], int], fresh: Mapping[int, int]) -> Charges:
        places: dict[Place, dict[int, int]] = {}
        by_holder: Counter[int] = Counter()
        for (number, state), count in counts.items():
            place = self._places[number]
            places.setdefault(place, {})[state] = count
            by_holder[place.holder] += count
        unattributed, ownerless = by_holder[UNKNOWN], by_holder[OWNERLESS]
        return Charges(
            places=places,
            attributed=by_holder.total() - unattributed - ownerless,
            unattributed=unattributed,
            ownerless=ownerless,
            fresh={self._places[number]: count for number, count in fresh.items()},
        )

    def _charge(self, inode: int, holder: int) -> None:
        self._place_of[inode] = self._places.with_holder(self._place_of[inode], holder)

    def _resolve(self) -> None:
        """Reads descriptors until every unknown inode whose turn it is has a holder, or no process is left to read."""
        wanted = {inode for inode in self._unknown if self._retries.get(inode, (0, 0))[0] <= self._tick}
        tried = set(wanted)
        if wanted:
            order = self.in_search_order({self._unknown[inode] for inode in wanted}, self._scan)
            for process in order:
                self._read(process.key, wanted, trust=True)
                if not wanted:
                    break
            self._distrust(order, wanted)
        retries = {}
        for inode in self._unknown:
            retry_at, wait = self._retries.get(inode, (0, 1))
            if inode in tried:
                retry_at, wait = self._tick + wait, min(wait * 2, _LONGEST_RETRY_TICKS)
            retries[inode] = (retry_at, wait)
        self._retries = retries

    def _distrust(self, order: Iterable[ProcessFds], wanted: set[int]) -> None:
        """Reads descriptors anew that were taken for known, as far as the budget goes.

        A descriptor may have been closed and its number used again while a child keeps the socket open that it
        referred to: as a server does that forks for each connection.
        """
        for process in order:
            if not wanted:
                return
            fd_open = process.fd_open or 0
            if process.key in self._index_of and fd_open <= self._distrust_credit:
                self._distrust_credit -= fd_open
                self._read(process.key, wanted, trust=False)

    def in_search_order(self, cgroups: Iterable[int | None], scan: ProcessScan) -> list[ProcessFds]:
        """Orders processes: of the sockets' cgroups first, then whose descriptors changed, then by age.

        The first process of the host is the last resort: it keeps the listeners of others (socket activation).
        """
        likely = set(cgroups) - {None}

        def order(process: ProcessFds) -> tuple[bool, bool, bool, int, int]:
            key = process.key
            elsewhere = not likely or self._cgroups.of(key) not in likely
            unchanged = self._fd_open_before.get(key, -1) == process.fd_open
            return key.pid == 1, elsewhere, unchanged, key.start_ticks, key.pid

        self._cgroups.forget_all_but(scan.processes)
        return sorted(scan.processes.values(), key=order)

    def _read(self, key: ProcessKey, wanted: set[int], trust: bool) -> None:
        """Reads the descriptors of a process, and charges it with those sockets that are wanted.

        With `trust`, a descriptor is not read again where it referred to a socket that is charged to this process and
        still in the kernel's table. Sockets that the process does not hold any more lose their charge, so that the
        next tick looks for who holds them.
        """
        index = self._index_of.get(key)
        holder = self._holders[index] if index is not None else _Holder(key, self._next_index)
        try:
            with self._procfs.fd_folder(key.pid) as folder:
                held = self._read_fds(folder, holder, trust)
        except (ProcessVanished, Unreadable):
            return
        for inode in set(holder.inodes) - set(held.values()):
            if self.holder_of(inode) == holder.index:
                self._charge(inode, UNKNOWN)
                self._unknown[inode] = None
        holder.remember(held)
        holder.balance = None
        if index is None or not trust:
            holder.verified = self._tick
        found = wanted.intersection(held.values())
        if found and index is None:
            self._holders[holder.index] = holder
            self._index_of[key] = holder.index
            self._next_index += 1
        for inode in found:
            wanted.remove(inode)
            self._unknown.pop(inode, None)
            self._charge(inode, holder.index)

    def _read_fds(self, folder: int, holder: _Holder, trust: bool) -> dict[int, int]:
        """Reads which sockets a process holds: descriptor → inode."""
        known = holder.inodes
        held = {}
        for name in self._procfs.fds(folder):
            fd = int(name)
            inode: int | None = known[fd] if trust and fd < len(known) else 0
            if not inode or self.holder_of(inode) != holder.index:
                inode = self._procfs.socket_inode(folder, name)
            if inode:
                held[fd] = inode & 0xFFFF_FFFF  # inet_diag_msg has 32 bits for it
        return held

    def _review(self, counts: Mapping[tuple[int, int], int]) -> None:
        """Reads again holders that may have given a socket away while another process keeps it open.

        Those are the holders whose balance has changed, and from time to time all that are charged with CLOSE_WAIT
        sockets: a balance also stays the same where as many files are opened as sockets are given away.
        """
        charged: Counter[int] = Counter()
        close_wait: Counter[int] = Counter()
        for (number, state), count in counts.items():
            holder_index = self._places[number].holder
            charged[holder_index] += count
            close_wait[holder_index] += count if state == TCP_CLOSE_WAIT else 0
        due = []
        for holder in self._holders.values():
            fd_open = self._scan.processes[holder.key].fd_open
            if fd_open is None:
                continue
            balance = fd_open - charged[holder.index]
            if holder.balance is None:  # read in this tick
                holder.balance = balance
            elif holder.balance != balance or (
                close_wait[holder.index] and self._tick - holder.verified >= _VERIFY_AFTER_TICKS
            ):
                due.append((fd_open, balance, holder))
        self._review_credit += _REVIEW_FDS_PER_TICK
        # In turn: holders are put to the end of the dictionary when they were reviewed.
        for fd_open, balance, holder in due:
            if fd_open > self._review_credit:
                return  # the credit is saved up for it
            self._review_credit -= fd_open
            self._read(holder.key, set(), trust=False)
            holder.balance = balance
            self._holders[holder.index] = self._holders.pop(holder.index)
        self._review_credit = 0


class _CgroupIds:
    """Tells which v2 cgroup a process is in, as the id that sock_diag gives: the inode number of its folder."""

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        try:
            self._mount = procfs.cgroup2_mount()
        except OSError:
            self._mount = None
        self._ids: dict[ProcessKey, int | None] = {}

    def of(self, key: ProcessKey) -> int | None:
        """Returns the id, or None where it can not be told. Read once per process: most never move."""
        if key not in self._ids:
            self._ids[key] = self._read(key)
        return self._ids[key]

    def forget_all_but(self, processes: Mapping[ProcessKey, ProcessFds]) -> None:
        """Forgets processes that are gone."""
        self._ids = {key: cgroup for key, cgroup in self._ids.items() if key in processes}

    def _read(self, key: ProcessKey) -> int | None:
        if self._mount is None:
            return None
        try:
            path = parse_unified_cgroup(self._procfs.cgroup(key.pid))
            # Above what the reader's cgroup namespace shows, as in a container, the path would lead out of the mount.
            return None if path is None or ".." in path.split("/") else os.stat(f"{self._mount}{path}").st_ino
        except (ProcessVanished, Unreadable, OSError):
            return None
