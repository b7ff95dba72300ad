"""What is wrong in a snapshot of the fleet: a finding for each application or host, and each kind of trouble. Pure.

A finding is `strong` where it is worth a report by itself. One that is not is kept while it was there before: what
hovers around a limit does not come and go from report to report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import cause_name, value
from loiter_aggregator.reports.snapshot import Period, Snapshot

MAX_NAMED_HOSTS: Final = 10
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Level:
    """Where a finding begins, and down to where one that was there goes on."""

    begins: float
    goes_on: float


# Sockets an hour, and how well a line fits them: a pool that fills and shrinks fits none.
_GROWTH: Final = Level(10, 5)
_FIT: Final = Level(0.6, 0.4)
# A pool of connections that lie idle fills up quickly, and then stays: it is to be a line.
_FIT_OF_POOL: Final = Level(0.9, 0.8)
# A slope of a few sockets an hour is none in a short period, nor is a steep one of a process that is seconds old: what
# it came to counts, too.
_RISE: Final = Level(10, 5)
_STUCK: Final = Level(20, 10)
_FD_SECONDS: Final = Level(3 * 86_400, 5 * 86_400)
_PORTS_SHARE: Final = Level(0.7, 0.6)


@dataclass(frozen=True, slots=True)
class Found:
    """A finding, and whether it is worth a report by itself."""

    finding: pb.Finding
    strong: bool


def find(snapshot: Snapshot) -> list[Found]:
    """Finds what is wrong."""
    by_app: dict[str, list[pb.ProcessRank]] = {}
    for process in snapshot.processes:
        by_app.setdefault(process.app, []).append(process)
    found: list[Found] = []
    for app in snapshot.apps:
        if app.app:
            of_app = by_app.get(app.app, [])
            found += filter(None, (_growth(app, of_app, snapshot.period), _stuck(app, of_app), _fd_eta(app, of_app)))
    for host in snapshot.hosts:
        if not host.silent:  # its figures are old: that it is silent is what there is to say
            found += filter(None, (look_at(host) for look_at in (_ports, _overflow)))
    found += (_silent(host, snapshot.period.end) for host in snapshot.silent)
    return found


def _growth(app: pb.AppRank, processes: Sequence[pb.ProcessRank], period: Period) -> Found | None:
    slope, fit = value(app.close_wait, "growth_per_hour"), value(app.close_wait, "growth_fit")
    if slope is None or fit is None:
        return None
    rise = min(slope * (period.end - period.start) / _HOUR_MS, app.close_wait.maximum)
    fits = _FIT_OF_POOL if app.cause == sample_pb2.CAUSE_IDLE_POOL else _FIT
    if slope < _GROWTH.goes_on or fit < fits.goes_on or rise < _RISE.goes_on:
        return None
    hosts = _hosts(_worst(processes, lambda one: one.close_wait.growth_per_hour))
    cause = _because(app.cause)
    now = cells.count(value(app.close_wait, "current"))
    return Found(
        pb.Finding(
            kind=pb.FINDING_KIND_CLOSE_WAIT_GROWTH,
            app=app.app,
            hostnames=hosts[:MAX_NAMED_HOSTS],
            hosts=_count(app, hosts),
            cause=app.cause,
            figure=slope,
            since_time=_since(app),
            summary=f"CLOSE_WAIT sockets of {printable(app.app)} grow by {cells.count(slope)} an hour "
            f"on {_where(app, hosts)}, {now} now{cause}.",
        ),
        strong=slope >= _GROWTH.begins and fit >= fits.begins and rise >= _RISE.begins,
    )


def _stuck(app: pb.AppRank, processes: Sequence[pb.ProcessRank]) -> Found | None:
    stuck = value(app, "stuck")
    # Sockets that lie in a pool until it looks again stay, too: it is their growth that would be wrong.
    if stuck is None or stuck < _STUCK.goes_on or app.cause == sample_pb2.CAUSE_IDLE_POOL:
        return None
    hosts = _hosts(_worst(processes, lambda one: one.stuck))
    return Found(
        pb.Finding(
            kind=pb.FINDING_KIND_STUCK,
            app=app.app,
            hostnames=hosts[:MAX_NAMED_HOSTS],
            hosts=_count(app, hosts),
            cause=app.cause,
            figure=stuck,
            since_time=_since(app),
            summary=f"{cells.count(stuck)} CLOSE_WAIT sockets of {printable(app.app)} are older than a minute, "
            f"on {_where(app, hosts)}{_because(app.cause)}.",
        ),
        strong=stuck >= _STUCK.begins,
    )


def _fd_eta(app: pb.AppRank, processes: Sequence[pb.ProcessRank]) -> Found | None:
    if not app.HasField("fd_forecast"):
        return None
    seconds = app.fd_forecast.seconds
    if seconds > _FD_SECONDS.goes_on:
        return None
    hosts = _hosts(_worst(processes, _urgency))
    first = f" on {printable(hosts[0])}" if hosts else ""
    ahead = f"in {cells.duration(seconds)}" if seconds > 0 else "now: none is left"
    return Found(
        pb.Finding(
            kind=pb.FINDING_KIND_FD_ETA,
            app=app.app,
            hostnames=hosts[:MAX_NAMED_HOSTS],
            hosts=_count(app, hosts),
            cause=app.cause,
            figure=seconds,
            summary=f"{printable(app.app)} runs out of file descriptors{first} {ahead}.",
        ),
        strong=seconds <= _FD_SECONDS.begins,
    )


def _urgency(process: pb.ProcessRank) -> float:
    """The sooner it has no descriptors left, the larger; 0 where that is not foreseen."""
    return 1 / (1 + process.fd_forecast.seconds) if process.HasField("fd_forecast") else 0.0


def _ports(host: pb.HostRank) -> Found | None:
    share = value(host, "ports_share")
    if share is None or share < _PORTS_SHARE.goes_on:
        return None
    return Found(
        _of_host(
            host.hostname,
            pb.FINDING_KIND_PORTS,
            share,
            f"{printable(host.hostname)} uses {cells.percent(share)} % of its ephemeral ports to one destination.",
        ),
        strong=share >= _PORTS_SHARE.begins,
    )


def _overflow(host: pb.HostRank) -> Found | None:
    overflows = value(host, "time_wait_overflows")
    if not overflows:
        return None
    return Found(
        _of_host(
            host.hostname,
            pb.FINDING_KIND_TIME_WAIT_OVERFLOW,
            overflows,
            f"{printable(host.hostname)} destroyed {cells.count(overflows)} TIME_WAIT sockets for want of room "
            "(tcp_max_tw_buckets).",
        ),
        strong=True,
    )


def _silent(host: pb.SilentHost, now: int) -> Found:
    seconds = max(0.0, (now - host.last_report_time.ToMilliseconds()) / 1_000)
    finding = _of_host(
        host.hostname,
        pb.FINDING_KIND_SILENT,
        seconds,
        f"{printable(host.hostname)} has not reported for {cells.duration(seconds)}.",
    )
    finding.since_time.CopyFrom(host.last_report_time)
    return Found(finding, strong=True)


def _of_host(hostname: str, kind: pb.FindingKind.ValueType, figure: float, summary: str) -> pb.Finding:
    return pb.Finding(kind=kind, hostnames=[hostname], hosts=1, figure=figure, summary=summary)


def _worst(processes: Sequence[pb.ProcessRank], figure: Callable[[pb.ProcessRank], float]) -> list[pb.ProcessRank]:
    """Those for which a figure is above zero, the largest first."""
    having = (one for one in processes if figure(one) > 0)
    return sorted(having, key=figure, reverse=True)


def _hosts(processes: Iterable[pb.ProcessRank]) -> list[str]:
    return list(dict.fromkeys(one.hostname for one in processes))


def _count(app: pb.AppRank, hosts: Sequence[str]) -> int:
    """How many hosts it is on: those of the processes that are known to have it, or else all of the application's."""
    return len(hosts) or app.hosts


def _where(app: pb.AppRank, hosts: Sequence[str]) -> str:
    if len(hosts) == 1:
        return printable(hosts[0])
    return f"{_count(app, hosts):,} hosts" if _count(app, hosts) != 1 else "1 host"


def _because(cause: sample_pb2.Cause.ValueType) -> str:
    name = cause_name(cause)
    return f" ({name})" if name else ""


def _since(app: pb.AppRank) -> Timestamp | None:
    """The part of the period in which the first of them were seen."""
    return next((point.start_time for point in app.close_wait.trend if point.value > 0), None)
