"""Serves FleetService: turns requests into rankings and rankings into messages."""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from loiter.durations import format_duration
from loiter.limits import (
    LABEL_KEY_PATTERN,
    MAX_LABEL_KEY_CHARS,
    MAX_LABELS,
    MAX_RANKING_ROWS,
    MAX_STRING_CHARS,
    MAX_WINDOW_SECONDS,
)
from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.v1.fleet_service_pb2_grpc import FleetServiceServicer
from loiter.version import version
from loiter_aggregator.clock import Clock, from_duration, from_timestamp, to_duration, to_timestamp
from loiter_aggregator.explanation import explain, facts_of
from loiter_aggregator.host_detail import HostDetail, LostSamples, find_host, known_names, lost_samples
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.registry import Conflict
from loiter_aggregator.ranking.apps import AppRow, app_trends, rank_apps
from loiter_aggregator.ranking.fleet import (
    degraded_hosts,
    fleet_coverage,
    fleet_states,
    fleet_trend,
    is_silent,
    losing_hosts,
    silent_hosts,
    skewed_hosts,
)
from loiter_aggregator.ranking.forecast import (
    Forecast,
    app_forecasts,
    group_forecasts,
    host_forecasts,
    process_forecasts,
)
from loiter_aggregator.ranking.groups import GroupRow, group_trends, label_names, rank_groups
from loiter_aggregator.ranking.hosts import HostRow, host_labels, host_trends, rank_hosts
from loiter_aggregator.ranking.processes import Ages, ProcessRow, process_trends, rank_processes
from loiter_aggregator.ranking.query import TREND_PARTS, By, CloseWait, Ranking, TimeWait, Trend
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from loiter_aggregator.store.question import CalledOff, Question

Answer = TypeVar("Answer")
_Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)

_DEFAULT_WINDOW_MS: Final = 3_600_000
_DEFAULT_ROWS: Final = 20
_MAX_NAMED_HOSTS: Final = 1_000
_MAX_LOST_SAMPLES: Final = 100
_MAX_NAMED_LABELS: Final = 50
_LABEL_KEY: Final = re.compile(LABEL_KEY_PATTERN)
# Questions are answered in threads beside the writer; more at a time would only take its processor from it.
_QUESTIONS_AT_ONCE: Final = 4
_QUESTIONS_WAITING: Final = 100
_QUERY_SECONDS: Final = 30.0
# An interrupt that comes just before a query begins is lost.
_INTERRUPT_AGAIN_SECONDS: Final = 0.05

_BY: Final[Mapping[int, By]] = {
    pb.RANK_BY_UNSPECIFIED: "close_wait_growth",
    pb.RANK_BY_CLOSE_WAIT_GROWTH: "close_wait_growth",
    pb.RANK_BY_CLOSE_WAIT: "close_wait",
    pb.RANK_BY_TIME_WAIT: "time_wait",
    pb.RANK_BY_TIME_WAIT_MAX: "time_wait_max",
    pb.RANK_BY_FD_SHARE: "fd_share",
    pb.RANK_BY_STUCK: "stuck",
    pb.RANK_BY_FD_ETA: "fd_eta",
    pb.RANK_BY_PORTS: "ports",
}
# Of a process, what stands in its latest sample as in a ranking.
_OF_LATEST: Final = ("established", "fd_open", "fd_limit", "fd_limit_hard", "sockets", "stuck", "ports_share")


class InvalidRequest(ValueError):
    """A request breaks a rule; the message names the field."""


class NotFound(LookupError):
    """No such host, or no such process on it; the message says what there is instead."""


class Overloaded(Exception):
    """More questions wait than are worth waiting for."""


