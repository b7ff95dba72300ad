"""Turns what was found into messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from google.protobuf.duration_pb2 import Duration

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.host_detail import HostDetail, LostSamples
from loiter_aggregator.ingest.registry import Conflict
from loiter_aggregator.ranking.apps import AppRow
from loiter_aggregator.ranking.fleet import is_silent
from loiter_aggregator.ranking.forecast import Forecast
from loiter_aggregator.ranking.groups import GroupRow
from loiter_aggregator.ranking.history import Values
from loiter_aggregator.ranking.hosts import HostRow
from loiter_aggregator.ranking.processes import Ages, ProcessRow
from loiter_aggregator.ranking.query import TREND_PARTS, CloseWait, Ranking, TimeWait, Trend

# Of a process, what stands in its latest sample as in a ranking.
_OF_LATEST: Final = ("established", "fd_open", "fd_limit", "fd_limit_hard", "sockets", "stuck", "ports_share")


def host_rank(
    row: HostRow,
    ranking: Ranking,
    trend: Trend,
    forecast: Forecast | None,
    labels: Mapping[str, str],
    overflows: int | None,
) -> pb.HostRank:
    """A ranked host. `overflows` is of its TIME_WAIT sockets within the window."""
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
        time_wait_overflows=overflows,
    )


def no_rank(detail: HostDetail, ranking: Ranking) -> pb.HostRank:
    """A host without a sample in the window: everything about it is unknown but that it once was there.

    Of a window in the past, that is what is known of whether it was silent then.
    """
    silent = is_silent(ranking.since if ranking.past else detail.last_seen, detail.interval_ms, ranking.now)
    return pb.HostRank(
        host_id=detail.host.host_id,
        hostname=detail.host.hostname,
        last_report_time=to_timestamp(detail.last_seen),
        silent=silent,
        labels=detail.host.labels,
    )


def process_rank(row: ProcessRow, ranking: Ranking, trend: Trend, forecast: Forecast | None) -> pb.ProcessRank:
    """A ranked process."""
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


def app_rank(row: AppRow, ranking: Ranking, trend: Trend, forecast: Forecast | None) -> pb.AppRank:
    """A ranked application."""
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


def group_rank(row: GroupRow, ranking: Ranking, trend: Trend, forecast: Forecast | None) -> pb.GroupRank:
    """A ranked group of hosts."""
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


def unranked(detail: HostDetail, process: sample_pb2.ProcessSample, ranking: Ranking) -> pb.ProcessRank:
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


def lost_message(lost: LostSamples) -> pb.LostSamples:
    """Samples that are lost."""
    return pb.LostSamples(
        first_time=None if lost.first_time is None else to_timestamp(lost.first_time),
        last_time=None if lost.last_time is None else to_timestamp(lost.last_time),
        samples=lost.samples,
        reason=lost.reason,
        received_time=to_timestamp(lost.received),
    )


def history_response(ranking: Ranking, parts: int, values: Mapping[str, Values]) -> pb.GetHistoryResponse:
    """How figures went."""
    step = Duration()
    step.FromNanoseconds((ranking.now - ranking.since) * 1_000_000 // parts)
    return pb.GetHistoryResponse(
        start_time=to_timestamp(ranking.since),
        step=step,
        series=[
            pb.HistorySeries(name=name, values=[pb.HistoryValue(value=value) for value in figures])
            for name, figures in values.items()
        ],
    )


def conflict(one: Conflict) -> pb.HostConflict:
    """Two machines with one host id."""
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
        trend=points(trend, ranking.since, ranking.now),
    )


def _time_wait(figures: TimeWait) -> pb.TimeWaitVolume | None:
    if figures.maximum is None:
        return None
    return pb.TimeWaitVolume(current=figures.current, mean=figures.mean, maximum=figures.maximum)


def points(trend: Trend, since: int, now: int) -> list[pb.TrendPoint]:
    """A trend, with the times of its parts."""
    return [
        pb.TrendPoint(start_time=to_timestamp(since + (now - since) * part // TREND_PARTS), value=value)
        for part, value in enumerate(trend)
    ]


def present(counts: Mapping[str, int | None]) -> dict[str, int]:
    """The counts that are known."""
    # The sum over a very large fleet may exceed what the field holds.
    return {name: min(count, 2**32 - 1) for name, count in counts.items() if count is not None}
