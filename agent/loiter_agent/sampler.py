"""Makes a sample: runs the collectors one after the other and puts together what they yield."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from loiter.logs import fields
from loiter_agent.clock import since_boot
from loiter_agent.collectors.activity import ActivityCollector
from loiter_agent.collectors.host_fds import HostFdsCollector
from loiter_agent.collectors.processes import ProcessScan, ProcessScanner
from loiter_agent.collectors.tcp import open_tcp_collector
from loiter_agent.diagnosis import diagnose
from loiter_agent.identity import Identities
from loiter_agent.names import Names
from loiter_agent.procfs import Procfs
from loiter_agent.sample import (
    Activity,
    CloseWaitSockets,
    CollectorStatus,
    Cost,
    Coverage,
    Degradation,
    ProcessFds,
    ProcessRow,
    ProcessSockets,
    Sample,
    TcpCounts,
    TcpSnapshot,
    TcpStates,
)
from loiter_agent.selection import Candidate, remainder, select

if TYPE_CHECKING:
    from loiter_agent.socket_rows import Listing, Wanted

Section = TypeVar("Section")

# So many processes are looked into for why they do not close, those with the most CLOSE_WAIT sockets.
_MOST_SUSPECTS: Final = 50

_NO_COST: Final = Cost(0.0, 0.0, 0.0, None)  # until the tick is over

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many processes a sample reports: the `top` largest by each measure, and at most `limit` in all."""

    top: int = 10
    limit: int = 200


