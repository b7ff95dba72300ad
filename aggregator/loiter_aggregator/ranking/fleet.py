"""Adds up the fleet: totals, coverage, silent hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loiter_aggregator.ranking.query import (
    Trend,
    label_filter,
    label_parameters,
    optional_int,
    trend_part,
    trends,
)
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.schema import TCP_STATES

# A host that missed three reports is silent. The floor keeps one late commit from counting as silence.
_SILENT_AFTER_INTERVALS = 3
_SILENT_FLOOR_MS = 5_000

_COVERAGE = (
    "sockets_attributed",
    "sockets_unattributed",
    "processes_unreadable",
    "namespaces_unread",
    "namespaces_by_procfs",
    "close_wait_uncharged",
)

SILENT = f"greatest({_SILENT_AFTER_INTERVALS} * interval_ms, {_SILENT_FLOOR_MS})"


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the figures of a fleet rest on; see the message FleetCoverage."""

    hosts: int
    hosts_reporting: int
    hosts_silent: int
    hosts_unknown: int
    sockets_attributed: int | None
    sockets_unattributed: int | None
    processes_unreadable: int | None
    namespaces_unread: int | None
    namespaces_by_procfs: int | None
    close_wait_uncharged: int | None


@dataclass(frozen=True, slots=True)
class SilentHost:
    """A host that stopped reporting; `last_seen` in milliseconds."""

    host_id: str
    hostname: str
    last_seen: int


def is_silent(last_seen: int, interval_ms: int, now: int) -> bool:
    """Tells whether a host stopped reporting."""
    return now - last_seen > max(_SILENT_AFTER_INTERVALS * interval_ms, _SILENT_FLOOR_MS)


def fleet_coverage(store: DuckDbStore, labels: Mapping[str, str], now: int) -> Coverage:
    """Says what the figures of the fleet rest on. Raises StoreError."""
    parameters = label_parameters(labels) | {"now": now}
    hosts, reporting = store.read(
        f"""
        SELECT count(*), count(CASE WHEN last_seen >= $now - {SILENT} THEN 1 END)
        FROM host WHERE last_seen IS NOT NULL{label_filter(labels)}""",
        parameters,
    )[0]
    sums = ", ".join(f"sum({column})" for column in _COVERAGE)
    unknown = " OR ".join(f"{column} IS NULL" for column in _COVERAGE)
    *figures, unknown_hosts = store.read(
        f"""
        SELECT {sums}, count(CASE WHEN {unknown} THEN 1 END)
        FROM ({_latest(labels, _COVERAGE)}) AS latest""",
        parameters,
    )[0]
    return Coverage(
        hosts=hosts,
        hosts_reporting=reporting,
        hosts_silent=hosts - reporting,
        hosts_unknown=unknown_hosts,
        **{column: optional_int(figure) for column, figure in zip(_COVERAGE, figures, strict=True)},
    )


def fleet_states(store: DuckDbStore, labels: Mapping[str, str], now: int) -> dict[str, int | None]:
    """Adds up the latest TCP states of the reporting hosts. None where no host knows. Raises StoreError."""
    sums = ", ".join(f"sum({state})" for state in TCP_STATES)
    sql = f"SELECT {sums} FROM ({_latest(labels, TCP_STATES)}) AS latest"
    row = store.read(sql, label_parameters(labels) | {"now": now})[0]
    return {state: None if value is None else int(value) for state, value in zip(TCP_STATES, row, strict=True)}


def silent_hosts(store: DuckDbStore, labels: Mapping[str, str], now: int, limit: int) -> list[SilentHost]:
    """Lists the hosts that stopped reporting, longest first. Raises StoreError."""
    rows = store.read(
        f"""
        SELECT host_id, hostname, last_seen FROM host
        WHERE last_seen < $now - {SILENT}{label_filter(labels)}
        ORDER BY last_seen, hostname LIMIT {int(limit)}""",
        label_parameters(labels) | {"now": now},
    )
    return [SilentHost(*row) for row in rows]


def fleet_trend(store: DuckDbStore, labels: Mapping[str, str], since: int, now: int, state: str) -> Trend:
    """Reads one TCP state of all hosts over a window: for each part, the maxima of the hosts added up."""
    assert state in TCP_STATES
    rows: list[tuple[Any, ...]] = store.read(
        f"""
        SELECT part, sum(y) FROM (
            SELECT host_key, {trend_part(since, now)} AS part, max({state}) AS y
            FROM host_sample WHERE ts >= $since AND {state} IS NOT NULL{label_filter(labels)}
            GROUP BY host_key, part) AS parts
        GROUP BY part""",
        label_parameters(labels) | {"since": since},
    )
    return trends(rows).get((), ())


def _latest(labels: Mapping[str, str], columns: Sequence[str]) -> str:
    """The relation of columns of the latest samples of the hosts that are reporting: one row a host."""
    values = ", ".join(f"max({column}) AS {column}" for column in columns)
    return f"""
        SELECT host_key, {values} FROM host_sample JOIN (
            SELECT host_key, max(ts) AS latest FROM host_sample JOIN host USING (host_key)
            WHERE received >= last_seen AND last_seen >= $now - {SILENT}{label_filter(labels)}
            GROUP BY host_key) AS newest USING (host_key)
        WHERE ts = latest GROUP BY host_key"""
