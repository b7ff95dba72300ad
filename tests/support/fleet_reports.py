"""Reports of a fleet as they are rendered, made by hand, with names that nobody should trust."""

from __future__ import annotations

from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from support.reports import HOUR, MINUTE, NOW, lasting, stamp

HOSTILE: Final = "<script>alert(1)</script>\x1b[2J=cmd()"
HOSTILE_LINKS: Final = "*_x_* [a](http://evil.example) <!channel> @here `b` |c|\r\nBcc: evil@example.net ﷽"
_DAY: Final = 24 * HOUR
PAGE: Final = "https://loiter.example"


def _trend(*values: float) -> list[pb.TrendPoint]:
    return [
        pb.TrendPoint(start_time=stamp(NOW - _DAY + at * _DAY // len(values)), value=one)
        for at, one in enumerate(values)
    ]


def _close_wait(now: int, growth: float) -> pb.CloseWaitTrend:
    part = [now * at // 20 for at in range(1, 21)]
    return pb.CloseWaitTrend(
        current=now, maximum=now, growth_per_hour=growth, growth_fit=0.98, samples=8_640, trend=_trend(*part)
    )


def _finding(
    kind: pb.FindingKind.ValueType,
    change: pb.FindingChange.ValueType,
    name: str,
    summary: str,
    figure: float | None = None,
    before: float | None = None,
) -> pb.Finding:
    of_host = kind in (
        pb.FINDING_KIND_PORTS,
        pb.FINDING_KIND_SILENT,
        pb.FINDING_KIND_TIME_WAIT_OVERFLOW,
    )
    return pb.Finding(
        kind=kind,
        change=change,
        app="" if of_host else name,
        hostnames=[name] if of_host else ["web-1", "web-2"],
        hosts=1 if of_host else 2,
        cause=sample_pb2.CAUSE_LEAK,
        figure=figure,
        before=before,
        since_time=stamp(NOW - 3 * HOUR),
        summary=summary,
        url=f"{PAGE}/app?name=a%26b&window=1d",
    )


def fleet_report(name: str = "order-api.service", *, compared: bool = True) -> pb.FleetReport:
    """A report in which everything has a name of one's choice that a host may choose."""
    new, worse = pb.FINDING_CHANGE_NEW, pb.FINDING_CHANGE_WORSE
    findings = [
        _finding(pb.FINDING_KIND_FD_ETA, new, name, f"{name} runs out of file descriptors on web-1 in 3h 10m.", 11_400),
        _finding(
            pb.FINDING_KIND_CLOSE_WAIT_GROWTH,
            new,
            name,
            f"CLOSE_WAIT sockets of {name} grow by 1,234 an hour on 2 hosts, 29,616 now (leak).",
            1_234,
        ),
        _finding(pb.FINDING_KIND_PORTS, worse, name, f"{name} uses 92.0 % of its ephemeral ports.", 0.92, 0.7),
        _finding(
            pb.FINDING_KIND_STUCK,
            pb.FINDING_CHANGE_UNCHANGED,
            "search.service",
            "159 CLOSE_WAIT sockets of search.service stay, on web-3 (stalled_reader).",
            159,
            150,
        ),
        _finding(
            pb.FINDING_KIND_SILENT,
            pb.FINDING_CHANGE_RESOLVED,
            "db-7",
            "db-7: it reports again.",
            before=7_200,
        ),
        _finding(
            pb.FINDING_KIND_STUCK,
            pb.FINDING_CHANGE_UNSPECIFIED,
            "billing.service",
            "Of billing.service it is not known whether this goes on: db-9 is silent.",
            before=80,
        ),
    ]
    step = _DAY // 120
    return pb.FleetReport(
        title="Fleet report",
        start_time=stamp(NOW - _DAY),
        end_time=stamp(NOW),
        next_time=stamp(NOW + _DAY),
        compared_time=stamp(NOW - _DAY) if compared else None,
        labels={"role": name},
        findings=findings,
        hosts=[
            pb.HostRank(
                host_id=f"{at:032x}",
                hostname=f"web-{at}" if at > 1 else name,
                last_report_time=stamp(NOW - MINUTE),
                close_wait=_close_wait(30_000 // at, 1_250 / at),
                time_wait=pb.TimeWaitVolume(current=900, mean=870.5, maximum=1_900),
                cause=sample_pb2.CAUSE_LEAK,
                stuck=29_000 // at,
                ports_share=0.92 / at,
                labels={"role": name},
            )
            for at in range(1, 6)
        ],
        processes=[
            pb.ProcessRank(
                host_id=f"{at:032x}",
                hostname=f"web-{at}",
                pid=4_000 + at,
                name=name,
                app=name if at == 1 else f"service-{at}.service",
                user=name,
                close_wait=_close_wait(15_000 // at, 640 / at),
                fd_open=15_100 // at,
                fd_limit=20_000,
                fd_share=0.75 / at,
                cause=sample_pb2.CAUSE_LEAK,
                stuck=15_000 // at,
                fd_forecast=pb.FdForecast(seconds=11_400.0 * at, earliest_seconds=9_000, growth_per_hour=700),
            )
            for at in range(1, 6)
        ],
        apps=[
            pb.AppRank(
                app=name if at == 1 else f"service-{at}.service",
                hosts=2 * at,
                processes=3 * at,
                close_wait=_close_wait(29_616 // at, 1_234 / at),
                fd_share=0.75 / at,
                cause=sample_pb2.CAUSE_LEAK if at % 2 else sample_pb2.CAUSE_STALLED_READER,
                stuck=29_500 // at,
            )
            for at in range(1, 6)
        ],
        causes=[
            pb.CauseCount(cause=sample_pb2.CAUSE_LEAK, close_wait=44_000, processes=6),
            pb.CauseCount(cause=sample_pb2.CAUSE_STALLED_READER, close_wait=159, processes=1),
            pb.CauseCount(cause=sample_pb2.CAUSE_IDLE_POOL, close_wait=12, processes=9),
        ],
        history=pb.GetHistoryResponse(
            start_time=stamp(NOW - _DAY),
            step=lasting(step),
            series=[
                _series("close_wait", [250.0 * at if at < 60 or at > 66 else None for at in range(120)]),
                _series("stuck", [240.0 * max(0, at - 5) if at < 60 or at > 66 else None for at in range(120)]),
                _series("time_wait", [900.0 + 300 * (at % 24) for at in range(120)]),
            ],
        ),
        coverage=pb.FleetCoverage(
            hosts=6, hosts_reporting=5, hosts_silent=1, sockets_attributed=51_000, sockets_unattributed=12
        ),
        silent_hosts=[pb.SilentHost(host_id="9" * 32, hostname=name, last_report_time=stamp(NOW - 2 * HOUR))],
        url=f"{PAGE}/?window=1d&until=2027-01-15T08%3A00%3A00Z",
        version="0.2.0",
    )


def _series(name: str, values: list[float | None]) -> pb.HistorySeries:
    return pb.HistorySeries(name=name, values=[pb.HistoryValue(value=one) for one in values])
