"""What people ask for, as the questions take it: measures and causes by their names, windows and their ends."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from loiter.durations import format_duration
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2

MEASURES: Final = {
    "close-wait-growth": pb.RANK_BY_CLOSE_WAIT_GROWTH,
    "close-wait": pb.RANK_BY_CLOSE_WAIT,
    "time-wait": pb.RANK_BY_TIME_WAIT,
    "time-wait-max": pb.RANK_BY_TIME_WAIT_MAX,
    "fd-share": pb.RANK_BY_FD_SHARE,
    "stuck": pb.RANK_BY_STUCK,
    "fd-eta": pb.RANK_BY_FD_ETA,
    "ports": pb.RANK_BY_PORTS,
}
CAUSES: Final = {name.removeprefix("CAUSE_").lower(): cause for name, cause in sample_pb2.Cause.items() if cause}


def query_duration(seconds: float) -> Duration:
    """A window as the questions take it."""
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def query_time(time: datetime | None) -> Timestamp | None:
    """The end of a window as the questions take it; None for now."""
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def window_text(window: float, until: datetime | None) -> str:
    """Says which window the figures are of."""
    if until is None:
        return f"last {format_duration(window)}"
    return f"{format_duration(window)} until {until.strftime('%Y-%m-%dT%H:%M:%SZ')}"
