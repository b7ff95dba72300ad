"""Reads what is asked: checks requests, and fills in what they leave out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

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
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import from_duration
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.ranking.query import By, Ranking

_DEFAULT_WINDOW_MS: Final = 3_600_000
_DEFAULT_ROWS: Final = 20
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
}


def read_ranking(query: pb.RankingQuery, now: int, prefix: str = "query.") -> Ranking:
    """Reads what to rank. `prefix` is where in the request it stands. Raises InvalidRequest."""
    if query.by not in _BY:
        raise InvalidRequest(f"{prefix}by is not a known measure")
    if query.limit > MAX_RANKING_ROWS:
        raise InvalidRequest(f"{prefix}limit is over {MAX_RANKING_ROWS:,} rows")
    return Ranking(
        by=_BY[query.by],
        since=now - read_window(query.window, f"{prefix}window"),
        now=now,
        limit=query.limit or _DEFAULT_ROWS,
        labels=read_labels(query.labels, f"{prefix}labels"),
    )


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


def check_label(label: str) -> None:
    """Raises InvalidRequest where a text is not the name of a label."""
    if len(label) > MAX_LABEL_KEY_CHARS or _LABEL_KEY.fullmatch(label) is None:
        raise InvalidRequest("label is not the name of a label; use letters, digits, '_', '.' and '-'")
