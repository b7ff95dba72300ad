"""Ranks groups of hosts: those that carry the same value of one label are one row, those without it another.

The growth of a group is the sum of the growths of its hosts, so that a host that comes or goes is no leap. Its fit is
the pooled r², as that of an application: the share of the variance within hosts that their own lines explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loiter.v1 import sample_pb2
from loiter_aggregator.ranking.causes import CAUSE_COLUMNS, STUCK, cause_sums, is_most, most
from loiter_aggregator.ranking.filters import holds, where
from loiter_aggregator.ranking.fleet import SILENT
from loiter_aggregator.ranking.forecast import forecast_join
from loiter_aggregator.ranking.hosts import host_figures
from loiter_aggregator.ranking.present import present_processes
from loiter_aggregator.ranking.query import (
    GROUP_OF,
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
class GroupRow:
    """One ranked group; `value` is None for the hosts that do not carry the label."""

    value: str | None
    hosts: int
    silent_hosts: int
    close_wait: CloseWait
    time_wait: TimeWait
    established: int | None
    fd_share: float | None
    cause: sample_pb2.Cause.ValueType | None
    stuck: int | None
    ports_share: float | None


def rank_groups(store: Reader, ranking: Ranking, label: str) -> list[GroupRow]:
    """Ranks the groups that a label makes of the hosts that sent samples in the window. Raises StoreError."""
    by_eta = ranking.by == "fd_eta"
    conditions = [holds("value")] if ranking.contains else []
    if ranking.cause is not None:
        conditions.append(is_most(ranking.cause))
    rows = store.read(
        f"""
        SELECT value, hosts, silent_hosts, close_wait_now, close_wait_max, growth,
            CASE WHEN variance > 0 THEN explained / variance END AS fit, n,
            time_wait_now, time_wait_mean, time_wait_max, established, fd_share, stuck, ports_share,
            {", ".join(CAUSE_COLUMNS)}
        FROM (
            SELECT value, count(*) AS hosts,
                count(CASE WHEN {ranking.seen} < $now - {SILENT} THEN 1 END) AS silent_hosts,
                sum(close_wait_now) AS close_wait_now, sum(y_max) AS close_wait_max, sum(growth) AS growth,
                sum(CASE WHEN fit IS NOT NULL THEN fit * (syy - sy * sy / n) END) AS explained,
                sum(CASE WHEN fit IS NOT NULL THEN syy - sy * sy / n END) AS variance,
                sum(n) AS n, sum(time_wait_now) AS time_wait_now, sum(time_wait_mean) AS time_wait_mean,
                sum(time_wait_max) AS time_wait_max, sum(established) AS established,
                max(held.fd_share) AS fd_share, {STUCK} AS stuck, max(ports_share) AS ports_share,
                {", ".join(f"sum({column}) AS {column}" for column in CAUSE_COLUMNS)}
                {", min(fd_eta) AS fd_eta" if by_eta else ""}
            FROM ({host_figures(ranking)}) AS figures JOIN host USING (host_key)
                LEFT JOIN ({GROUP_OF}) AS members USING (host_key)
                LEFT JOIN ({_held(ranking)}) AS held USING (host_key){forecast_join(ranking, "host_key")}
            GROUP BY value) AS groups
        {where(conditions)}
        ORDER BY {ORDER[ranking.by]}, close_wait_now DESC NULLS LAST, value NULLS LAST
        LIMIT $limit""",
        ranking.parameters() | {"group_by": label},
    )
    return [_row(row) for row in rows]


def _row(row: tuple[Any, ...]) -> GroupRow:
    return GroupRow(
        value=row[0],
        hosts=row[1],
        silent_hosts=row[2],
        close_wait=CloseWait(optional_int(row[3]), optional_int(row[4]), row[5], row[6], int(row[7])),
        time_wait=TimeWait(optional_int(row[8]), row[9], optional_int(row[10])),
        established=optional_int(row[11]),
        fd_share=row[12],
        cause=most(row[15:]),
        stuck=optional_int(row[13]),
        ports_share=row[14],
    )


def _held(ranking: Ranking) -> str:
    """The relation of what the processes come to that are in their host's latest sample: one row a host."""
    return f"""
        SELECT host_key, max(fd_share) AS fd_share, {cause_sums("close_wait_now")}
        FROM ({present_processes(ranking)}) AS present GROUP BY host_key"""


def group_trends(store: Reader, ranking: Ranking, label: str) -> dict[str | None, Trend]:
    """Reads the CLOSE_WAIT trend of each group: for each part, the maxima of its hosts added up. Raises StoreError."""
    read = store.read(
        f"""
        SELECT value, part, sum(close_wait) FROM (
            SELECT host_key, {trend_part(ranking.since, ranking.now)} AS part, max(close_wait) AS close_wait
            FROM host_sample WHERE {ranking.within} AND close_wait IS NOT NULL
            GROUP BY host_key, part) AS parts LEFT JOIN ({GROUP_OF}) AS members USING (host_key)
        GROUP BY value, part""",
        label_parameters(ranking.labels) | {"group_by": label},
    )
    return {value: trend for (value,), trend in trends(read).items()}


def label_names(store: Reader, limit: int) -> list[str]:
    """Lists the names of the labels that hosts carry. Raises StoreError."""
    rows = store.read(f"SELECT DISTINCT name FROM host_label ORDER BY name LIMIT {int(limit)}")
    return [name for (name,) in rows]
