"""Flattens answers into rows. The keys are those of the JSON and CSV output, which scripts rely on.

What is unknown is None. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from loiter.v1 import fleet_service_pb2 as pb

Row = dict[str, Any]


def host_row(rank: int, host: pb.HostRank) -> Row:
    """A ranked host."""
    return {"rank": rank, **host_figures(host)}


def host_figures(host: pb.HostRank) -> Row:
    """A host, without a place in a ranking."""
    return {
        "host": host.hostname,
        "host_id": host.host_id,
        **_close_wait(host.close_wait),
        **_time_wait(host),
        "established": value(host, "established"),
        "fd_allocated": value(host, "fd_allocated"),
        "fd_limit": value(host, "fd_limit"),
        "fd_share": value(host, "fd_share"),
        "silent": host.silent,
        "last_report": time(host.last_report_time),
    }


def process_row(rank: int, process: pb.ProcessRank) -> Row:
    """A ranked process."""
    return {
        "rank": rank,
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
        "fd_share": value(process, "fd_share"),
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


def trend_values(points: Any) -> list[float | None]:
    """The values of a trend, None for a part of the window without samples."""
    return [value(point, "value") for point in points]


def _close_wait(trend: pb.CloseWaitTrend) -> Row:
    return {
        "close_wait": value(trend, "current"),
        "close_wait_growth_per_hour": value(trend, "growth_per_hour"),
        "close_wait_growth_fit": value(trend, "growth_fit"),
        "close_wait_max": value(trend, "maximum"),
        "close_wait_trend": trend_values(trend.trend),
        "samples": trend.samples,
    }


def _time_wait(row: pb.HostRank | pb.ProcessRank | pb.AppRank) -> Row:
    known = row.HasField("time_wait")
    return {
        "time_wait": value(row.time_wait, "current") if known else None,
        "time_wait_mean": value(row.time_wait, "mean") if known else None,
        "time_wait_max": value(row.time_wait, "maximum") if known else None,
    }
