"""Ranks processes.

Only processes that are in the latest sample of their host are ranked: agents report every process that has CLOSE_WAIT
sockets, so one that is not there any more has ended, or has none left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from loiter_aggregator.ranking.query import (
    FIT,
    GROWTH,
    ORDER,
    POINTS,
    SUMS,
    CloseWait,
    Ranking,
    TimeWait,
    Trend,
    label_filter,
    optional_int,
    trend_part,
    trends,
)
from loiter_aggregator.store.duckdb_store import DuckDbStore

# A series is a process: a restart has another start time and so starts another one.
SERIES: Final = "host_key, pid, start_time"


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One ranked process. `time_wait` holds None where no owner of such sockets is known."""

    host_key: int
    host_id: str
    hostname: str
    pid: int
    start_time: int
    name: str
    app: str
    user: str
    last_sample: int
    close_wait: CloseWait
    time_wait: TimeWait
    established: int | None
    fd_open: int | None
    fd_limit: int | None
    fd_share: float | None

    @property
    def series(self) -> tuple[int, int, int]:
        """What names the process in the store."""
        return self.host_key, self.pid, self.start_time


def current_processes(ranking: Ranking, host_key: int | None = None) -> str:
    """The relation of processes that are in their host's latest sample, with their sums over the window."""
    only = "" if host_key is None else f" AND host_key = {int(host_key)}"
    hosts = f"ts >= $since{only}{label_filter(ranking.labels)}"
    return f"""
        SELECT *, {GROWTH} AS growth, {FIT} AS fit,
            CASE WHEN fd_limit > 0 THEN CAST(fd_open AS DOUBLE) / fd_limit END AS fd_share
        FROM (
            SELECT {SERIES}, max(ts) AS last_sample, max(identity_key) AS identity_key,
                max(close_wait) AS close_wait_now, max(time_wait) AS time_wait_now, max(established) AS established,
                max(fd_open) AS fd_open, max(fd_limit) AS fd_limit
            FROM process_sample JOIN (
                SELECT host_key, max(ts) AS latest FROM host_sample WHERE {hosts} GROUP BY host_key) AS hosts
                USING (host_key)
            WHERE ts = latest GROUP BY {SERIES}) AS newest
        JOIN (
            SELECT {SERIES}, {SUMS}, avg(time_wait) AS time_wait_mean, max(time_wait) AS time_wait_max
            FROM (SELECT *, {POINTS} FROM process_sample WHERE {hosts})
            GROUP BY {SERIES}) AS series USING ({SERIES})"""


def rank_processes(store: DuckDbStore, ranking: Ranking, host_key: int | None = None) -> list[ProcessRow]:
    """Ranks the processes of all hosts, or of one. Raises StoreError."""
    rows = store.read(
        f"""
        SELECT host_key, host_id, hostname, pid, start_time, name, app, user_name, last_sample,
            close_wait_now, y_max, growth, fit, n, time_wait_now, time_wait_mean, time_wait_max,
            established, fd_open, fd_limit, fd_share
        FROM ({current_processes(ranking, host_key)}) AS current
            JOIN host USING (host_key) JOIN identity USING (identity_key)
        ORDER BY {ORDER[ranking.by]} DESC NULLS LAST, close_wait_now DESC NULLS LAST, hostname, pid, start_time
        LIMIT $limit""",
        ranking.parameters(),
    )
    return [_row(row) for row in rows]


def _row(row: tuple[Any, ...]) -> ProcessRow:
    return ProcessRow(
        host_key=row[0],
        host_id=row[1],
        hostname=row[2],
        pid=row[3],
        start_time=row[4],
        name=row[5],
        app=row[6],
        user=row[7],
        last_sample=row[8],
        close_wait=CloseWait(optional_int(row[9]), optional_int(row[10]), row[11], row[12], row[13]),
        time_wait=TimeWait(optional_int(row[14]), row[15], optional_int(row[16])),
        established=row[17],
        fd_open=row[18],
        fd_limit=row[19],
        fd_share=row[20],
    )


def process_trends(store: DuckDbStore, ranking: Ranking, rows: list[ProcessRow]) -> dict[tuple[int, int, int], Trend]:
    """Reads the CLOSE_WAIT trend of ranked processes, by what names them in the store. Raises StoreError."""
    if not rows:
        return {}
    keys = ", ".join("({}, {}, {})".format(*map(int, row.series)) for row in rows)
    read = store.read(
        f"""
        SELECT {SERIES}, {trend_part(ranking.since, ranking.now)} AS part, max(close_wait)
        FROM process_sample WHERE ts >= $since AND ({SERIES}) IN ({keys}) AND close_wait IS NOT NULL
        GROUP BY {SERIES}, part""",
        {"since": ranking.since},
    )
    return {(key[0], key[1], key[2]): trend for key, trend in trends(read).items()}
