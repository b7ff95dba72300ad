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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final

from loiter_agent.collectors.processes import ProcessScan
from loiter_agent.inet_diag import TCP_CLOSE_WAIT, TCP_ESTABLISHED, Chunk
from loiter_agent.procfs import ProcessVanished, Procfs, Unreadable, parse_unified_cgroup
from loiter_agent.sample import ProcessFds, ProcessKey, ProcessSockets

# Values of the inode map that are no holders.
_UNKNOWN: Final = -1
_OWNERLESS: Final = -2

# How many descriptors may be read in a tick only to see whether what is known still holds: 10 ms at 5 µs each.
_REVIEW_FDS_PER_TICK: Final = 2_000
# How many descriptors may be read anew in a tick to find a socket that nobody seems to hold.
_DISTRUST_FDS: Final = 20_000
# A charge of CLOSE_WAIT sockets is verified after so many ticks: five minutes at 10 s.
_VERIFY_AFTER_TICKS: Final = 30
_LAST_KEPT_FD: Final = 1 << 20
# An inode that nobody was found to hold is looked for again after 1, 2, 4, … ticks, but at least this often.
_LONGEST_RETRY_TICKS: Final = 16


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
    """The outcome of a tick: sockets by state (TCP state number → count), and by process."""

    states: Mapping[int, int]
    by_process: Mapping[ProcessKey, ProcessSockets]
    attributed: int
    unattributed: int
    ownerless: int


