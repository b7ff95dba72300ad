"""Ranks hosts."""

from __future__ import annotations

from dataclasses import dataclass

from loiter.v1 import sample_pb2
from loiter_aggregator.ranking.filters import is_cause, of_host, where
from loiter_aggregator.ranking.forecast import forecast_join
from loiter_aggregator.ranking.overflows import overflows
from loiter_aggregator.ranking.query import (
    FIT,
    GROWTH,
    KNOWS_CAUSES,
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


@dataclass(frozen=True, slots=True)
class HostRow:
    """One ranked host."""

    host_key: int
    host_id: str
    hostname: str
    last_seen: int
    interval_ms: int
    close_wait: CloseWait
    time_wait: TimeWait
    established: int | None
    fd_allocated: int | None
    fd_limit: int | None
    fd_share: float | None
    cause: sample_pb2.Cause.ValueType | None
    stuck: int | None
    ports_share: float | None


def host_figures(ranking: Ranking, only: str = "") -> str:
    """The relation of the hosts that sent samples in the window, with their sums over it.

    `only` is a further condition on `host_key`, with AND before it.
    """
    return f"""
        WITH sums AS (
            SELECT host_key, {SUMS}, max(ts) AS latest, avg(time_wait) AS time_wait_mean,
                max(time_wait) AS time_wait_max
            FROM (SELECT *, {POINTS} FROM host_sample WHERE {ranking.within}{only})
            GROUP BY host_key),
        -- Of the latest sample, unknown included: an older figure would pass for a present one.
        newest AS (
            SELECT host_key, max(close_wait) AS close_wait_now, max(time_wait) AS time_wait_now,
                max(established) AS established, max(fd_allocated) AS fd_allocated, max(fd_limit) AS fd_limit,
                max(cause) AS cause, max(ports_share) AS ports_share,
                max(CASE WHEN {KNOWS_CAUSES} OR close_wait = 0 THEN stuck END) AS stuck
            FROM host_sample JOIN sums USING (host_key) WHERE {ranking.window} AND ts = latest GROUP BY host_key)
        SELECT *, {GROWTH} AS growth, {FIT} AS fit,
            CASE WHEN fd_limit > 0 THEN CAST(fd_allocated AS DOUBLE) / fd_limit END AS fd_share
        FROM sums JOIN newest USING (host_key)"""


def rank_hosts(store: Reader, ranking: Ranking, host_key: int | None = None) -> list[HostRow]:
    """Ranks the hosts that sent samples in the window, or looks at one of them. Raises StoreError."""
    only = of_host(ranking) if host_key is None else f" AND host_key = {int(host_key)}"
    conditions = [] if ranking.cause is None else [is_cause(ranking.cause)]
    rows = store.read(
        f"""
        SELECT host_key, host_id, hostname, {ranking.seen}, interval_ms, close_wait_now, y_max, growth, fit, n,
            time_wait_now, time_wait_mean, time_wait_max, established, fd_allocated, fd_limit, fd_share,
            cause, stuck, ports_share
        FROM ({host_figures(ranking, only)}) AS figures
            JOIN host USING (host_key){forecast_join(ranking, "host_key")}{_overflows_join(ranking)}
        {where(conditions)}
        ORDER BY {ORDER[ranking.by]}, close_wait_now DESC NULLS LAST, hostname, host_key
        LIMIT $limit""",
        ranking.parameters(),
    )
    return [
        HostRow(
            host_key=row[0],
            host_id=row[1],
            hostname=row[2],
            last_seen=row[3],
            interval_ms=row[4],
            close_wait=CloseWait(optional_int(row[5]), optional_int(row[6]), row[7], row[8], row[9]),
            time_wait=TimeWait(optional_int(row[10]), row[11], optional_int(row[12])),
            established=row[13],
            fd_allocated=row[14],
            fd_limit=row[15],
            fd_share=row[16],
            cause=row[17],
            stuck=row[18],
            ports_share=row[19],
        )
        for row in rows
    ]


def _overflows_join(ranking: Ranking) -> str:
    """Joins the overflows to a ranking that is by them, and nothing to any other."""
    if ranking.by != "time_wait_overflows":
        return ""
    return f" LEFT JOIN ({overflows(ranking)}) AS overflows USING (host_key)"


def host_trends(store: Reader, ranking: Ranking, rows: list[HostRow]) -> dict[int, Trend]:
    """Reads the CLOSE_WAIT trend of ranked hosts, by host key. Raises StoreError."""
    if not rows:
        return {}
    read = store.read(
        f"""
        SELECT host_key, {trend_part(ranking.since, ranking.now)} AS part, max(close_wait)
        FROM host_sample
        WHERE {ranking.window} AND {among("host_key", (row.host_key for row in rows))} AND close_wait IS NOT NULL
        GROUP BY host_key, part"""
    )
    return {key: trend for (key,), trend in trends(read).items()}


def host_labels(store: Reader, rows: list[HostRow]) -> dict[int, dict[str, str]]:
    """Reads the labels of ranked hosts, by host key. Raises StoreError."""
    if not rows:
        return {}
    keys = ", ".join(str(int(row.host_key)) for row in rows)
    labels: dict[int, dict[str, str]] = {}
    for key, name, value in store.read(
        f"SELECT host_key, name, value FROM host_label WHERE host_key IN ({keys}) ORDER BY name", {}
    ):
        labels.setdefault(key, {})[name] = value
    return labels
