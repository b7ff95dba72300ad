"""Answers GetFleet: the totals, what they rest on, and the hosts that something is the matter with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.version import version
from loiter_aggregator.clock import to_duration, to_timestamp
from loiter_aggregator.fleet.messages import conflict, points, present
from loiter_aggregator.fleet.ranks import coverage
from loiter_aggregator.fleet.requests import read_labels, read_window
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.registry import Conflict
from loiter_aggregator.ranking.fleet import (
    degraded_hosts,
    fleet_states,
    fleet_trend,
    losing_hosts,
    silent_hosts,
    skewed_hosts,
)
from loiter_aggregator.store.question import Question

# Of each kind.
_MAX_NAMED_HOSTS: Final = 1_000


def fleet_answer(
    store: Question, now: int, request: pb.GetFleetRequest, counters: Counters, conflicts: Sequence[Conflict]
) -> pb.GetFleetResponse:
    """Shows the fleet at `now`. Raises InvalidRequest, StoreError."""
    since = now - read_window(request.window, "window")
    labels = read_labels(request.labels, "labels")
    within = request.HasField("silent_within")
    silent_since = now - read_window(request.silent_within, "silent_within") if within else 0
    return pb.GetFleetResponse(
        tcp_states=sample_pb2.TcpStateCounts(**present(fleet_states(store, labels, now))),
        coverage=coverage(store, labels, now),
        silent_hosts=[
            pb.SilentHost(host_id=host.host_id, hostname=host.hostname, last_report_time=to_timestamp(host.last_seen))
            for host in silent_hosts(store, labels, now, _MAX_NAMED_HOSTS, silent_since)
        ],
        close_wait_trend=points(fleet_trend(store, labels, since, now, "close_wait"), since, now),
        time_wait_trend=points(fleet_trend(store, labels, since, now, "time_wait"), since, now),
        aggregator=_status(counters),
        losing_hosts=[
            pb.HostNotice(host_id=host.host_id, hostname=host.hostname, lost_samples=host.figure)
            for host in losing_hosts(store, labels, since, now, _MAX_NAMED_HOSTS)
        ],
        skewed_hosts=[
            pb.HostNotice(host_id=host.host_id, hostname=host.hostname, clock_skew=to_duration(host.figure or 0))
            for host in skewed_hosts(store, labels, now, _MAX_NAMED_HOSTS)
        ],
        degraded_hosts=[
            pb.HostNotice(
                host_id=host.host_id,
                hostname=host.hostname,
                degradation=sample_pb2.Degradation.ValueType(host.figure or 0),
            )
            for host in degraded_hosts(store, labels, now, _MAX_NAMED_HOSTS)
        ],
        conflicts=[conflict(one) for one in _latest(conflicts)],
    )


def _status(counters: Counters) -> pb.AggregatorStatus:
    return pb.AggregatorStatus(
        version=version(),
        start_time=to_timestamp(counters.started),
        reports_stored=counters.stored,
        reports_duplicate=counters.duplicates,
        reports_rejected=counters.rejected,
        commits_failed=counters.failed_commits,
        streams=counters.streams,
        streams_overloaded=counters.streams_overloaded,
        calls_refused=counters.calls_refused,
        samples_lost=counters.samples_lost,
    )


def _latest(conflicts: Sequence[Conflict]) -> list[Conflict]:
    return sorted(conflicts, key=lambda one: one.last_time, reverse=True)[:_MAX_NAMED_HOSTS]
