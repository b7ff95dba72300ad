"""Scans the processes of the host: who there is, how many descriptors each has open, and which can be looked into."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from loiter_agent.procfs import ProcessVanished, Procfs, Unreadable
from loiter_agent.sample import ProcessFds, ProcessKey

# What is kept of a process is read anew once in so many scans, each process in a scan of its own: it may change
# its namespace by unshare(2) or setns(2), its rights and its limits, and none of that shows.
_LOOK_AGAIN_SCANS: Final = 30


@dataclass(frozen=True, slots=True)
class ProcessScan:
    """One scan. Kernel threads and zombies are left out: they hold no descriptors.

    `unreadable` counts the processes whose descriptors may not be looked into; None where procfs hides them.
    `namespaces` maps the inode number of each network namespace that could be read to the process in it that started
    first; it is empty where none could. `unlisted` are the unreadable ones of which not even the name could be read:
    they are not among `processes`.
    """

    processes: Mapping[ProcessKey, ProcessFds]
    unreadable: int | None = 0
    vanished: int = 0
    namespaces: Mapping[int, ProcessKey] = field(default_factory=dict)
    unlisted: int = 0

    @property
    def hides_most(self) -> bool:
        """Whether most processes can not be looked into: then it is not known in which namespaces they are."""
        return self.unreadable is None or 2 * self.unreadable > len(self.processes)

    def by_pid(self) -> dict[int, ProcessKey]:
        """Maps pids to processes."""
        return {key.pid: key for key in self.processes}


@dataclass(frozen=True, slots=True)
class _Look:
    """What is read when a process is first seen, and kept: it hardly ever changes and costs as much as the rest."""

    comm: str
    fd_limit: int | None
    fd_limit_hard: int | None
    namespace: int | None
    readable: bool


class ProcessScanner:
    """Scans again and again, and reads again only what changes."""

    name = "processes"

    def __init__(self, procfs: Procfs) -> None:
        """Takes the procfs to scan."""
        self._procfs = procfs
        self._by_stat = procfs.counts_fds_by_stat()
        self._looks: dict[ProcessKey, _Look] = {}
        self._scans = 0

    def collect(self) -> ProcessScan:
        """Scans. Processes that end meanwhile are counted and left out. Raises OSError where there is no procfs."""
        processes: dict[ProcessKey, ProcessFds] = {}
        looks: dict[ProcessKey, _Look] = {}
        unreadable = unlisted = vanished = 0
        self._scans += 1
        for pid in self._procfs.pids():
            try:
                stat = self._procfs.stat(pid)
                if stat.kernel_thread or stat.zombie:
                    continue
                key = ProcessKey(pid, stat.start_ticks)
                look = self._looks.get(key)
                # A new process, or one that has executed another program, or one whose turn it is.
                if look is None or look.comm != stat.comm or (self._scans + pid) % _LOOK_AGAIN_SCANS == 0:
                    look = self._look(pid, stat.comm)
                processes[key] = self._process(key, look)
                looks[key] = look
                unreadable += not look.readable
            except ProcessVanished:
                vanished += 1
            except Unreadable:  # hidepid=1: not even what it is called
                unreadable += 1
                unlisted += 1
        self._looks = looks
        hidden = not any(key.pid == 1 for key in processes) and self._procfs.hides_processes()
        return ProcessScan(
            processes, None if hidden else unreadable, vanished, _oldest_by_namespace(processes.values()), unlisted
        )

    def fd_limits(self, key: ProcessKey) -> tuple[int | None, int | None]:
        """Reads soft and hard limit of a process anew: they can be changed at any time (prlimit(2))."""
        try:
            return self._procfs.open_files_limits(key.pid)
        except (ProcessVanished, Unreadable):
            return None, None

    def _process(self, key: ProcessKey, look: _Look) -> ProcessFds:
        return ProcessFds(
            key=key,
            comm=look.comm,
            fd_open=self._fd_count(key.pid, look),
            fd_limit=look.fd_limit,
            fd_limit_hard=look.fd_limit_hard,
            namespace=look.namespace,
            readable=look.readable,
        )

    def _look(self, pid: int, comm: str) -> _Look:
        try:
            soft, hard = self._procfs.open_files_limits(pid)
        except Unreadable:
            soft = hard = None
        try:
            # Reading this link asks for the same right as reading the links in fd/: PTRACE_MODE_READ_FSCREDS.
            namespace = self._procfs.network_namespace(pid)
        except Unreadable:
            return _Look(comm, soft, hard, None, readable=False)
        # The folder has an owner and a mode, too: that right alone does not open it.
        readable = os.access(self._procfs.root / str(pid) / "fd", os.R_OK, effective_ids=True)
        return _Look(comm, soft, hard, namespace, readable)

    def _fd_count(self, pid: int, look: _Look) -> int | None:
        if not self._by_stat and not look.readable:
            return None
        try:
            return self._procfs.fd_count(pid, self._by_stat)
        except Unreadable:
            return None


def _oldest_by_namespace(processes: Iterable[ProcessFds]) -> dict[int, ProcessKey]:
    oldest: dict[int, ProcessKey] = {}
    for process in processes:  # by ascending pid, which decides among those of the same clock tick
        if process.namespace is not None:
            known = oldest.get(process.namespace)
            if known is None or process.key.start_ticks < known.start_ticks:
                oldest[process.namespace] = process.key
    return oldest
