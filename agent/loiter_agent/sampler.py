"""Makes a sample: runs the collectors one after the other and puts together what they yield."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from loiter_agent.collectors.host_fds import HostFdsCollector
from loiter_agent.collectors.processes import ProcessScan, ProcessScanner
from loiter_agent.collectors.tcp import open_tcp_collector
from loiter_agent.identity import Identities
from loiter_agent.procfs import Procfs
from loiter_agent.sample import (
    CollectorStatus,
    Cost,
    Coverage,
    ProcessFds,
    ProcessRow,
    ProcessSockets,
    Sample,
    TcpSnapshot,
    TcpStates,
)
from loiter_agent.selection import Candidate, remainder, select

Section = TypeVar("Section")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many processes a sample reports: the `top` largest by each measure, and at most `limit` in all."""

    top: int = 10
    limit: int = 200


class Sampler:
    """Takes samples of this host. Not for use by two threads at once."""

    def __init__(self, procfs: Procfs, bounds: Bounds) -> None:
        """Opens what the collectors need. Never fails for lack of rights: the samples say what could not be read."""
        self.bounds = bounds
        self._procfs = procfs
        self._processes = ProcessScanner(procfs)
        self._tcp = open_tcp_collector(procfs)
        self._host_fds = HostFdsCollector(procfs)
        self._identities = Identities(procfs)
        self._failing: set[str] = set()

    def sample(self) -> Sample:
        """Takes one sample. A collector that fails leaves its section empty and does not take the others down."""
        started = datetime.now(UTC)
        wall, cpu = time.monotonic(), time.thread_time()
        statuses: list[CollectorStatus] = []
        scan = self._run(statuses, self._processes.name, self._processes.collect)
        known_scan = scan or ProcessScan({}, 0, 0, None)
        tcp = self._run(statuses, self._tcp.name, lambda: self._tcp.collect(known_scan))
        host_fds = self._run(statuses, self._host_fds.name, self._host_fds.collect)
        candidates = [Candidate(process, _sockets_of(process, tcp)) for process in known_scan.processes.values()]
        chosen = select(candidates, self.bounds.top, self.bounds.limit)
        self._identities.forget_all_but(known_scan.processes.keys())
        return Sample(
            time=started,
            sampler=tcp.sampler if tcp else None,
            tcp_states=tcp.states if tcp else TcpStates(),
            host_fds=host_fds,
            processes=tuple(self._row(candidate) for candidate in chosen),
            other=remainder(candidates, chosen) if scan else None,
            coverage=_coverage(scan, tcp),
            cost=Cost(
                cpu_seconds=time.thread_time() - cpu,
                wall_seconds=time.monotonic() - wall,
                process_cpu_seconds=time.process_time(),
                resident_bytes=self._resident_bytes(),
            ),
            collectors=tuple(statuses),
        )

    def close(self) -> None:
        """Lets go of what the collectors hold open."""
        self._tcp.close()

    def _run(self, statuses: list[CollectorStatus], name: str, collect: Callable[[], Section]) -> Section | None:
        started = time.monotonic()
        section, error = None, None
        try:
            section = collect()
            self._failing.discard(name)
        except (OSError, ValueError) as failure:  # refused by the kernel, or a file in a form we do not know
            error = str(failure)
            if name not in self._failing:  # said once, not on every tick
                _log.error("collector %s failed: %s", name, error)
                self._failing.add(name)
        statuses.append(CollectorStatus(name, time.monotonic() - started, error))
        return section

    def _row(self, candidate: Candidate) -> ProcessRow:
        identity = self._identities.of(candidate.key, candidate.process.comm)
        return ProcessRow(
            pid=candidate.key.pid,
            start_time=identity.start_time,
            name=identity.name,
            app=identity.app,
            user=identity.user,
            established=candidate.sockets.established if candidate.sockets else None,
            close_wait=candidate.sockets.close_wait if candidate.sockets else None,
            time_wait=None,  # the kernel keeps no owner of a TIME_WAIT socket
            sockets=candidate.sockets.total if candidate.sockets else None,
            fd_open=candidate.process.fd_open,
            fd_limit=self._processes.fd_limit(candidate.key),
        )

    def _resident_bytes(self) -> int | None:
        try:
            return self._procfs.resident_bytes()
        except OSError:
            return None


def _sockets_of(process: ProcessFds, tcp: TcpSnapshot | None) -> ProcessSockets | None:
    """The sockets charged to a process: none charged means 0 only where its sockets were seen at all."""
    if tcp is None:
        return None
    return tcp.by_process.get(process.key) or (ProcessSockets() if process.sockets_seen else None)


def _coverage(scan: ProcessScan | None, tcp: TcpSnapshot | None) -> Coverage:
    return Coverage(
        sockets_attributed=tcp.attributed if tcp else None,
        sockets_unattributed=tcp.unattributed if tcp else None,
        sockets_ownerless=tcp.ownerless if tcp else None,
        close_wait_uncharged=tcp.close_wait_uncharged if tcp else None,
        processes=len(scan.processes) if scan else None,
        processes_unreadable=scan.unreadable if scan else None,
        processes_vanished=scan.vanished if scan else None,
        namespaces=scan.namespaces if scan else None,
        # Sockets are read in the agent's own network namespace alone.
        namespaces_unread=scan.namespaces - 1 if scan and scan.namespaces and tcp else None,
        dump_torn=tcp.torn if tcp else False,
    )
