"""Flattens answers into rows. The keys are those of the JSON and CSV output, which scripts rely on.

What is unknown is None. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import ingest_service_pb2, sample_pb2

Row = dict[str, Any]
Rank = pb.HostRank | pb.ProcessRank | pb.AppRank | pb.GroupRank

# Keys whose values fit no cell.
NESTED: Final = ("close_wait_trend", "close_wait_age_seconds", "labels")

_HOW: Final = {how: name.removeprefix("OWNER_SOURCE_").lower() for name, how in sample_pb2.OwnerSource.items() if how}
_DEGRADATIONS: Final = {
    step: name.removeprefix("DEGRADATION_").lower() for name, step in sample_pb2.Degradation.items() if step
}
_REASONS: Final = {
    reason: name.removeprefix("LOSS_REASON_").lower()
    for name, reason in ingest_service_pb2.LossReason.items()
    if reason
}
_CAUSES: Final = {cause: name.removeprefix("CAUSE_").lower() for name, cause in sample_pb2.Cause.items() if cause}


def host_row(rank: int, host: pb.HostRank) -> Row:
    """A ranked host."""
    return {"rank": rank, **host_figures(host), "labels": dict(sorted(host.labels.items()))}


def host_figures(host: pb.HostRank) -> Row:
    """A host, without a place in a ranking."""
    return {
        "host": host.hostname,
        "host_id": host.host_id,
        **_close_wait(host.close_wait),
        **_time_wait(host),
        "time_wait_overflows": value(host, "time_wait_overflows"),
        "established": value(host, "established"),
        "fd_allocated": value(host, "fd_allocated"),
        "fd_limit": value(host, "fd_limit"),
        "fd_share": value(host, "fd_share"),
        **_causes(host),
        "silent": host.silent,
        "last_report": time(host.last_report_time),
    }


def process_row(rank: int, process: pb.ProcessRank) -> Row:
    """A ranked process."""
    return {"rank": rank, **process_figures(process)}


def process_figures(process: pb.ProcessRank) -> Row:
    """A process, without a place in a ranking."""
    return {
        "host": process.hostname,
        "host_id": process.host_id,
        "pid": process.pid,
        "start_time": time(process.start_time),
        "name": process.name,
        "app": process.app,
        "user": process.user or None,
        **_close_wait(process.close_wait),
        **_time_wait(process),
        "established": value(process, "established"),
        "fd_open": value(process, "fd_open"),
        "fd_limit": value(process, "fd_limit"),
        "fd_limit_hard": value(process, "fd_limit_hard"),
        "fd_share": value(process, "fd_share"),
        "sockets": value(process, "sockets"),
        **_causes(process),
        "close_wait_age_seconds": ages(process),
        "silent": process.silent,
        "last_sample": time(process.last_sample_time),
    }


def app_row(rank: int, app: pb.AppRank) -> Row:
    """A ranked application."""
    return {
        "rank": rank,
        "app": app.app,
        "hosts": app.hosts,
        "processes": app.processes,
        **_close_wait(app.close_wait),
        **_time_wait(app),
        "established": value(app, "established"),
        "fd_share": value(app, "fd_share"),
        **_causes(app),
    }


def group_row(rank: int, group: pb.GroupRank) -> Row:
    """A ranked group of hosts; its name is None for those without the label."""
    return {
        "rank": rank,
        "group": value(group, "value"),
        "hosts": group.hosts,
        "silent_hosts": group.silent_hosts,
        **_close_wait(group.close_wait),
        **_time_wait(group),
        "established": value(group, "established"),
        "fd_share": value(group, "fd_share"),
        **_causes(group),
    }


def optional_fields(message: Message) -> Row:
    """Every scalar field of a message by its name, None where it is absent."""
    return {
        field.name: value(message, field.name) if field.has_presence else getattr(message, field.name)
        for field in message.DESCRIPTOR.fields
        if field.message_type is None
    }


def value(message: Message, name: str) -> Any:
    """A field that may be absent."""
    return getattr(message, name) if message.HasField(name) else None


def time(stamp: Timestamp) -> str:
    """A time, to the millisecond."""
    return stamp.ToDatetime().isoformat(timespec="milliseconds") + "Z"


def optional_time(message: Message, name: str) -> str | None:
    """A time that may be absent."""
    return time(getattr(message, name)) if message.HasField(name) else None


def seconds(duration: Duration) -> float:
    """A span of time."""
    return duration.seconds + duration.nanos / 1e9


def degradation_name(step: sample_pb2.Degradation.ValueType) -> str:
    """What an agent leaves out, by the name of the step."""
    return _DEGRADATIONS.get(step, "none")


def lost_samples(answer: pb.GetHostResponse) -> list[Row]:
    """Samples that are lost, latest first."""
    return [
        {
            "first_time": optional_time(lost, "first_time"),
            "last_time": optional_time(lost, "last_time"),
            "samples": value(lost, "samples"),
            "reason": _REASONS.get(lost.reason, "missing"),
        }
        for lost in answer.lost_samples
    ]


def trend_values(points: Any) -> list[float | None]:
    """The values of a trend, None for a part of the window without samples."""
    return [value(point, "value") for point in points]


def cause_name(cause: sample_pb2.Cause.ValueType) -> str | None:
    """A cause by its name; None where there is nothing to explain."""
    return _CAUSES.get(cause)


def ages(process: pb.ProcessRank | sample_pb2.ProcessSample) -> Row | None:
    """How long the CLOSE_WAIT sockets of a process have been in that state."""
    if not process.HasField("close_wait_age"):
        return None
    found = process.close_wait_age
    return {"p50": found.p50_seconds, "p99": found.p99_seconds, "max": found.max_seconds}


def evidence_row(process: sample_pb2.ProcessSample) -> Row:
    """What the cause of a process rests on."""
    evidence = process.evidence
    queue = evidence.accept_queue
    return {
        **optional_fields(evidence),
        "accept_queue": {"depth": queue.depth, "limit": queue.limit} if evidence.HasField("accept_queue") else None,
        "thread_states": dict(evidence.thread_states),
        "wait_channels": dict(evidence.wait_channels),
    }


def peers(process: sample_pb2.ProcessSample) -> list[Row]:
    """Who is at the other end of the CLOSE_WAIT sockets of a process."""
    return [{"address": peer.address, "port": value(peer, "port"), "count": peer.count} for peer in process.peers]


def time_wait_groups(groups: Iterable[sample_pb2.TimeWaitGroup]) -> list[Row]:
    """TIME_WAIT sockets by their other end or listener, and owner."""
    return [
        {
            "namespace": group.namespace or None,
            "destination": group.destination or None,
            "listener": group.listener or None,
            "count": group.count,
            "closes_per_second": group.closes_per_second,
            "owner": _owner(group.owner),
        }
        for group in groups
    ]


def port_budgets(budgets: Iterable[sample_pb2.PortBudget]) -> list[Row]:
    """Budgets of ephemeral ports."""
    return [optional_fields(budget) for budget in budgets]


def _owner(owner: sample_pb2.TimeWaitOwner) -> Row:
    return {
        "pid": value(owner, "pid"),
        "start_time": time(owner.start_time) if owner.HasField("start_time") else None,
        "name": owner.name or None,
        "app": owner.app or None,
        "how": _HOW.get(owner.source),
    }


def _causes(row: Rank) -> Row:
    known = row.HasField("fd_forecast")
    # A process with no descriptors left may have too few samples for a line: then there is no interval, either.
    grows = row.fd_forecast.HasField("earliest_seconds")
    return {
        "cause": cause_name(row.cause),
        "stuck": value(row, "stuck"),
        "fd_eta_seconds": row.fd_forecast.seconds if known else None,
        "fd_eta_earliest_seconds": value(row.fd_forecast, "earliest_seconds"),
        "fd_eta_latest_seconds": value(row.fd_forecast, "latest_seconds"),
        "fd_growth_per_hour": row.fd_forecast.growth_per_hour if grows else None,
        "fd_growth_close_wait_share": value(row.fd_forecast, "close_wait_share"),
        "ports_share": value(row, "ports_share"),
    }


def _close_wait(trend: pb.CloseWaitTrend) -> Row:
    return {
        "close_wait": value(trend, "current"),
        "close_wait_growth_per_hour": value(trend, "growth_per_hour"),
        "close_wait_growth_fit": value(trend, "growth_fit"),
        "close_wait_max": value(trend, "maximum"),
        "close_wait_trend": trend_values(trend.trend),
        "samples": trend.samples,
    }


def _time_wait(row: Rank) -> Row:
    known = row.HasField("time_wait")
    return {
        "time_wait": value(row.time_wait, "current") if known else None,
        "time_wait_mean": value(row.time_wait, "mean") if known else None,
        "time_wait_max": value(row.time_wait, "maximum") if known else None,
    }