class FleetService(FleetServiceServicer):
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
        self._store = store
        self._counters = counters
        self._clock = clock
        self._conflicts = conflicts
        self._query_seconds = query_seconds
        self._turns = asyncio.Semaphore(_QUESTIONS_AT_ONCE)
        self._in_hand = 0

    async def RankHosts(self, request: pb.RankHostsRequest, context: _Context) -> pb.RankHostsResponse:
        """Ranks hosts."""
        return await self._answer(context, lambda store: self._rank_hosts(store, request))

    async def RankProcesses(self, request: pb.RankProcessesRequest, context: _Context) -> pb.RankProcessesResponse:
        """Ranks processes."""
        return await self._answer(context, lambda store: self._rank_processes(store, request))

    async def RankApps(self, request: pb.RankAppsRequest, context: _Context) -> pb.RankAppsResponse:
        """Ranks applications."""
        return await self._answer(context, lambda store: self._rank_apps(store, request))

    async def RankGroups(self, request: pb.RankGroupsRequest, context: _Context) -> pb.RankGroupsResponse:
        """Ranks groups of hosts."""
        return await self._answer(context, lambda store: self._rank_groups(store, request))

    async def GetHost(self, request: pb.GetHostRequest, context: _Context) -> pb.GetHostResponse:
        """Shows one host."""
        return await self._answer(context, lambda store: self._get_host(store, request))

    async def ExplainProcess(self, request: pb.ExplainProcessRequest, context: _Context) -> pb.ExplainProcessResponse:
        """Says why a process has the sockets that it has."""
        return await self._answer(context, lambda store: self._explain_process(store, request))

    async def GetFleet(self, request: pb.GetFleetRequest, context: _Context) -> pb.GetFleetResponse:
        """Shows the fleet."""
        return await self._answer(context, lambda store: self._get_fleet(store, request))

    async def _answer(self, context: _Context, work: Callable[[Question], Answer]) -> Answer:
        try:
            if self._in_hand >= _QUESTIONS_AT_ONCE + _QUESTIONS_WAITING:
                raise Overloaded
            self._in_hand += 1
            try:
                async with asyncio.timeout(self._query_seconds):
                    async with self._turns:
                        return await self._work(work)
            finally:
                self._in_hand -= 1
        except InvalidRequest as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except NotFound as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except Overloaded:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{_QUESTIONS_WAITING} questions wait for an answer; ask again later",
            )
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"no answer within {format_duration(self._query_seconds)} (limits.query_seconds of the aggregator); "
                "ask for a shorter window, or for fewer hosts by a label",
            )
        except StoreError as error:
            _log.error("%s", error)
            await context.abort(grpc.StatusCode.INTERNAL, "the store can not be read; see the aggregator's log")

    async def _work(self, work: Callable[[Question], Answer]) -> Answer:
        """Does the work in a thread. Where nobody waits for it any more, its query is interrupted."""
        question = self._store.question()
        working = asyncio.ensure_future(asyncio.to_thread(work, question))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            while not working.done():
                question.call_off()
                # Cancelled again where both the time is up and the asker has left: its turn ends with its query.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait((working,), timeout=_INTERRUPT_AGAIN_SECONDS)
            with suppress(CalledOff, StoreError):
                working.result()
            raise

    def _rank_hosts(self, store: Question, request: pb.RankHostsRequest) -> pb.RankHostsResponse:
        ranking = self._ranking(request.query)
        rows = rank_hosts(store, ranking)
        return pb.RankHostsResponse(
            hosts=self._host_ranks(store, ranking, rows),
            coverage=self._coverage(store, ranking.labels, ranking.now),
        )

    def _rank_processes(self, store: Question, request: pb.RankProcessesRequest) -> pb.RankProcessesResponse:
        ranking = self._ranking(request.query)
        return pb.RankProcessesResponse(
            processes=self._process_ranks(store, ranking, rank_processes(store, ranking)),
            coverage=self._coverage(store, ranking.labels, ranking.now),
        )

    def _rank_apps(self, store: Question, request: pb.RankAppsRequest) -> pb.RankAppsResponse:
        ranking = self._ranking(request.query)
        rows = rank_apps(store, ranking)
        found = app_trends(store, ranking, rows)
        ahead = app_forecasts(store, ranking, [row.app for row in rows])
        return pb.RankAppsResponse(
            apps=[_app_rank(row, ranking, found.get(row.app, ()), ahead.get(row.app)) for row in rows],
            coverage=self._coverage(store, ranking.labels, ranking.now),
        )

    def _rank_groups(self, store: Question, request: pb.RankGroupsRequest) -> pb.RankGroupsResponse:
        ranking = self._ranking(request.query)
        if not request.label:
            raise InvalidRequest(f"label is missing; {_labels_there_are(label_names(store, _MAX_NAMED_LABELS))}")
        if len(request.label) > MAX_LABEL_KEY_CHARS or _LABEL_KEY.fullmatch(request.label) is None:
            raise InvalidRequest("label is not the name of a label; use letters, digits, '_', '.' and '-'")
        rows = rank_groups(store, ranking, request.label)
        found = group_trends(store, ranking, request.label)
        ahead = group_forecasts(store, ranking, request.label)
        return pb.RankGroupsResponse(
            groups=[_group_rank(row, ranking, found.get(row.value, ()), ahead.get(row.value)) for row in rows],
            coverage=self._coverage(store, ranking.labels, ranking.now),
        )

    def _get_host(self, store: Question, request: pb.GetHostRequest) -> pb.GetHostResponse:
        ranking = self._ranking(pb.RankingQuery(by=request.by, window=request.window, limit=request.limit), "")
        detail = self._find_host(store, request.name)
        ranked = self._host_ranks(store, ranking, rank_hosts(store, ranking, detail.host_key))
        if detail.latest is not None:
            del detail.latest.processes[:]  # they are in the answer as what they come to over the window
        return pb.GetHostResponse(
            host=detail.host,
            rank=ranked[0] if ranked else _no_rank(detail, ranking),
            last_report_time=to_timestamp(detail.last_seen),
            interval=to_duration(detail.interval_ms),
            latest=detail.latest,
            processes=self._process_ranks(store, ranking, rank_processes(store, ranking, detail.host_key)),
            clock_skew=None if detail.skew is None else to_duration(detail.skew),
            latest_agent_time=None if detail.latest_agent_time is None else to_timestamp(detail.latest_agent_time),
            lost_samples=[
                _lost_samples(lost) for lost in lost_samples(store, detail.host_key, ranking.since, _MAX_LOST_SAMPLES)
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
        rank = self._process_ranks(store, ranking, rows)[0] if rows else _unranked(detail, process, ranking)
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
        since = now - _window(request.window, "window")
        labels = _labels(request.labels, "labels")
        return pb.GetFleetResponse(
            tcp_states=sample_pb2.TcpStateCounts(**_present(fleet_states(store, labels, now))),
            coverage=self._coverage(store, labels, now),
            silent_hosts=[
                pb.SilentHost(
                    host_id=host.host_id, hostname=host.hostname, last_report_time=to_timestamp(host.last_seen)
                )
                for host in silent_hosts(store, labels, now, _MAX_NAMED_HOSTS)
            ],
            close_wait_trend=_points(fleet_trend(store, labels, since, now, "close_wait"), since, now),
            time_wait_trend=_points(fleet_trend(store, labels, since, now, "time_wait"), since, now),
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
            conflicts=[_conflict(one) for one in self._latest_conflicts()],
        )

    def _latest_conflicts(self) -> list[Conflict]:
        return sorted(self._conflicts(), key=lambda one: one.last_time, reverse=True)[:_MAX_NAMED_HOSTS]

    def _find_host(self, store: Question, name: str) -> HostDetail:
        if len(name) > MAX_STRING_CHARS:
            raise InvalidRequest(f"name is longer than {MAX_STRING_CHARS} characters")
        detail = find_host(store, name)
        if detail is None:
            raise NotFound(_unknown_host(name, known_names(store)))
        return detail

    def _host_ranks(self, store: Question, ranking: Ranking, rows: list[HostRow]) -> list[pb.HostRank]:
        found = host_trends(store, ranking, rows)
        ahead = host_forecasts(store, ranking, [row.host_key for row in rows])
        labels = host_labels(store, rows)
        return [
            _host_rank(row, ranking, found.get(row.host_key, ()), ahead.get(row.host_key), labels.get(row.host_key, {}))
            for row in rows
        ]

    def _process_ranks(self, store: Question, ranking: Ranking, rows: list[ProcessRow]) -> list[pb.ProcessRank]:
        found = process_trends(store, ranking, rows)
        ahead = process_forecasts(store, ranking, [row.series for row in rows])
        return [_process_rank(row, ranking, found.get(row.series, ()), ahead.get(row.series)) for row in rows]

    def _coverage(self, store: Question, labels: Mapping[str, str], now: int) -> pb.FleetCoverage:
        coverage = fleet_coverage(store, labels, now)
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
        if query.by not in _BY:
            raise InvalidRequest(f"{prefix}by is not a known measure")
        if query.limit > MAX_RANKING_ROWS:
            raise InvalidRequest(f"{prefix}limit is over {MAX_RANKING_ROWS:,} rows")
        now = self._clock()
        return Ranking(
            by=_BY[query.by],
            since=now - _window(query.window, f"{prefix}window"),
            now=now,
            limit=query.limit or _DEFAULT_ROWS,
            labels=_labels(query.labels, f"{prefix}labels"),
        )


def _window(window: Duration, name: str) -> int:
    milliseconds = from_duration(window)
    if milliseconds < 0 or milliseconds > MAX_WINDOW_SECONDS * 1_000:
        raise InvalidRequest(f"{name} is not between 0s and {format_duration(MAX_WINDOW_SECONDS)}")
    return milliseconds or _DEFAULT_WINDOW_MS


def _labels(labels: Mapping[str, str], name: str) -> dict[str, str]:
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"{name} has more than {MAX_LABELS} entries")
    return dict(labels)


def _labels_there_are(names: Sequence[str]) -> str:
    if not names:
        return "no host carries a label"
    more = " and others" if len(names) == _MAX_NAMED_LABELS else ""
    return f"hosts carry {', '.join(printable(name) for name in names)}{more}"


def _unknown_host(name: str, names: Sequence[str]) -> str:
    near = [printable(one) for one in difflib.get_close_matches(name, names, n=3, cutoff=0.5)]
    return f"no host {name!r} has reported" + (f"; did you mean {' or '.join(near)}?" if near else "")


def _host_rank(
    row: HostRow, ranking: Ranking, trend: Trend, forecast: Forecast | None, labels: Mapping[str, str]
) -> pb.HostRank:
    return pb.HostRank(
        host_id=row.host_id,
        hostname=row.hostname,
        last_report_time=to_timestamp(row.last_seen),
        silent=is_silent(row.last_seen, row.interval_ms, ranking.now),
        close_wait=_close_wait(row.close_wait, ranking, trend),
        time_wait=_time_wait(row.time_wait),
        established=row.established,
        fd_allocated=row.fd_allocated,
        fd_limit=row.fd_limit,
        fd_share=row.fd_share,
        cause=row.cause or sample_pb2.CAUSE_UNSPECIFIED,
        stuck=row.stuck,
        fd_forecast=_fd_forecast(forecast),
        ports_share=row.ports_share,
        labels=labels,
    )


def _no_rank(detail: HostDetail, ranking: Ranking) -> pb.HostRank:
    """A host without a sample in the window: everything about it is unknown but that it once was there."""
    return pb.HostRank(
        host_id=detail.host.host_id,
        hostname=detail.host.hostname,
        last_report_time=to_timestamp(detail.last_seen),
        silent=is_silent(detail.last_seen, detail.interval_ms, ranking.now),
        labels=detail.host.labels,
    )


def _process_rank(row: ProcessRow, ranking: Ranking, trend: Trend, forecast: Forecast | None) -> pb.ProcessRank:
    return pb.ProcessRank(
        host_id=row.host_id,
        hostname=row.hostname,
        pid=row.pid,
        start_time=to_timestamp(row.start_time),
        name=row.name,
        app=row.app,
        user=row.user,
        last_sample_time=to_timestamp(row.last_sample),
        close_wait=_close_wait(row.close_wait, ranking, trend),
        time_wait=_time_wait(row.time_wait),
        silent=is_silent(row.last_seen, row.interval_ms, ranking.now),
        established=row.established,
        fd_open=row.fd_open,
        fd_limit=row.fd_limit,
        fd_share=row.fd_share,
        cause=row.cause or sample_pb2.CAUSE_UNSPECIFIED,
        stuck=row.stuck,
        fd_forecast=_fd_forecast(forecast),
        ports_share=row.ports_share,
        close_wait_age=_ages(row.ages),
        fd_limit_hard=row.fd_limit_hard,
        sockets=row.sockets,
    )


def _app_rank(row: AppRow, ranking: Ranking, trend: Trend, forecast: Forecast | None) -> pb.AppRank:
    return pb.AppRank(
        app=row.app,
        hosts=row.hosts,
        processes=row.processes,
        close_wait=_close_wait(row.close_wait, ranking, trend),
        time_wait=_time_wait(row.time_wait),
        established=row.established,
        fd_share=row.fd_share,
        cause=row.cause or sample_pb2.CAUSE_UNSPECIFIED,
        stuck=row.stuck,
        fd_forecast=_fd_forecast(forecast),
        ports_share=row.ports_share,
    )


def _group_rank(row: GroupRow, ranking: Ranking, trend: Trend, forecast: Forecast | None) -> pb.GroupRank:
    return pb.GroupRank(
        value=row.value,
        hosts=row.hosts,
        silent_hosts=row.silent_hosts,
        close_wait=_close_wait(row.close_wait, ranking, trend),
        time_wait=_time_wait(row.time_wait),
        established=row.established,
        fd_share=row.fd_share,
        cause=row.cause or sample_pb2.CAUSE_UNSPECIFIED,
        stuck=row.stuck,
        fd_forecast=_fd_forecast(forecast),
        ports_share=row.ports_share,
    )


def _unranked(detail: HostDetail, process: sample_pb2.ProcessSample, ranking: Ranking) -> pb.ProcessRank:
    """A process whose latest sample is older than the window: all that is known is what that sample says."""
    known = {name: getattr(process, name) for name in _OF_LATEST if process.HasField(name)}
    fd_open, fd_limit = known.get("fd_open"), known.get("fd_limit")
    return pb.ProcessRank(
        host_id=detail.host.host_id,
        hostname=detail.host.hostname,
        pid=process.pid,
        start_time=process.start_time,
        name=process.name,
        app=process.app,
        user=process.user,
        last_sample_time=detail.latest.sample_time if detail.latest else None,
        silent=is_silent(detail.last_seen, detail.interval_ms, ranking.now),
        close_wait=pb.CloseWaitTrend(current=process.close_wait if process.HasField("close_wait") else None),
        time_wait=pb.TimeWaitVolume(current=process.time_wait) if process.HasField("time_wait") else None,
        fd_share=fd_open / fd_limit if fd_open is not None and fd_limit else None,
        cause=process.cause,
        fd_forecast=pb.FdForecast() if fd_open is not None and fd_limit is not None and fd_open >= fd_limit else None,
        close_wait_age=process.close_wait_age if process.HasField("close_wait_age") else None,
        **known,
    )


def _lost_samples(lost: LostSamples) -> pb.LostSamples:
    return pb.LostSamples(
        first_time=None if lost.first_time is None else to_timestamp(lost.first_time),
        last_time=None if lost.last_time is None else to_timestamp(lost.last_time),
        samples=lost.samples,
        reason=lost.reason,
        received_time=to_timestamp(lost.received),
    )


def _conflict(one: Conflict) -> pb.HostConflict:
    return pb.HostConflict(
        host_id=one.host_id,
        hostname=one.hostname,
        peer=one.peer,
        refused_hostname=one.refused_hostname,
        refused_peer=one.refused_peer,
        last_time=to_timestamp(one.last_time),
    )


def _fd_forecast(forecast: Forecast | None) -> pb.FdForecast | None:
    return None if forecast is None else pb.FdForecast(**asdict(forecast))


def _ages(ages: Ages | None) -> sample_pb2.SocketAges | None:
    if ages is None:
        return None
    return sample_pb2.SocketAges(p50_seconds=ages.p50, p99_seconds=ages.p99, max_seconds=ages.max)


def _close_wait(figures: CloseWait, ranking: Ranking, trend: Trend) -> pb.CloseWaitTrend:
    return pb.CloseWaitTrend(
        current=figures.current,
        maximum=figures.maximum,
        growth_per_hour=figures.growth_per_hour,
        growth_fit=figures.growth_fit,
        samples=figures.samples,
        trend=_points(trend, ranking.since, ranking.now),
    )


def _time_wait(figures: TimeWait) -> pb.TimeWaitVolume | None:
    if figures.maximum is None:
        return None
    return pb.TimeWaitVolume(current=figures.current, mean=figures.mean, maximum=figures.maximum)


def _points(trend: Trend, since: int, now: int) -> list[pb.TrendPoint]:
    return [
        pb.TrendPoint(start_time=to_timestamp(since + (now - since) * part // TREND_PARTS), value=value)
        for part, value in enumerate(trend)
    ]


def _present(counts: Mapping[str, int | None]) -> dict[str, int]:
    # The sum over a very large fleet may exceed what the field holds.
    return {name: min(count, 2**32 - 1) for name, count in counts.items() if count is not None}