class Sampler:
    """Takes samples of this host. Not for use by two threads at once."""

    def __init__(
        self,
        procfs: Procfs,
        bounds: Bounds,
        interval: float = 10.0,
        arguments: bool = False,
        trace_closes: bool = True,
    ) -> None:
        """Opens what the collectors need. Never fails for lack of rights: the samples say what could not be read.

        Args:
            procfs: The procfs to read.
            bounds: How many processes to report.
            interval: Seconds between two samples.
            arguments: Whether samples carry the command lines of processes, which may hold secrets.
            trace_closes: Whether to trace who closes connections, where the kernel allows it.
        """
        self.bounds = bounds
        self._procfs = procfs
        self._processes = ProcessScanner(procfs)
        self._tcp = open_tcp_collector(procfs, interval, trace_closes)
        self._activity = ActivityCollector(procfs)
        self._host_fds = HostFdsCollector(procfs)
        self._identities = Identities(procfs, arguments)
        self._names = Names(self._identities)
        self._failing: set[str] = set()
        self._said_unreadable = False

    def sample(self, degradation: Degradation = Degradation.NONE) -> Sample:
        """Takes one sample. A collector that fails leaves its section empty and does not take the others down.

        What `degradation` leaves out is unknown, and is looked at anew when it is not left out any more.
        """
        boot, started = since_boot(), datetime.now(UTC)
        wall, cpu = time.monotonic(), time.thread_time()
        if degradation == Degradation.COUNTS_ONLY:
            sample = self._count(started)
        else:
            sample = self._look(started, detailed=degradation < Degradation.NO_DETAIL)
        cost = Cost(
            cpu_seconds=time.thread_time() - cpu,
            wall_seconds=time.monotonic() - wall,
            process_cpu_seconds=time.process_time(),
            resident_bytes=self._resident_bytes(),
        )
        return replace(sample, cost=cost, since_boot=boot, degradation=degradation)

    def _count(self, started: datetime) -> Sample:
        """Counts what is counted over the whole host, and forgets how processes were doing."""
        self._activity.collect(())
        statuses: list[CollectorStatus] = []
        tcp = self._run(statuses, self._tcp.name, self._tcp.count)
        host_fds = self._run(statuses, self._host_fds.name, self._host_fds.collect)
        return Sample(
            time=started,
            sampler=tcp.sampler if tcp else None,
            tcp_states=tcp.states if tcp else TcpStates(),
            host_fds=host_fds,
            processes=(),
            other=None,
            coverage=_coverage_of_counts(tcp),
            cost=_NO_COST,
            collectors=tuple(statuses),
        )

    def _look(self, started: datetime, detailed: bool) -> Sample:
        """Looks at sockets and at the processes that hold them."""
        statuses: list[CollectorStatus] = []
        scan = self._run(statuses, self._processes.name, self._processes.collect)
        self._say_what_is_not_seen(scan)
        known_scan = scan or ProcessScan({})
        tcp = self._run(statuses, self._tcp.name, lambda: self._tcp.collect(known_scan, detailed))
        host_fds = self._run(statuses, self._host_fds.name, self._host_fds.collect)
        read = {namespace.id for namespace in tcp.namespaces if namespace.read} if tcp else set()
        candidates = [Candidate(process, _sockets_of(process, tcp, read)) for process in known_scan.processes.values()]
        chosen = select(candidates, self.bounds.top, self.bounds.limit)
        if detailed:
            suspects = [candidate.key for candidate in chosen if candidate.close_wait][:_MOST_SUSPECTS]
            activities = self._run(statuses, self._activity.name, lambda: self._activity.collect(suspects)) or {}
        else:
            activities = self._activity.collect(())  # nothing, and forgets how they were doing
        names = self._names
        names.begin(known_scan)
        return Sample(
            time=started,
            sampler=tcp.sampler if tcp else None,
            tcp_states=tcp.states if tcp else TcpStates(),
            host_fds=host_fds,
            processes=tuple(self._row(candidate, activities.get(candidate.key)) for candidate in chosen),
            other=remainder(candidates, chosen) if scan else None,
            coverage=_coverage(scan, tcp),
            cost=_NO_COST,
            collectors=tuple(statuses),
            time_wait=names.time_wait(tcp.time_wait) if tcp and tcp.time_wait is not None else None,
            time_wait_limits=tcp.time_wait_limits if tcp else None,
            ports=tuple(names.port_row(budget) for budget in tcp.ports) if tcp and tcp.ports is not None else None,
            namespaces=tuple(names.namespace(namespace) for namespace in tcp.namespaces) if tcp else (),
        )

    def list_sockets(self, wanted: Wanted, due: Callable[[], bool]) -> Listing:
        """Lists sockets one by one, between two samples, and leaves no trace in the next.

        Raises:
            GaveWay: A sample is `due`.
            NothingListed: What is asked for can not be had; the message says why.
            OSError: The processes can not be listed.
        """
        scan = self._processes.collect()
        self._names.begin(scan)
        return self._tcp.list_sockets(scan, self._names, wanted, due)

    def configure(self, bounds: Bounds, interval: float, arguments: bool) -> None:
        """Changes settings between two samples. What is known of sockets and processes is kept."""
        self.bounds = bounds
        self._tcp.set_interval(interval)
        self._identities.configure(arguments)

    def close(self) -> None:
        """Lets go of what the collectors hold open."""
        self._tcp.close()

    def _run(self, statuses: list[CollectorStatus], name: str, collect: Callable[[], Section]) -> Section | None:
        started = time.monotonic()
        section, error = None, None
        try:
            section = collect()
            self._failing.discard(name)
        except Exception as failure:  # refused by the kernel, a file in a form we do not know, or a mistake of ours
            error = str(failure) or type(failure).__name__
            if name not in self._failing:  # said once, not on every tick
                known = isinstance(failure, (OSError, ValueError))
                facts = fields(collector=name, reason=error)
                _log.error("collector %s failed: %s", name, error, exc_info=None if known else failure, extra=facts)
                self._failing.add(name)
        statuses.append(CollectorStatus(name, time.monotonic() - started, error))
        return section

    def _say_what_is_not_seen(self, scan: ProcessScan | None) -> None:
        """Says in the log that there are processes which can not be looked into: once, and not once for each."""
        if scan is None or scan.unreadable == 0 or self._said_unreadable:
            return
        self._said_unreadable = True
        missing = "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH would allow it; what they hold is reported as unknown"
        if scan.unreadable is None:
            _log.warning("/proc hides the processes of other users (hidepid). %s", missing)
        else:
            _log.warning(
                "%d of %d processes can not be looked into. %s",
                scan.unreadable,
                len(scan.processes) + scan.unlisted,
                missing,
                extra=fields(unreadable=scan.unreadable),
            )

    def _row(self, candidate: Candidate, activity: Activity | None) -> ProcessRow:
        identity = self._names.of(candidate.key)
        sockets = candidate.sockets
        detail = sockets.detail if sockets else None
        cause, evidence = diagnose(detail, activity) if detail else (None, None)
        soft, hard = self._processes.fd_limits(candidate.key)
        nothing = () if sockets and not sockets.close_wait else None
        return ProcessRow(
            pid=candidate.key.pid,
            start_time=identity.start_time,
            name=identity.name,
            app=identity.app,
            user=identity.user,
            established=sockets.established if sockets else None,
            close_wait=sockets.close_wait if sockets else None,
            time_wait=sockets.time_wait if sockets else None,
            sockets=sockets.total if sockets else None,
            fd_open=candidate.process.fd_open,
            fd_limit=soft,
            fd_limit_hard=hard,
            cause=cause,
            evidence=evidence,
            close_wait_age_seconds=detail.ages if detail else None,
            stuck=detail.stuck if detail else 0 if nothing is not None else None,
            peers=detail.peers if detail else nothing,
            fd_eta_seconds=_fd_eta(candidate.process.fd_open, soft, detail),
            ports_share=sockets.ports_share if sockets else None,
            container=identity.container,
            arguments=identity.arguments,
            fd_socket_share=_fd_socket_share(candidate.process.fd_open, sockets),
        )

    def _resident_bytes(self) -> int | None:
        try:
            return self._procfs.resident_bytes()
        except OSError:
            return None


