"""What an answer says of the hosts and processes that were ranked, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.fleet.messages import host_rank, process_rank
from loiter_aggregator.ranking.fleet import fleet_coverage
from loiter_aggregator.ranking.forecast import Forecast
from loiter_aggregator.ranking.hosts import HostRow, host_labels, host_trends
from loiter_aggregator.ranking.overflows import host_overflows
from loiter_aggregator.ranking.processes import ProcessRow, process_trends
from loiter_aggregator.ranking.query import Ranking
from loiter_aggregator.store.question import Question


def host_ranks(
    store: Question, ranking: Ranking, rows: list[HostRow], ahead: Mapping[int, Forecast]
) -> list[pb.HostRank]:
    """Hosts with their trends and labels, and the forecasts that were made, by host key."""
    found = host_trends(store, ranking, rows)
    labels = host_labels(store, rows)
    overflows = host_overflows(store, ranking, [row.host_key for row in rows])
    return [
        host_rank(
            row,
            ranking,
            found.get(row.host_key, ()),
            ahead.get(row.host_key),
            labels.get(row.host_key, {}),
            overflows.get(row.host_key),
        )
        for row in rows
    ]


def process_ranks(
    store: Question, ranking: Ranking, rows: list[ProcessRow], ahead: Mapping[tuple[int, int, int], Forecast]
) -> list[pb.ProcessRank]:
    """Processes with their trends, and the forecasts that were made, by series."""
    found = process_trends(store, ranking, rows)
    return [process_rank(row, ranking, found.get(row.series, ()), ahead.get(row.series)) for row in rows]


def coverage_of(store: Question, ranking: Ranking) -> pb.FleetCoverage:
    """What a ranking rests on."""
    return coverage(store, ranking.labels, ranking.now, ranking.since if ranking.past else None)


def coverage(store: Question, labels: Mapping[str, str], now: int, since: int | None = None) -> pb.FleetCoverage:
    """What is known of the hosts with the labels: now, or of a window in the past that began at `since`."""
    found = fleet_coverage(store, labels, now, since)
    return pb.FleetCoverage(
        hosts=found.hosts,
        hosts_reporting=found.hosts_reporting,
        hosts_silent=found.hosts_silent,
        hosts_unknown=found.hosts_unknown,
        sockets_attributed=found.sockets_attributed,
        sockets_unattributed=found.sockets_unattributed,
        processes_unreadable=found.processes_unreadable,
        namespaces_unread=found.namespaces_unread,
        namespaces_by_procfs=found.namespaces_by_procfs,
        close_wait_uncharged=found.close_wait_uncharged,
        hosts_degraded=found.hosts_degraded,
        hosts_skewed=found.hosts_skewed,
        hosts_losing=found.hosts_losing,
    )
