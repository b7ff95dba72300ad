"""Ranks processes.

Only processes that are in the latest sample of their host are ranked: agents report every process that has CLOSE_WAIT
sockets, so one that is not there any more has ended, or has none left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from loiter.v1 import sample_pb2
from loiter_aggregator.ranking.filters import of_process, where
from loiter_aggregator.ranking.forecast import forecast_join
from loiter_aggregator.ranking.present import SERIES, present_processes
from loiter_aggregator.ranking.query import (
    FIT,
    GROWTH,
    KNOWS_PROCESSES,
    ORDER,
    POINTS,
    SUMS,
    CloseWait,
    Ranking,
    TimeWait,
    Trend,
    among,
    optional_int,
    trend_part,
    trends,
)
from loiter_aggregator.store.question import Reader

# Measures of the latest sample alone: which processes are worst by them is known before the window is read.
_OF_LATEST: Final = ("close_wait", "fd_share", "stuck", "ports")
_TIES: Final = "close_wait_now DESC NULLS LAST, hostname, pid, start_time"


@dataclass(frozen=True, slots=True)
class Ages:
    """How long the CLOSE_WAIT sockets of a process have been in that state, in seconds."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One ranked process. `time_wait` holds None where no owner of such sockets is known."""

    host_key: int
    host_id: str
    hostname: str
    last_seen: int
    interval_ms: int
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
    fd_limit_hard: int | None
    fd_share: float | None
    sockets: int | None
    cause: sample_pb2.Cause.ValueType | None
    stuck: int | None
    ages: Ages | None
    ports_share: float | None

    @property
    def series(self) -> tuple[int, int, int]:
        """What names the process in the store."""
        return self.host_key, self.pid, self.start_time


def current_processes(ranking: Ranking, host_key: int | None = None, chosen: str = "") -> str:
    """The relation of processes that are in their host's latest sample, with their sums over the window.

    `chosen` is what is to follow a SELECT from those processes, their hosts and identities where not all are wanted:
    then the window is only read of the hosts that they are on.

    A process without CLOSE_WAIT sockets need not be reported: in a sample of its host that it is not part of, it has
    none. Such samples take part in its line from its start on, so that a burst of the last moments is not taken for
    the trend of the window. They do not where a host had to leave out processes that have such sockets. Start times
    are by the host's clock, as it was when the process was reported first: set right, as the times of samples are.
    """
    only = "" if host_key is None else f" AND host_key = {int(host_key)}"
    names = " JOIN host USING (host_key) JOIN identity USING (identity_key)" if chosen else ""
    hosts = f"{ranking.within}{only}" + (" AND host_key IN (SELECT host_key FROM chosen)" if chosen else "")
    absent = "greatest(seen_n - all_n, 0)"
    return f"""
        WITH newest AS ({present_processes(ranking, only)}),
        chosen AS (SELECT newest.* FROM newest{names} {chosen}),
        host_points AS (
            SELECT host_key, ts, (ts - $now) / 1000.0 AS t, coalesce(other_close_wait, 1) AS left_out, skew
            FROM host_sample WHERE {hosts} AND {KNOWS_PROCESSES}),
        hosts AS (
            SELECT host_key, count(*) AS seen_n, sum(t) AS seen_t, sum(t * t) AS seen_tt, max(left_out) AS left_out
            FROM host_points GROUP BY host_key),
        reported AS (
            SELECT {SERIES}, {SUMS}, min(ts) AS first_ts, count(*) AS all_n,
                sum(point_t) AS all_t, sum(point_t * point_t) AS all_tt,
                avg(time_wait) AS time_wait_mean, max(time_wait) AS time_wait_max
            FROM (SELECT *, {POINTS}, (ts - $now) / 1000.0 AS point_t FROM process_sample WHERE {hosts})
            GROUP BY {SERIES}),
        skews AS (SELECT host_key, ts AS first_ts, max(skew) AS skew FROM host_points WHERE skew <> 0 GROUP BY ALL),
        started AS (
            SELECT {SERIES}, least(start_time + coalesce(skew, 0), first_ts) AS first
            FROM reported LEFT JOIN skews USING (host_key, first_ts) WHERE y_max > 0),
        -- Processes that started within the window: only what their host saw since then counts for them.
        young AS (
            SELECT {SERIES}, count(*) AS seen_n, sum(t) AS seen_t, sum(t * t) AS seen_tt
            FROM started JOIN host_points USING (host_key)
            WHERE first > {int(ranking.since)} AND ts >= first GROUP BY {SERIES}),
        since_start AS (
            SELECT {SERIES}, coalesce(young.seen_n, hosts.seen_n) AS seen_n,
                coalesce(young.seen_t, hosts.seen_t) AS seen_t, coalesce(young.seen_tt, hosts.seen_tt) AS seen_tt
            FROM started JOIN hosts USING (host_key) LEFT JOIN young USING ({SERIES})
            WHERE left_out = 0 AND (first <= {int(ranking.since)} OR young.seen_n IS NOT NULL)),
        filled AS (
            SELECT {SERIES}, n + absent AS n, sy, sty, syy, y_max,
                st + CASE WHEN absent > 0 THEN seen_t - all_t ELSE 0 END AS st,
                stt + CASE WHEN absent > 0 THEN seen_tt - all_tt ELSE 0 END AS stt,
                CASE WHEN absent > 0 THEN 0 ELSE y_min END AS y_min, time_wait_mean, time_wait_max
            FROM (
                SELECT *, CASE WHEN seen_n IS NULL THEN 0 ELSE {absent} END AS absent
                FROM reported LEFT JOIN since_start USING ({SERIES})) AS counted)
        SELECT *, {GROWTH} AS growth, {FIT} AS fit FROM chosen JOIN filled USING ({SERIES})"""


