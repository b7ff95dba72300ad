"""Answers the questions of FleetService from the store.

Every method takes the request of the RPC of its name and returns the response. It raises InvalidRequest, NotFound,
Unavailable, Overloaded, TookTooLong or StoreError.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import Clock
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.fleet.explanation_answer import explanation_answer
from loiter_aggregator.fleet.figures_answer import app_figures, host_figures, process_figures
from loiter_aggregator.fleet.fleet_answer import fleet_answer
from loiter_aggregator.fleet.history_answer import history_answer
from loiter_aggregator.fleet.host_answer import host_answer
from loiter_aggregator.fleet.messages import app_rank, group_rank
from loiter_aggregator.fleet.named_host import named_host
from loiter_aggregator.fleet.ranks import coverage_of, host_ranks, process_ranks
from loiter_aggregator.fleet.requests import check_label, read_ranking, without_overflows
from loiter_aggregator.fleet.turns import QuestionCounts, Turns
from loiter_aggregator.host_detail import HostDetail
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.registry import Conflict
from loiter_aggregator.ranking.apps import app_trends, rank_apps
from loiter_aggregator.ranking.cause_counts import CauseCount, count_causes
from loiter_aggregator.ranking.forecast import app_forecasts, group_forecasts, host_forecasts, process_forecasts
from loiter_aggregator.ranking.groups import group_trends, label_names, rank_groups
from loiter_aggregator.ranking.hosts import rank_hosts
from loiter_aggregator.ranking.hosts_called import CalledHost, hosts_called
from loiter_aggregator.ranking.processes import rank_processes
from loiter_aggregator.ranking.query import Ranking
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.question import Question

_MAX_NAMED_LABELS: Final = 50
_QUERY_SECONDS: Final = 30.0


class Fleet:
    """Answers from the store."""

    def __init__(
        self,
        store: DuckDbStore,
        clock: Clock,
        counters: Counters,
        conflicts: Callable[[], Sequence[Conflict]] = lambda: (),
        query_seconds: float = _QUERY_SECONDS,
    ) -> None:
        """Takes the store to read from, the counters of what comes in, and what tells of two hosts with one id.

        A question may take `query_seconds`, from when it comes in.
        """
        self._counters = counters
        self._clock = clock
        self._conflicts = conflicts
        self._turns = Turns(store, query_seconds)

    async def rank_hosts(self, request: pb.RankHostsRequest) -> pb.RankHostsResponse:
        """Ranks hosts."""
        return await self._turns.answer(lambda store: self._rank_hosts(store, request))

    async def rank_processes(self, request: pb.RankProcessesRequest) -> pb.RankProcessesResponse:
        """Ranks processes."""
        return await self._turns.answer(lambda store: self._rank_processes(store, request))

    async def rank_apps(self, request: pb.RankAppsRequest) -> pb.RankAppsResponse:
        """Ranks applications."""
        return await self._turns.answer(lambda store: self._rank_apps(store, request))

    async def rank_groups(self, request: pb.RankGroupsRequest) -> pb.RankGroupsResponse:
        """Ranks groups of hosts."""
        return await self._turns.answer(lambda store: self._rank_groups(store, request))

    async def host_figures(
        self, query: pb.RankingQuery, host_ids: Collection[str] | None = None
    ) -> Sequence[pb.HostRank]:
        """Ranks hosts, of some alone where their ids are given, and says no more of them than what they come to."""
        return await self._turns.answer(lambda store: host_figures(store, self._clock(), query, host_ids))

    async def process_figures(
        self, query: pb.RankingQuery, host_ids: Collection[str] | None = None
    ) -> Sequence[pb.ProcessRank]:
        """Ranks processes, on some hosts alone where their ids are given, and says no more of them than that."""
        return await self._turns.answer(lambda store: process_figures(store, self._clock(), query, host_ids))

    async def app_figures(self, query: pb.RankingQuery, apps: Collection[str]) -> Sequence[pb.AppRank]:
        """Ranks some applications, by their names, and says no more of them than that and their forecasts."""
        return await self._turns.answer(lambda store: app_figures(store, self._clock(), query, apps))

    async def hosts_called(self, names: Collection[str], labels: Mapping[str, str]) -> list[CalledHost]:
        """Finds the hosts of some names, of those that carry the labels."""
        return await self._turns.answer(lambda store: hosts_called(store, names, labels, self._clock()))

    async def get_host(self, request: pb.GetHostRequest) -> pb.GetHostResponse:
        """Shows one host."""
        return await self._turns.answer(lambda store: host_answer(store, self._clock(), request))

    async def explain_process(self, request: pb.ExplainProcessRequest) -> pb.ExplainProcessResponse:
        """Says why a process has the sockets that it has."""
        return await self._turns.answer(lambda store: explanation_answer(store, self._clock(), request))

    async def get_fleet(self, request: pb.GetFleetRequest) -> pb.GetFleetResponse:
        """Shows the fleet."""
        return await self._turns.answer(
            lambda store: fleet_answer(store, self._clock(), request, self._counters, self._conflicts())
        )

    async def count_causes(self, window: float, labels: Mapping[str, str] | None = None) -> list[CauseCount]:
        """Adds up why CLOSE_WAIT sockets stay, of hosts with the labels and a sample within so many seconds."""
        now = self._clock()
        since = now - round(window * 1_000)
        return await self._turns.answer(lambda store: count_causes(store, since, now, labels or {}))

    @property
    def questions(self) -> QuestionCounts:
        """What became of the questions so far."""
        return self._turns.counts

    async def find_host(self, name: str) -> HostDetail:
        """Finds a host by its name or id. Raises InvalidRequest, NotFound, as the other methods do."""
        return await self._turns.answer(lambda store: named_host(store, name))

    async def get_history(self, request: pb.GetHistoryRequest) -> pb.GetHistoryResponse:
        """Shows how figures went."""
        return await self._turns.answer(lambda store: history_answer(store, self._clock(), request))

    def _rank_hosts(self, store: Question, request: pb.RankHostsRequest) -> pb.RankHostsResponse:
        ranking = self._ranking(request.query)
        rows = rank_hosts(store, ranking)
        ahead = host_forecasts(store, ranking, [row.host_key for row in rows])
        return pb.RankHostsResponse(hosts=host_ranks(store, ranking, rows, ahead), coverage=coverage_of(store, ranking))

    def _rank_processes(self, store: Question, request: pb.RankProcessesRequest) -> pb.RankProcessesResponse:
        ranking = without_overflows(self._ranking(request.query))
        rows = rank_processes(store, ranking)
        ahead = process_forecasts(store, ranking, [row.series for row in rows])
        return pb.RankProcessesResponse(
            processes=process_ranks(store, ranking, rows, ahead), coverage=coverage_of(store, ranking)
        )

    def _rank_apps(self, store: Question, request: pb.RankAppsRequest) -> pb.RankAppsResponse:
        ranking = without_overflows(self._ranking(request.query))
        rows = rank_apps(store, ranking)
        found = app_trends(store, ranking, rows)
        ahead = app_forecasts(store, ranking, [row.app for row in rows])
        return pb.RankAppsResponse(
            apps=[app_rank(row, ranking, found.get(row.app, ()), ahead.get(row.app)) for row in rows],
            coverage=coverage_of(store, ranking),
        )

    def _rank_groups(self, store: Question, request: pb.RankGroupsRequest) -> pb.RankGroupsResponse:
        ranking = without_overflows(self._ranking(request.query))
        if ranking.app:
            raise InvalidRequest("query.app can not be asked of groups; rank hosts, processes or apps by it")
        if not request.label:
            raise InvalidRequest(f"label is missing; {_labels_there_are(label_names(store, _MAX_NAMED_LABELS))}")
        check_label(request.label)
        rows = rank_groups(store, ranking, request.label)
        found = group_trends(store, ranking, request.label)
        ahead = group_forecasts(store, ranking, request.label)
        return pb.RankGroupsResponse(
            groups=[group_rank(row, ranking, found.get(row.value, ()), ahead.get(row.value)) for row in rows],
            coverage=coverage_of(store, ranking),
        )

    def _ranking(self, query: pb.RankingQuery) -> Ranking:
        return read_ranking(query, self._clock())


def _labels_there_are(names: Sequence[str]) -> str:
    if not names:
        return "no host carries a label"
    more = " and others" if len(names) == _MAX_NAMED_LABELS else ""
    return f"hosts carry {', '.join(printable(name) for name in names)}{more}"