class Owners:
    """Keeps who holds which socket from tick to tick. A tick is `begin`, `feed` for each chunk, `finish`."""

    def __init__(self, procfs: Procfs) -> None:
        """Takes the procfs whose processes hold the sockets."""
        self._procfs = procfs
        self._cgroups = _CgroupIds(procfs)
        self._tick = 0
        self._scan = ProcessScan({}, 0, 0, None)
        self._holders: dict[int, _Holder] = {}
        self._index_of: dict[ProcessKey, int] = {}
        self._next_index = 0
        self._holder_of: dict[int, int] = {0: _OWNERLESS}
        self._retries: dict[int, tuple[int, int]] = {}  # inode → tick of the next try, ticks to wait after it
        self._fd_open_before: dict[ProcessKey, int | None] = {}
        self._review_credit = 0
        # Of the tick under way:
        self._counts: Counter[tuple[int, int]] = Counter()  # (holder, state) → sockets
        self._seen_inodes: array[int] = array("I")
        self._seen_holders: array[int] = array("i")
        self._unknown: dict[int, tuple[int, int | None]] = {}  # inode → state, cgroup id

    def begin(self, scan: ProcessScan) -> None:
        """Starts a tick. May be called again in the same tick, to start the count over."""
        self._scan = scan
        gone = {index for index, holder in self._holders.items() if holder.key not in scan.processes}
        if gone:
            for index in gone:
                del self._index_of[self._holders.pop(index).key]
            self._holder_of = {inode: _UNKNOWN if index in gone else index for inode, index in self._holder_of.items()}
        self._counts = Counter()
        self._seen_inodes = array("I")
        self._seen_holders = array("i")
        self._unknown = {}

    def feed(self, chunk: Chunk) -> None:
        """Takes in sockets of a dump."""
        if chunk.are_mini_sockets:  # nobody's: see the states for what they are
            self._counts.update(zip(repeat(_OWNERLESS), chunk.states(), strict=False))
            return
        states = chunk.states()
        inodes = chunk.inodes()
        holders = list(map(self._holder_of.get, inodes, repeat(_UNKNOWN)))
        self._seen_inodes.fromlist(inodes)
        self._seen_holders.fromlist(holders)
        self._counts.update(zip(holders, states, strict=True))
        if _UNKNOWN in holders:
            for index, holder in enumerate(holders):
                if holder == _UNKNOWN:
                    self._unknown[inodes[index]] = (states[index], chunk.cgroup_id(index))

    def finish(self) -> Charges:
        """Ends a tick: finds who holds what is not known yet, and adds up."""
        self._tick += 1
        ownerless = self._seen_holders.count(_OWNERLESS)
        steady = not self._unknown and len(self._seen_inodes) - ownerless == len(self._holder_of) - 1
        if not steady:
            # From here on the map holds the sockets of this tick and no others.
            self._holder_of = {}
            self._holder_of = dict(zip(self._seen_inodes, self._seen_holders, strict=True))
            self._holder_of[0] = _OWNERLESS
            if self._unknown:
                self._resolve()
        self._seen_inodes = array("I")
        self._seen_holders = array("i")
        charged: Counter[int] = Counter()
        for (index, _), count in self._counts.items():
            charged[index] += count
        self._review(charged)
        self._fd_open_before = {key: process.fd_open for key, process in self._scan.processes.items()}
        return self._charges(charged)

    def _charges(self, charged: Counter[int]) -> Charges:
        states: Counter[int] = Counter()
        for (_, state), count in self._counts.items():
            states[state] += count
        by_process = {
            self._holders[index].key: ProcessSockets(
                established=self._counts[index, TCP_ESTABLISHED],
                close_wait=self._counts[index, TCP_CLOSE_WAIT],
                total=total,
            )
            for index, total in charged.items()
            if index >= 0 and total
        }
        unattributed, ownerless = charged[_UNKNOWN], charged[_OWNERLESS]
        attributed = charged.total() - unattributed - ownerless
        return Charges(states, by_process, attributed, unattributed, ownerless)

    def _resolve(self) -> None:
        """Reads descriptors until every unknown inode whose turn it is has a holder, or no process is left to read."""
        wanted = {inode for inode in self._unknown if self._retries.get(inode, (0, 0))[0] <= self._tick}
        if wanted:
            order = self._in_search_order({self._unknown[inode][1] for inode in wanted})
            for process in order:
                self._read(process.key, wanted, trust=True)
                if not wanted:
                    break
            self._distrust(order, wanted)
        retries = {}
        for inode in self._unknown:
            if self._holder_of[inode] == _UNKNOWN:
                retry_at, wait = self._retries.get(inode, (0, 1))
                if inode in wanted:
                    retry_at, wait = self._tick + wait, min(wait * 2, _LONGEST_RETRY_TICKS)
                retries[inode] = (retry_at, wait)
        self._retries = retries

    def _distrust(self, order: Iterable[ProcessFds], wanted: set[int]) -> None:
        """Reads descriptors anew that were taken for known, as far as the budget goes.

        A descriptor may have been closed and its number used again while a child keeps the socket open that it
        referred to: as a server does that forks for each connection.
        """
        budget = _DISTRUST_FDS
        for process in order:
            if not wanted:
                return
            fd_open = process.fd_open or 0
            if process.key in self._index_of and fd_open <= budget:
                budget -= fd_open
                self._read(process.key, wanted, trust=False)

    def _in_search_order(self, cgroups: Iterable[int | None]) -> list[ProcessFds]:
        """Orders the processes: of the sockets' cgroups first, then whose descriptors changed, then by age."""
        likely = set(cgroups) - {None}

        def order(process: ProcessFds) -> tuple[bool, bool, int, int]:
            key = process.key
            elsewhere = not likely or self._cgroups.of(key) not in likely
            unchanged = self._fd_open_before.get(key, -1) == process.fd_open
            return elsewhere, unchanged, key.start_ticks, key.pid

        self._cgroups.forget_all_but(self._scan.processes)
        return sorted(self._scan.processes.values(), key=order)

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
            if self._holder_of.get(inode) == holder.index:
                self._holder_of[inode] = _UNKNOWN
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
            self._holder_of[inode] = holder.index
            state = self._unknown[inode][0]
            self._counts[_UNKNOWN, state] -= 1
            self._counts[holder.index, state] += 1

    def _read_fds(self, folder: int, holder: _Holder, trust: bool) -> dict[int, int]:
        """Reads which sockets a process holds: descriptor → inode."""
        known = holder.inodes
        held = {}
        for name in self._procfs.fds(folder):
            fd = int(name)
            inode: int | None = known[fd] if trust and fd < len(known) else 0
            if not inode or self._holder_of.get(inode) != holder.index:
                inode = self._procfs.socket_inode(folder, name)
            if inode:
                held[fd] = inode & 0xFFFF_FFFF  # inet_diag_msg has 32 bits for it
        return held

    def _review(self, charged: Counter[int]) -> None:
        """Reads again holders that may have given a socket away while another process keeps it open.

        Those are the holders whose balance has changed, and from time to time all that are charged with CLOSE_WAIT
        sockets: a balance also stays the same where as many files are opened as sockets are given away.
        """
        due = []
        for holder in self._holders.values():
            fd_open = self._scan.processes[holder.key].fd_open
            if fd_open is None:
                continue
            balance = fd_open - charged[holder.index]
            if holder.balance is None:  # read in this tick
                holder.balance = balance
            elif holder.balance != balance or (
                self._counts[holder.index, TCP_CLOSE_WAIT] and self._tick - holder.verified >= _VERIFY_AFTER_TICKS
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
            return None if path is None else os.stat(f"{self._mount}{path}").st_ino
        except (ProcessVanished, Unreadable, OSError):
            return None