def rank_processes(store: Reader, ranking: Ranking, host_key: int | None = None) -> list[ProcessRow]:
    """Ranks the processes of all hosts, or of one. Raises StoreError."""
    chosen = where(of_process(ranking))
    if ranking.by in _OF_LATEST:
        chosen += f" ORDER BY {ORDER[ranking.by]}, {_TIES} LIMIT $limit"
    rows = store.read(
        f"""
        SELECT host_key, host_id, hostname, {ranking.seen}, interval_ms, pid, start_time, name, app, user_name,
            last_sample, close_wait_now, y_max, growth, fit, n, time_wait_now, time_wait_mean, time_wait_max,
            established, fd_open, fd_limit, fd_limit_hard, fd_share, sockets, cause, stuck,
            age_p50, age_p99, age_max, ports_share
        FROM ({current_processes(ranking, host_key, chosen)}) AS current
            JOIN host USING (host_key) JOIN identity USING (identity_key){_seen_join(ranking)}
            {forecast_join(ranking, SERIES)}
        ORDER BY {ORDER[ranking.by]}, {_TIES}
        LIMIT $limit""",
        ranking.parameters(),
    )
    return [_row(row) for row in rows]


def _seen_join(ranking: Ranking) -> str:
    """Joins when the latest sample of each host was taken, where that says when it was heard of last."""
    if not ranking.past:
        return ""
    return f"""
        JOIN (SELECT host_key, max(ts) AS latest FROM host_sample WHERE {ranking.window} GROUP BY host_key) AS seen
            USING (host_key)"""


def _row(row: tuple[Any, ...]) -> ProcessRow:
    return ProcessRow(
        host_key=row[0],
        host_id=row[1],
        hostname=row[2],
        last_seen=row[3],
        interval_ms=row[4],
        pid=row[5],
        start_time=row[6],
        name=row[7],
        app=row[8],
        user=row[9],
        last_sample=row[10],
        close_wait=CloseWait(optional_int(row[11]), optional_int(row[12]), row[13], row[14], row[15]),
        time_wait=TimeWait(optional_int(row[16]), row[17], optional_int(row[18])),
        established=row[19],
        fd_open=row[20],
        fd_limit=row[21],
        fd_limit_hard=row[22],
        fd_share=row[23],
        sockets=row[24],
        cause=row[25],
        stuck=row[26],
        ages=None if row[27] is None else Ages(*row[27:30]),
        ports_share=row[30],
    )


def process_trends(store: Reader, ranking: Ranking, rows: list[ProcessRow]) -> dict[tuple[int, int, int], Trend]:
    """Reads the CLOSE_WAIT trend of ranked processes, by what names them in the store. Raises StoreError."""
    if not rows:
        return {}
    # Some of other processes are among them: to compare whole keys with each sample takes longer than what those cost.
    hosts = among("host_key", (row.host_key for row in rows))
    pids = ", ".join(str(int(pid)) for pid in {row.pid for row in rows})
    read = store.read(
        f"""
        SELECT {SERIES}, {trend_part(ranking.since, ranking.now)} AS part, max(close_wait) FROM (
            SELECT {SERIES}, ts, close_wait FROM process_sample
            WHERE {ranking.window} AND {hosts} AND close_wait IS NOT NULL) AS points
        WHERE pid IN ({pids}) GROUP BY {SERIES}, part"""
    )
    found = {(key[0], key[1], key[2]): trend for key, trend in trends(read).items()}
    return {row.series: found[row.series] for row in rows if row.series in found}
