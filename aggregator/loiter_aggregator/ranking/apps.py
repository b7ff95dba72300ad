"""Ranks applications: the same program on any number of hosts is one row.

The growth of an application is the sum of the growths of its processes, so that a restart, which starts a series
anew, is no drop. Its fit is the pooled r²: the share of the variance within processes that their own lines explain.
"""

from __future__ import annotations

from dataclasses import dataclass

from loiter.v1 import sample_pb2
from loiter_aggregator.ranking.causes import CAUSE_COLUMNS, STUCK, cause_sums, is_most, most
from loiter_aggregator.ranking.filters import of_app, where
from loiter_aggregator.ranking.forecast import forecast_join
from loiter_aggregator.ranking.processes import current_processes
from loiter_aggregator.ranking.query import (
    ORDER,
    CloseWait,
    Ranking,
    TimeWait,
    Trend,
    label_parameters,
    optional_int,
    trend_part,
    trends,
)
from loiter_aggregator.store.question import Reader


@dataclass(frozen=True, slots=True)
class AppRow:
    """One ranked application."""

    app: str
    hosts: int
    processes: int
    close_wait: CloseWait
    time_wait: TimeWait
    established: int | None
    fd_share: float | None
    cause: sample_pb2.Cause.ValueType | None
    stuck: int | None
    ports_share: float | None


def rank_apps(store: Reader, ranking: Ranking) -> list[AppRow]:
    """Ranks the applications. Raises StoreError."""
    rows = store.read(
        f"""
        SELECT app, hosts, processes, close_wait_now, close_wait_max, growth,
            CASE WHEN variance > 0 THEN explained / variance END AS fit, n,
            time_wait_now, time_wait_mean, time_wait_max, established, fd_share, stuck, ports_share,
            {", ".join(CAUSE_COLUMNS)}
        FROM (
            SELECT app, count(DISTINCT host_key) AS hosts, count(*) AS processes,
                sum(close_wait_now) AS close_wait_now, sum(y_max) AS close_wait_max, sum(growth) AS growth,
                sum(CASE WHEN fit IS NOT NULL THEN fit * (syy - sy * sy / n) END) AS explained,
                sum(CASE WHEN fit IS NOT NULL THEN syy - sy * sy / n END) AS variance,
                sum(n) AS n, sum(time_wait_now) AS time_wait_now, sum(time_wait_mean) AS time_wait_mean,
                sum(time_wait_max) AS time_wait_max, sum(established) AS established, max(fd_share) AS fd_share,
                {STUCK} AS stuck, max(ports_share) AS ports_share, {cause_sums("close_wait_now")}
            FROM ({current_processes(ranking, chosen=where(of_app(ranking)))}) AS current
                JOIN identity USING (identity_key)
            GROUP BY app) AS apps{forecast_join(ranking, "app")}
        {where([] if ranking.cause is None else [is_most(ranking.cause)])}
        ORDER BY {ORDER[ranking.by]}, close_wait_now DESC NULLS LAST, app
        LIMIT $limit""",
        ranking.parameters(),
    )
    return [
        AppRow(
            app=row[0],
            hosts=row[1],
            processes=row[2],
            close_wait=CloseWait(optional_int(row[3]), optional_int(row[4]), row[5], row[6], int(row[7])),
            time_wait=TimeWait(optional_int(row[8]), row[9], optional_int(row[10])),
            established=optional_int(row[11]),
            fd_share=row[12],
            cause=most(row[15:]),
            stuck=optional_int(row[13]),
            ports_share=row[14],
        )
        for row in rows
    ]


def app_trends(store: Reader, ranking: Ranking, rows: list[AppRow]) -> dict[str, Trend]:
    """Reads the CLOSE_WAIT trend of ranked applications: for each part, the maxima of their processes added up."""
    if not rows:
        return {}
    parameters = label_parameters(ranking.labels)
    parameters |= {f"app{i}": row.app for i, row in enumerate(rows)}
    names = ", ".join(f"$app{i}" for i in range(len(rows)))
    read = store.read(
        f"""
        SELECT app, part, sum(close_wait) FROM (
            SELECT app, host_key, pid, start_time, {trend_part(ranking.since, ranking.now)} AS part,
                max(close_wait) AS close_wait
            FROM process_sample JOIN identity USING (identity_key)
            WHERE {ranking.within} AND app IN ({names}) AND close_wait IS NOT NULL
            GROUP BY app, host_key, pid, start_time, part) AS parts
        GROUP BY app, part""",
        parameters,
    )
    return {app: trend for (app,), trend in trends(read).items()}
