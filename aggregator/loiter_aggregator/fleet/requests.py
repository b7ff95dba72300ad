"""Reads what is asked: checks requests, and fills in what they leave out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from loiter.durations import format_duration
from loiter.limits import (
    LABEL_KEY_PATTERN,
    MAX_HISTORY_POINTS,
    MAX_LABEL_KEY_CHARS,
    MAX_LABELS,
    MAX_RANKING_ROWS,
    MAX_STRING_CHARS,
    MAX_WINDOW_SECONDS,
)
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.clock import from_duration, from_timestamp
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.ranking.query import By, Ranking

_DEFAULT_WINDOW_MS: Final = 3_600_000
_DEFAULT_ROWS: Final = 20
_DEFAULT_POINTS: Final = 120
# Clocks differ: what is "now" to who asks may not have come yet for us.
_AHEAD_MS: Final = 60_000
_LABEL_KEY: Final = re.compile(LABEL_KEY_PATTERN)

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
    pb.RANK_BY_TIME_WAIT_OVERFLOWS: "time_wait_overflows",
}


def read_ranking(query: pb.RankingQuery, now: int, prefix: str = "query.") -> Ranking:
    """Reads what to rank. `prefix` is where in the request it stands. Raises InvalidRequest."""
    if query.by not in _BY:
        raise InvalidRequest(f"{prefix}by is not a known measure")
    if query.limit > MAX_RANKING_ROWS:
        raise InvalidRequest(f"{prefix}limit is over {MAX_RANKING_ROWS:,} rows")
    if query.cause not in sample_pb2.Cause.values():
        raise InvalidRequest(f"{prefix}cause is not a known cause")
    for name, text in (("app", query.app), ("contains", query.contains)):
        check_text(text, f"{prefix}{name}")
    end = read_end(query.end_time, now, f"{prefix}end_time") if query.HasField("end_time") else now
    return Ranking(
        by=_BY[query.by],
        since=end - read_window(query.window, f"{prefix}window"),
        now=end,
        limit=query.limit or _DEFAULT_ROWS,
        labels=read_labels(query.labels, f"{prefix}labels"),
        past=end < now,
        app=query.app,
        contains=query.contains,
        cause=query.cause or None,
    )


def without_overflows(ranking: Ranking, prefix: str = "query.") -> Ranking:
    """The ranking, where it is not by what only hosts have. Raises InvalidRequest."""
    if ranking.by == "time_wait_overflows":
        raise InvalidRequest(f"{prefix}by: overflows of TIME_WAIT are of hosts alone")
    return ranking


def read_history(request: pb.GetHistoryRequest, now: int) -> tuple[Ranking, int]:
    """Reads which window to show, of which hosts, and in how many parts. Raises InvalidRequest."""
    if request.pid and not request.host:
        raise InvalidRequest("pid is of no host; give one")
    if request.pid and request.app:
        raise InvalidRequest("pid and app can not both be asked for")
    if request.points > MAX_HISTORY_POINTS:
        raise InvalidRequest(f"points is over {MAX_HISTORY_POINTS:,}")
    check_text(request.app, "app")
    query = pb.RankingQuery(window=request.window, labels=request.labels)
    if request.HasField("end_time"):
        query.end_time.CopyFrom(request.end_time)
    ranking = read_ranking(query, now, "")
    # A part has a millisecond at least.
    return ranking, min(request.points or _DEFAULT_POINTS, ranking.now - ranking.since)


def read_end(end: Timestamp, now: int, name: str) -> int:
    """Reads when a window ends, in milliseconds. Raises InvalidRequest."""
    milliseconds = from_timestamp(end)
    if not 0 <= milliseconds <= now + _AHEAD_MS:
        raise InvalidRequest(f"{name} is {'in the future' if milliseconds > 0 else 'before 1970'}")
    return min(milliseconds, now)


def read_window(window: Duration, name: str) -> int:
    """Reads how far back to look, in milliseconds; one hour where it is absent. Raises InvalidRequest."""
    milliseconds = from_duration(window)
    if milliseconds < 0 or milliseconds > MAX_WINDOW_SECONDS * 1_000:
        raise InvalidRequest(f"{name} is not between 0s and {format_duration(MAX_WINDOW_SECONDS)}")
    return milliseconds or _DEFAULT_WINDOW_MS


def read_labels(labels: Mapping[str, str], name: str) -> dict[str, str]:
    """Reads the labels that hosts have to carry. Raises InvalidRequest."""
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"{name} has more than {MAX_LABELS} entries")
    return dict(labels)


def check_host_name(name: str) -> None:
    """Raises InvalidRequest where a text is longer than any host's name."""
    if len(name) > MAX_STRING_CHARS:
        raise InvalidRequest(f"name is longer than {MAX_STRING_CHARS} characters")


def check_text(text: str, name: str) -> None:
    """Raises InvalidRequest where a text is longer than any that is stored."""
    if len(text) > MAX_STRING_CHARS:
        raise InvalidRequest(f"{name} is longer than {MAX_STRING_CHARS} characters")


def check_label(label: str) -> None:
    """Raises InvalidRequest where a text is not the name of a label."""
    if len(label) > MAX_LABEL_KEY_CHARS or _LABEL_KEY.fullmatch(label) is None:
        raise InvalidRequest("label is not the name of a label; use letters, digits, '_', '.' and '-'")
