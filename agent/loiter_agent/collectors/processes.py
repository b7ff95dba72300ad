"""Scans the processes of the host: who there is, how many descriptors each has open, and which can be looked into."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from loiter_agent.procfs import ProcessVanished, Procfs, Unreadable
from loiter_agent.sample import ProcessFds, ProcessKey


@dataclass(frozen=True, slots=True)
class ProcessScan:
    """One scan. Kernel threads and zombies are left out: they hold no descriptors.

    `unreadable` counts the processes whose descriptors may not be looked into, `namespaces` the network namespaces of
    the others; it is None where not even the scanner's own could be read.
    """

    processes: Mapping[ProcessKey, ProcessFds]
    unreadable: int
    vanished: int
    namespaces: int | None

    def by_pid(self) -> dict[int, ProcessKey]:
        """Maps pids to processes."""
        return {key.pid: key for key in self.processes}


@dataclass(frozen=True, slots=True)
class _FirstLook:
    """What is read when a process is first seen, and kept: it hardly ever changes and costs as much as the rest."""

    comm: str
    fd_limit: int | None
    namespace: int | None

    @property
    def readable(self) -> bool:
        return self.namespace is not None


class ProcessScanner:
    """Scans again and again, and reads again only what changes."""

    name = "processes"

    def __init__(self, procfs: Procfs) -> None:
        """Takes the procfs to scan."""
        self._procfs = procfs
        self._by_stat = procfs.counts_fds_by_stat()
        self._first_looks: dict[ProcessKey, _FirstLook] = {}

    def collect(self) -> ProcessScan:
        """Scans. Processes that end meanwhile are counted and left out. Raises OSError where there is no procfs."""
        processes: dict[ProcessKey, ProcessFds] = {}
        first_looks: dict[ProcessKey, _FirstLook] = {}
        unreadable = vanished = 0
        own = self._procfs.own_network_namespace()
        for pid in self._procfs.pids():
            try:
                stat = self._procfs.stat(pid)
                if stat.kernel_thread or stat.zombie:
                    continue
                key = ProcessKey(pid, stat.start_ticks)
                look = self._first_looks.get(key)
                if look is None or look.comm != stat.comm:  # a new process, or one that has executed another program
                    look = self._look(pid, stat.comm)
                seen = look.readable and own in (None, look.namespace)
                processes[key] = ProcessFds(key, stat.comm, self._fd_count(pid, look), look.fd_limit, seen)
                first_looks[key] = look
                unreadable += not look.readable
            except ProcessVanished:
                vanished += 1
            except Unreadable:  # hidepid=1: not even what it is called
                unreadable += 1
        self._first_looks = first_looks
        namespaces = {look.namespace for look in first_looks.values() if look.namespace is not None}
        return ProcessScan(processes, unreadable, vanished, len(namespaces) or None)

    def fd_limit(self, key: ProcessKey) -> int | None:
        """Reads the soft limit of a process anew: it can be changed at any time (prlimit(2))."""
        try:
            return self._procfs.open_files_limit(key.pid)
        except (ProcessVanished, Unreadable):
            return None

    def _look(self, pid: int, comm: str) -> _FirstLook:
        try:
            limit = self._procfs.open_files_limit(pid)
        except Unreadable:
            limit = None
        try:
            # Reading this link asks for the same right as reading the links in fd/: PTRACE_MODE_READ_FSCREDS.
            namespace: int | None = self._procfs.network_namespace(pid)
            if not os.access(self._procfs.root / str(pid) / "fd", os.R_OK, effective_ids=True):
                namespace = None
        except Unreadable:
            namespace = None
        return _FirstLook(comm, limit, namespace)

    def _fd_count(self, pid: int, look: _FirstLook) -> int | None:
        if not self._by_stat and not look.readable:
            return None
        try:
            return self._procfs.fd_count(pid, self._by_stat)
        except Unreadable:
            return None
