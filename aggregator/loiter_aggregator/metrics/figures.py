"""Asks for the figures of the fleet that are to be scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from google.protobuf.duration_pb2 import Duration

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.fleet.reading import Reading
from loiter_aggregator.ranking.cause_counts import CauseCount

Row = TypeVar("Row", pb.HostRank, pb.AppRank)

# The totals are of now: the window is for trends, which are not asked for here.
_TOTALS_WINDOW: Final = Duration(seconds=60)
# The latest runs of reports, in which there is one of every schedule as a rule.
_RUNS: Final = 100


@dataclass(frozen=True, slots=True)
class Figures:
    """The fleet at a time: totals, the worst hosts and applications, causes, alerts, reports."""

    fleet: pb.GetFleetResponse
    hosts: Sequence[pb.HostRank]
    apps: Sequence[pb.AppRank]
    causes: Sequence[CauseCount]
    alerts: pb.ListAlertsResponse
    reports: pb.ListReportsResponse


@dataclass(frozen=True, slots=True)
class _Measure:
    """A ranking to take the worst of, whether a row belongs there at all, and whether applications have it."""

    by: pb.RankBy.ValueType
    belongs: Callable[[Any], bool]
    of_apps: bool = True


# A row is no worse than others by what it does not have.
_MEASURES: Final = (
    _Measure(pb.RANK_BY_CLOSE_WAIT_GROWTH, lambda row: row.close_wait.HasField("current")),
    _Measure(pb.RANK_BY_TIME_WAIT_MAX, lambda row: row.HasField("time_wait")),
    _Measure(pb.RANK_BY_FD_ETA, lambda row: row.HasField("fd_forecast")),
    _Measure(pb.RANK_BY_PORTS, lambda row: row.HasField("ports_share")),
    _Measure(pb.RANK_BY_TIME_WAIT_OVERFLOWS, lambda row: row.time_wait_overflows > 0, of_apps=False),
)


async def ask(fleet: Fleet, reading: Reading | None, top: int, window: float) -> Figures:
    """Asks one question after the other, so that people's questions find room beside them.

    Args:
        fleet: Whom to ask.
        reading: What knows the alerts and the reports; without, there are none.
        top: How many rows to take of each ranking.
        window: How far back rankings look, in seconds.

    Raises:
        Overloaded, TookTooLong, StoreError: As the questions have it.
    """
    hosts: list[pb.HostRank] = []
    apps: list[pb.AppRank] = []
    for measure in _MEASURES:
        query = pb.RankingQuery(by=measure.by, limit=top, window=Duration(seconds=round(window)))
        host_ranks = await fleet.rank_hosts(pb.RankHostsRequest(query=query))
        hosts += [row for row in host_ranks.hosts if measure.belongs(row)]
        if measure.of_apps:
            app_ranks = await fleet.rank_apps(pb.RankAppsRequest(query=query))
            apps += [row for row in app_ranks.apps if measure.belongs(row)]
    return Figures(
        fleet=await fleet.get_fleet(pb.GetFleetRequest(window=_TOTALS_WINDOW)),
        # What a silent host said last is not how it is.
        hosts=_once((row.host_id, row) for row in hosts if not row.silent),
        apps=_once((row.app, row) for row in apps),
        causes=await fleet.count_causes(window),
        alerts=await reading.alerts.list_alerts(pb.ListAlertsRequest()) if reading else pb.ListAlertsResponse(),
        reports=await reading.reports.list_reports(pb.ListReportsRequest(limit=_RUNS))
        if reading
        else pb.ListReportsResponse(),
    )


def _once(rows: Iterable[tuple[str, Row]]) -> list[Row]:
    found: Mapping[str, Row] = dict(rows)
    return list(found.values())
