"""Answers what is asked again and again, such as by alerts: rankings with figures alone.

Without trends, labels and coverage, and with forecasts and overflows only where it is ranked by them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.fleet.messages import app_rank, host_rank, process_rank
from loiter_aggregator.fleet.requests import read_ranking, without_overflows
from loiter_aggregator.ranking.apps import rank_apps
from loiter_aggregator.ranking.fleet import is_silent
from loiter_aggregator.ranking.forecast import app_forecasts, host_forecasts
from loiter_aggregator.ranking.hosts import rank_hosts
from loiter_aggregator.ranking.overflows import host_overflows
from loiter_aggregator.ranking.processes import rank_processes
from loiter_aggregator.ranking.query import Ranking
from loiter_aggregator.ranking.running_out import RunningOut, running_out
from loiter_aggregator.store.batch import key_of
from loiter_aggregator.store.question import Question


def host_figures(
    store: Question, now: int, query: pb.RankingQuery, host_ids: Collection[str] | None
) -> list[pb.HostRank]:
    """Ranks hosts. Raises InvalidRequest, StoreError."""
    ranking = _of(read_ranking(query, now), host_ids)
    rows = rank_hosts(store, ranking)
    keys = [row.host_key for row in rows]
    ahead = host_forecasts(store, ranking, keys) if ranking.by == "fd_eta" else {}
    overflows = host_overflows(store, ranking, keys) if ranking.by == "time_wait_overflows" else {}
    return [host_rank(row, ranking, (), ahead.get(row.host_key), {}, overflows.get(row.host_key)) for row in rows]


def process_figures(
    store: Question, now: int, query: pb.RankingQuery, host_ids: Collection[str] | None
) -> list[pb.ProcessRank]:
    """Ranks processes; by the time that their file descriptors last, only those that run out, with that alone.

    Raises InvalidRequest, StoreError.
    """
    ranking = _of(without_overflows(read_ranking(query, now)), host_ids)
    if ranking.by == "fd_eta":
        return [_running_out(one, ranking.now) for one in running_out(store, ranking)]
    return [process_rank(row, ranking, (), None) for row in rank_processes(store, ranking)]


def app_figures(store: Question, now: int, query: pb.RankingQuery, apps: Collection[str]) -> list[pb.AppRank]:
    """Ranks some applications, with their forecasts. Raises InvalidRequest, StoreError."""
    ranking = replace(without_overflows(read_ranking(query, now)), apps=frozenset(apps))
    rows = rank_apps(store, ranking)
    ahead = app_forecasts(store, ranking, [row.app for row in rows])
    return [app_rank(row, ranking, (), ahead.get(row.app)) for row in rows]


def _of(ranking: Ranking, host_ids: Collection[str] | None) -> Ranking:
    return ranking if host_ids is None else replace(ranking, hosts=frozenset(map(key_of, host_ids)))


def _running_out(one: RunningOut, now: int) -> pb.ProcessRank:
    return pb.ProcessRank(
        host_id=one.host_id,
        hostname=one.hostname,
        pid=one.pid,
        start_time=to_timestamp(one.start_time),
        name=one.name,
        app=one.app,
        silent=is_silent(one.last_seen, one.interval_ms, now),
        cause=one.cause or sample_pb2.CAUSE_UNSPECIFIED,
        fd_forecast=pb.FdForecast(seconds=one.fd_eta),
    )
