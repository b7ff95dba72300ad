"""Answers GetHost: one host, its place among hosts, and its processes."""

from __future__ import annotations

from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import to_duration, to_timestamp
from loiter_aggregator.fleet.messages import lost_message, no_rank
from loiter_aggregator.fleet.named_host import named_host
from loiter_aggregator.fleet.ranks import host_ranks, process_ranks
from loiter_aggregator.fleet.requests import read_ranking, without_overflows
from loiter_aggregator.host_detail import lost_samples
from loiter_aggregator.ranking.forecast import first_to_run_out, forecasts_on_host
from loiter_aggregator.ranking.hosts import rank_hosts
from loiter_aggregator.ranking.processes import rank_processes
from loiter_aggregator.store.question import Question

_MAX_LOST_SAMPLES: Final = 100


def host_answer(store: Question, now: int, request: pb.GetHostRequest) -> pb.GetHostResponse:
    """Shows one host at `now`, or as it was at the end of a window. Raises InvalidRequest, NotFound, StoreError."""
    query = pb.RankingQuery(by=request.by, window=request.window, limit=request.limit)
    if request.HasField("end_time"):
        query.end_time.CopyFrom(request.end_time)
    ranking = without_overflows(read_ranking(query, now, ""), "")
    detail = named_host(store, request.name)
    ahead = forecasts_on_host(store, ranking, detail.host_key)
    first = first_to_run_out(ahead)
    rows = rank_hosts(store, ranking, detail.host_key)
    ranked = host_ranks(store, ranking, rows, {detail.host_key: first} if first is not None else {})
    processes = rank_processes(store, ranking, detail.host_key)
    if detail.latest is not None:
        del detail.latest.processes[:]  # they are in the answer as what they come to over the window
    return pb.GetHostResponse(
        host=detail.host,
        rank=ranked[0] if ranked else no_rank(detail, ranking),
        last_report_time=to_timestamp(detail.last_seen),
        interval=to_duration(detail.interval_ms),
        latest=detail.latest,
        processes=process_ranks(store, ranking, processes, ahead),
        clock_skew=None if detail.skew is None else to_duration(detail.skew),
        latest_agent_time=None if detail.latest_agent_time is None else to_timestamp(detail.latest_agent_time),
        lost_samples=[
            lost_message(lost)
            for lost in lost_samples(store, detail.host_key, ranking.since, ranking.now, _MAX_LOST_SAMPLES)
        ],
    )
