"""Answers the questions of FleetService from the store.

Every method takes the request of the RPC of its name and returns the response. It raises InvalidRequest, NotFound,
Unavailable, Overloaded, TookTooLong or StoreError.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from loiter.limits import MAX_RANKING_ROWS
from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.version import version
from loiter_aggregator.clock import Clock, from_timestamp, to_duration, to_timestamp
from loiter_aggregator.explanation import explain, facts_of
from loiter_aggregator.fleet.errors import InvalidRequest, NotFound
from loiter_aggregator.fleet.messages import (
    app_rank,
    conflict,
    group_rank,
    history_response,
    host_rank,
    lost_message,
    no_rank,
    points,
    present,
    process_rank,
    unranked,
)
from loiter_aggregator.fleet.requests import (
    check_host_name,
    check_label,
    read_history,
    read_labels,
    read_ranking,
    read_window,
)
from loiter_aggregator.fleet.turns import QuestionCounts, Turns
from loiter_aggregator.host_detail import HostDetail, find_host, known_names, lost_samples
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.registry import Conflict
from loiter_aggregator.ranking.apps import app_trends, rank_apps
from loiter_aggregator.ranking.cause_counts import CauseCount, count_causes
from loiter_aggregator.ranking.fleet import (
    degraded_hosts,
    fleet_coverage,
    fleet_states,
    fleet_trend,
    losing_hosts,
    silent_hosts,
    skewed_hosts,
)
from loiter_aggregator.ranking.forecast import (
    Forecast,
    app_forecasts,
    first_to_run_out,
    forecasts_on_host,
    group_forecasts,
    host_forecasts,
    process_forecasts,
)
from loiter_aggregator.ranking.groups import group_trends, label_names, rank_groups
from loiter_aggregator.ranking.history import (
    History,
    app_history,
    host_history,
    process_history,
)
from loiter_aggregator.ranking.hosts import HostRow, host_labels, host_trends, rank_hosts
from loiter_aggregator.ranking.overflows import host_overflows
from loiter_aggregator.ranking.processes import ProcessRow, process_trends, rank_processes
from loiter_aggregator.ranking.query import Ranking
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.question import Question

_MAX_NAMED_HOSTS: Final = 1_000
_MAX_LOST_SAMPLES: Final = 100
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

    async def get_host(self, request: pb.GetHostRequest) -> pb.GetHostResponse:
        """Shows one host."""
        return await self._turns.answer(lambda store: self._get_host(store, request))

    async def explain_process(self, request: pb.ExplainProcessRequest) -> pb.ExplainProcessResponse:
        """Says why a process has the sockets that it has."""
        return await self._turns.answer(lambda store: self._explain_process(store, request))

    async def get_fleet(self, request: pb.GetFleetRequest) -> pb.GetFleetResponse:
        """Shows the fleet."""
        return await self._turns.answer(lambda store: self._get_fleet(store, request))

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
        return await self._turns.answer(lambda store: self._find_host(store, name))

    async def get_history(self, request: pb.GetHistoryRequest) -> pb.GetHistoryResponse:
        """Shows how figures went."""
        return await self._turns.answer(lambda store: self._get_history(store, request))

    def _get_history(self, store: Question, request: pb.GetHistoryRequest) -> pb.GetHistoryResponse:
        ranking, parts = read_history(request, self._clock())
        host = self._find_host(store, request.host) if request.host else None
        history = History(ranking, parts, None if host is None else host.host_key)
        on = "" if host is None else f" of {printable(host.host.hostname)}"
        if request.pid:
            values, what = process_history(store, history, request.pid), f"process {request.pid}"
        elif request.app:
            values, what = app_history(store, history, request.app), f"app {printable(request.app)!r}"
        else:
            values, what = host_history(store, history), "host"
        if values is None:
            raise NotFound(f"no {what}{on} has been reported")
        return history_response(ranking, parts, values)

    def _rank_hosts(self, store: Question, request: pb.RankHostsRequest) -> pb.RankHostsResponse:
        ranking = self._ranking(request.query)
        rows = rank_hosts(store, ranking)
        ahead = host_forecasts(store, ranking, [row.host_key for row in rows])
        return pb.RankHostsResponse(
            hosts=self._host_ranks(store, ranking, rows, ahead), coverage=self._coverage_of(store, ranking)
        )

    def _rank_processes(self, store: Question, request: pb.RankProcessesRequest) -> pb.RankProcessesResponse:
        ranking = _without_overflows(self._ranking(request.query))
        rows = rank_processes(store, ranking)
        ahead = process_forecasts(store, ranking, [row.series for row in rows])
        return pb.RankProcessesResponse(
            processes=self._process_ranks(store, ranking, rows, ahead), coverage=self._coverage_of(store, ranking)
        )

    def _rank_apps(self, store: Question, request: pb.RankAppsRequest) -> pb.RankAppsResponse:
        ranking = _without_overflows(self._ranking(request.query))
        rows = rank_apps(store, ranking)
        found = app_trends(store, ranking, rows)
        ahead = app_forecasts(store, ranking, [row.app for row in rows])
        return pb.RankAppsResponse(
            apps=[app_rank(row, ranking, found.get(row.app, ()), ahead.get(row.app)) for row in rows],
            coverage=self._coverage_of(store, ranking),
        )

    def _rank_groups(self, store: Question, request: pb.RankGroupsRequest) -> pb.RankGroupsResponse:
        ranking = _without_overflows(self._ranking(request.query))
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
            coverage=self._coverage_of(store, ranking),
        )

    def _get_host(self, store: Question, request: pb.GetHostRequest) -> pb.GetHostResponse:
        query = pb.RankingQuery(by=request.by, window=request.window, limit=request.limit)
        if request.HasField("end_time"):
            query.end_time.CopyFrom(request.end_time)
        ranking = _without_overflows(self._ranking(query, ""), "")
        detail = self._find_host(store, request.name)
        ahead = forecasts_on_host(store, ranking, detail.host_key)
        first = first_to_run_out(ahead)
        rows = rank_hosts(store, ranking, detail.host_key)
        ranked = self._host_ranks(store, ranking, rows, {detail.host_key: first} if first is not None else {})
        processes = rank_processes(store, ranking, detail.host_key)
        if detail.latest is not None:
            del detail.latest.processes[:]  # they are in the answer as what they come to over the window
        return pb.GetHostResponse(
            host=detail.host,
            rank=ranked[0] if ranked else no_rank(detail, ranking),
            last_report_time=to_timestamp(detail.last_seen),
            interval=to_duration(detail.interval_ms),
            latest=detail.latest,
            processes=self._process_ranks(store, ranking, processes, ahead),
            clock_skew=None if detail.skew is None else to_duration(detail.skew),
            latest_agent_time=None if detail.latest_agent_time is None else to_timestamp(detail.latest_agent_time),
            lost_samples=[
                lost_message(lost)
                for lost in lost_samples(
                    store, detail.host_key, ranking.since, _MAX_LOST_SAMPLES, ranking.now if ranking.past else None
                )
            ],
        )

    def _explain_process(self, store: Question, request: pb.ExplainProcessRequest) -> pb.ExplainProcessResponse:
        ranking = self._ranking(pb.RankingQuery(window=request.window, limit=MAX_RANKING_ROWS), "")
        detail = self._find_host(store, request.name)
        sample = detail.latest if detail.latest is not None else sample_pb2.Sample()
        process = next((one for one in sample.processes if one.pid == request.pid), None)
        if process is None and sample.degradation >= sample_pb2.DEGRADATION_COUNTS_ONLY:
            raise NotFound(
                f"the agent of {printable(detail.host.hostname)} leaves out processes for now, to keep within its "
                "processor budget; 'loiter host' shows them as they were last"
            )
        if process is None:
            raise NotFound(
                f"process {request.pid} is not in the latest sample of {printable(detail.host.hostname)}; "
                f"agents report the holders of CLOSE_WAIT sockets and the largest others"
            )
        series = (detail.host_key, process.pid, from_timestamp(process.start_time))
        rows = [row for row in rank_processes(store, ranking, detail.host_key) if row.series == series]
        ahead = forecasts_on_host(store, ranking, detail.host_key) if rows else {}
        rank = self._process_ranks(store, ranking, rows, ahead)[0] if rows else unranked(detail, process, ranking)
        facts = facts_of(sample, process, rank)
        found = explain(facts)
        return pb.ExplainProcessResponse(
            host=detail.host,
            rank=rank,
            latest=process,
            time_wait=facts.time_wait,
            ports=facts.ports,
            steps=[pb.ExplanationStep(question=step.question, finding=step.finding) for step in found.steps],
            commands=found.commands,
            remedies=found.remedies,
            verdict=found.verdict,
            unseen=found.unseen,
        )

    def _get_fleet(self, store: Question, request: pb.GetFleetRequest) -> pb.GetFleetResponse:
        now = self._clock()
        since = now - read_window(request.window, "window")
        labels = read_labels(request.labels, "labels")
        within = request.HasField("silent_within")
        silent_since = now - read_window(request.silent_within, "silent_within") if within else 0
        return pb.GetFleetResponse(
            tcp_states=sample_pb2.TcpStateCounts(**present(fleet_states(store, labels, now))),
            coverage=self._coverage(store, labels, now),
            silent_hosts=[
                pb.SilentHost(
                    host_id=host.host_id, hostname=host.hostname, last_report_time=to_timestamp(host.last_seen)
                )
                for host in silent_hosts(store, labels, now, _MAX_NAMED_HOSTS, silent_since)
            ],
            close_wait_trend=points(fleet_trend(store, labels, since, now, "close_wait"), since, now),
            time_wait_trend=points(fleet_trend(store, labels, since, now, "time_wait"), since, now),
            aggregator=pb.AggregatorStatus(
                version=version(),
                start_time=to_timestamp(self._counters.started),
                reports_stored=self._counters.stored,
                reports_duplicate=self._counters.duplicates,
                reports_rejected=self._counters.rejected,
                commits_failed=self._counters.failed_commits,
                streams=self._counters.streams,
                streams_overloaded=self._counters.streams_overloaded,
                calls_refused=self._counters.calls_refused,
                samples_lost=self._counters.samples_lost,
            ),
            losing_hosts=[
                pb.HostNotice(host_id=host.host_id, hostname=host.hostname, lost_samples=host.figure)
                for host in losing_hosts(store, labels, since, _MAX_NAMED_HOSTS)
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
            conflicts=[conflict(one) for one in self._latest_conflicts()],
        )

    def _latest_conflicts(self) -> list[Conflict]:
        return sorted(self._conflicts(), key=lambda one: one.last_time, reverse=True)[:_MAX_NAMED_HOSTS]

    def _find_host(self, store: Question, name: str) -> HostDetail:
        check_host_name(name)
        detail = find_host(store, name)
        if detail is None:
            raise NotFound(_unknown_host(name, known_names(store)))
        return detail

    def _host_ranks(
        self, store: Question, ranking: Ranking, rows: list[HostRow], ahead: Mapping[int, Forecast]
    ) -> list[pb.HostRank]:
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

    def _process_ranks(
        self,
        store: Question,
        ranking: Ranking,
        rows: list[ProcessRow],
        ahead: Mapping[tuple[int, int, int], Forecast],
    ) -> list[pb.ProcessRank]:
        found = process_trends(store, ranking, rows)
        return [process_rank(row, ranking, found.get(row.series, ()), ahead.get(row.series)) for row in rows]

    def _coverage_of(self, store: Question, ranking: Ranking) -> pb.FleetCoverage:
        return self._coverage(store, ranking.labels, ranking.now, ranking.since if ranking.past else None)

    def _coverage(
        self, store: Question, labels: Mapping[str, str], now: int, since: int | None = None
    ) -> pb.FleetCoverage:
        coverage = fleet_coverage(store, labels, now, since)
        return pb.FleetCoverage(
            hosts=coverage.hosts,
            hosts_reporting=coverage.hosts_reporting,
            hosts_silent=coverage.hosts_silent,
            hosts_unknown=coverage.hosts_unknown,
            sockets_attributed=coverage.sockets_attributed,
            sockets_unattributed=coverage.sockets_unattributed,
            processes_unreadable=coverage.processes_unreadable,
            namespaces_unread=coverage.namespaces_unread,
            namespaces_by_procfs=coverage.namespaces_by_procfs,
            close_wait_uncharged=coverage.close_wait_uncharged,
            hosts_degraded=coverage.hosts_degraded,
            hosts_skewed=coverage.hosts_skewed,
            hosts_losing=coverage.hosts_losing,
        )

    def _ranking(self, query: pb.RankingQuery, prefix: str = "query.") -> Ranking:
        return read_ranking(query, self._clock(), prefix)


def _without_overflows(ranking: Ranking, prefix: str = "query.") -> Ranking:
    """The ranking, where it is not by what only hosts have."""
    if ranking.by == "time_wait_overflows":
        raise InvalidRequest(f"{prefix}by: overflows of TIME_WAIT are of hosts alone")
    return ranking


def _labels_there_are(names: Sequence[str]) -> str:
    if not names:
        return "no host carries a label"
    more = " and others" if len(names) == _MAX_NAMED_LABELS else ""
    return f"hosts carry {', '.join(printable(name) for name in names)}{more}"


def _unknown_host(name: str, names: Sequence[str]) -> str:
    near = [printable(one) for one in difflib.get_close_matches(name, names, n=3, cutoff=0.5)]
    return f"no host {name!r} has reported" + (f"; did you mean {' or '.join(near)}?" if near else "")