def _sockets_of(process: ProcessFds, tcp: TcpSnapshot | None, read: Collection[int]) -> ProcessSockets | None:
    """The sockets charged to a process: none charged means 0 only where its sockets were seen at all."""
    if tcp is None:
        return None
    found = tcp.by_process.get(process.key)
    seen = process.readable and process.namespace in read
    # That TIME_WAIT sockets were its own says nothing of those that it holds now.
    if found is None or not (seen or found.total or found.close_wait):
        found = ProcessSockets(time_wait=None if tcp.time_wait is None else 0) if seen else None
    if found is not None and found.time_wait == 0 and process.namespace in tcp.time_wait_nobodys:
        return replace(found, time_wait=None)  # those that are nobody's may be its
    return found


def _fd_socket_share(fd_open: int | None, sockets: ProcessSockets | None) -> float | None:
    """Share of the open descriptors that are TCP sockets. Connections that nobody accepted take none."""
    if not fd_open or sockets is None:
        return None
    unaccepted = sockets.detail.unaccepted if sockets.detail else 0
    # Counted a moment apart, there may be more sockets than descriptors.
    return min(1.0, (sockets.total - unaccepted) / fd_open)


def _fd_eta(fd_open: int | None, limit: int | None, detail: CloseWaitSockets | None) -> float | None:
    """Seconds until descriptors run out at the pace at which CLOSE_WAIT sockets came; None where they do not grow."""
    if fd_open is None or limit is None or detail is None or not detail.growth_per_second:
        return None
    return max(0.0, (limit - fd_open) / detail.growth_per_second)


def _coverage(scan: ProcessScan | None, tcp: TcpSnapshot | None) -> Coverage:
    hidden = scan is not None and scan.hides_most
    found = set(scan.namespaces) if scan else set()
    read = {namespace.id for namespace in tcp.namespaces if namespace.read} if tcp else set()
    if tcp and scan:  # without a scan, the namespaces of bind mounts are no more than some of them
        found |= {namespace.id for namespace in tcp.namespaces}
    return Coverage(
        sockets_attributed=tcp.attributed if tcp else None,
        sockets_unattributed=tcp.unattributed if tcp else None,
        sockets_ownerless=tcp.ownerless if tcp else None,
        close_wait_uncharged=tcp.close_wait_uncharged if tcp else None,
        processes=len(scan.processes) + scan.unlisted if scan else None,
        processes_unreadable=scan.unreadable if scan else None,
        processes_vanished=scan.vanished if scan else None,
        namespaces_by_procfs=sum(namespace.how == "procfs" for namespace in tcp.namespaces) if tcp else None,
        # Where processes are hidden, so are their namespaces.
        namespaces=len(found) if found and not hidden else None,
        namespaces_unread=len(found - read) if found and tcp and not hidden else None,
        dump_torn=tcp.torn if tcp else False,
    )


def _coverage_of_counts(tcp: TcpCounts | None) -> Coverage:
    """Where nothing but counts was asked for, all else is unknown."""
    return Coverage(
        sockets_attributed=None,
        sockets_unattributed=None,
        sockets_ownerless=None,
        close_wait_uncharged=None,
        processes=None,
        processes_unreadable=None,
        processes_vanished=None,
        namespaces=None,
        # Those that are known of: there may be more.
        namespaces_unread=(tcp.namespaces_unread or None) if tcp else None,
        dump_torn=tcp.torn if tcp else False,
    )
