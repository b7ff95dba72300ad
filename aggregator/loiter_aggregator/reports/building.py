"""Builds a report: asks the fleet, finds what is wrong, and compares it with before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from loiter.limits import MAX_WINDOW_SECONDS
from loiter.v1 import fleet_service_pb2 as pb
from loiter.version import version
from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.links import Links, app_page, fleet_page, host_page
from loiter_aggregator.reports.difference import Before, before_with, compare
from loiter_aggregator.reports.findings import find
from loiter_aggregator.reports.looking_again import look_again
from loiter_aggregator.reports.not_known import not_known
from loiter_aggregator.reports.snapshot import (
    Period,
    Snapshot,
    take_earlier_snapshot,
    take_history,
    take_snapshot,
)

# What a report names; and what is remembered of it, to be compared with.
_MAX_FINDINGS: Final = 1_000
_MAX_REMEMBERED: Final = 10_000
_MAX_SILENT: Final = 100
_MIN_PERIOD_MS: Final = 60_000
_MAX_PERIOD_MS: Final = round(MAX_WINDOW_SECONDS * 1_000)
# With fewer samples than this share of today's, the store does not reach back as far as there would be to compare with.
_REACHES_BACK: Final = 0.5


@dataclass(frozen=True, slots=True)
class Order:
    """What report to build. Times are in milliseconds since the epoch; `next_due` is that of the next, if any."""

    title: str
    start: int
    end: int
    labels: Mapping[str, str]
    limit: int
    next_due: int | None = None

    @property
    def period(self) -> Period:
        """What it is about. No shorter than can be told a trend by, no longer than can be asked for."""
        start = min(self.start, self.end - _MIN_PERIOD_MS)
        return Period(max(start, self.end - _MAX_PERIOD_MS), self.end, self.labels)


async def build(fleet: Fleet, links: Links, order: Order, before: Before | None) -> pb.FleetReport:
    """Builds a report that compares with `before`, if there is one. Raises as the methods of Fleet do.

    It has all findings, to be remembered; `shortened` is for people.
    """
    snapshot = await take_snapshot(fleet, order.period)
    if before is not None:
        snapshot = await look_again(fleet, snapshot, before.findings.values())
    history = await take_history(fleet, order.period)
    return await asyncio.to_thread(_report, snapshot, history, before, order, links)


async def build_unscheduled(fleet: Fleet, links: Links, order: Order) -> pb.FleetReport:
    """Builds a report that compares with the period before, where the store reaches back so far."""
    snapshot = await take_snapshot(fleet, order.period)
    history = await take_history(fleet, order.period)
    length = order.period.end - order.period.start
    earlier = await take_earlier_snapshot(
        fleet, Period(order.period.start - length, order.period.start, order.period.labels, past=True)
    )
    before = None
    if earlier.samples > 0 and earlier.samples >= _REACHES_BACK * snapshot.samples:
        before = await asyncio.to_thread(_before, earlier)
        snapshot = await look_again(fleet, snapshot, before.findings.values())
    return await asyncio.to_thread(_report, snapshot, history, before, order, links)


def shortened(report: pb.FleetReport) -> pb.FleetReport:
    """A report as it is sent and shown: of very many findings the first."""
    if len(report.findings) <= _MAX_FINDINGS:
        return report
    short = pb.FleetReport()
    short.CopyFrom(report)
    del short.findings[_MAX_FINDINGS:]
    return short


def _before(earlier: Snapshot) -> Before:
    before = before_with(earlier.period.end, [one.finding for one in find(earlier) if one.strong])
    return replace(before, silent=frozenset(host.hostname for host in earlier.hosts if host.silent))


def _report(
    snapshot: Snapshot, history: pb.GetHistoryResponse, before: Before | None, order: Order, links: Links
) -> pb.FleetReport:
    unknown = {} if before is None else not_known(before, snapshot)
    findings = compare(find(snapshot), before, unknown)[:_MAX_REMEMBERED]
    window = _window(snapshot.period)
    for finding in findings:
        page = (
            app_page(finding.app, **window) if finding.app else host_page(next(iter(finding.hostnames), ""), **window)
        )
        finding.url = links.to(page)
    period = snapshot.period
    return pb.FleetReport(
        title=order.title,
        start_time=to_timestamp(period.start),
        end_time=to_timestamp(period.end),
        next_time=None if order.next_due is None else to_timestamp(order.next_due),
        compared_time=None if before is None else to_timestamp(before.time),
        labels=period.labels,
        findings=findings,
        hosts=sorted(snapshot.hosts, key=_by_growth, reverse=True)[: order.limit],
        processes=sorted(snapshot.processes, key=_by_growth, reverse=True)[: order.limit],
        apps=sorted(snapshot.apps, key=_by_growth, reverse=True)[: order.limit],
        causes=[
            pb.CauseCount(cause=one.cause, close_wait=one.close_wait, processes=one.processes)
            for one in snapshot.causes
        ],
        history=history,
        coverage=snapshot.coverage,
        silent_hosts=snapshot.silent[:_MAX_SILENT],
        url=links.to(fleet_page(**window)),
        version=version(),
    )


def _by_growth(rank: pb.HostRank | pb.ProcessRank | pb.AppRank) -> tuple[float, int]:
    trend = rank.close_wait
    return (trend.growth_per_hour if trend.HasField("growth_per_hour") else float("-inf")), trend.current


def _window(period: Period) -> dict[str, str]:
    seconds = round((period.end - period.start) / 1_000)
    unit, size = next(
        (unit, size) for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)) if not seconds % size
    )
    until = datetime.fromtimestamp(period.end / 1_000, UTC)
    return {"window": f"{seconds // size}{unit}", "until": until.isoformat(timespec="seconds").replace("+00:00", "Z")}
