"""Ranks processes by when they run out of file descriptors, and reads nothing else of them.

A ranking by `fd_eta` says what else they come to, over all of the window: that takes as long again.
"""

from __future__ import annotations

from dataclasses import dataclass

from loiter.v1 import sample_pb2
from loiter_aggregator.ranking.filters import of_process, where
from loiter_aggregator.ranking.forecast import forecasts
from loiter_aggregator.ranking.present import SERIES, present_processes
from loiter_aggregator.ranking.query import Ranking
from loiter_aggregator.store.question import Reader


@dataclass(frozen=True, slots=True)
class RunningOut:
    """A process that will have no file descriptors left, or has none; `fd_eta` in seconds."""

    host_id: str
    hostname: str
    last_seen: int
    interval_ms: int
    pid: int
    start_time: int
    name: str
    app: str
    cause: sample_pb2.Cause.ValueType | None
    fd_eta: float


def running_out(store: Reader, ranking: Ranking) -> list[RunningOut]:
    """Lists the processes that have a forecast, that which runs out first before the others. Raises StoreError."""
    rows = store.read(
        f"""
        SELECT host_id, hostname, {"last_sample" if ranking.past else "last_seen"}, interval_ms, pid, start_time, name,
            app, cause, fd_eta
        FROM (SELECT {SERIES}, fd_eta FROM ({forecasts(ranking)}) AS forecasts) AS ahead
            JOIN ({present_processes(ranking)}) AS present USING ({SERIES})
            JOIN host USING (host_key) JOIN identity USING (identity_key)
        {where(of_process(ranking))}
        ORDER BY fd_eta, hostname, pid, start_time
        LIMIT $limit""",
        ranking.parameters(),
    )
    return [RunningOut(*row) for row in rows]
