"""Adds up the fleet: totals, coverage, silent hosts, and hosts that something else is the matter with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loiter_aggregator.ranking.query import (
    Trend,
    label_filter,
    label_parameters,
    optional_int,
    trend_part,
    trends,
)
from loiter_aggregator.store.question import Reader
from loiter_aggregator.store.schema import LOST_AT, TCP_STATES

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

# For how long the loss of samples is said beneath every ranking.
LOSING_FOR_MS: Final = 3_600_000

# A host that was not heard of for so long does not count as silent any more: all that is shown of it is its past.
_GONE_MS: Final = 31 * 86_400_000

_LOST: Final = "last_sequence - first_sequence + 1"

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
    hosts_degraded: int = 0
    hosts_skewed: int = 0
    hosts_losing: int = 0


@dataclass(frozen=True, slots=True)
class SilentHost:
    """A host that stopped reporting; `last_seen` in milliseconds."""

    host_id: str
    hostname: str
    last_seen: int


@dataclass(frozen=True, slots=True)
class NotedHost:
    """A host that something is the matter with; what, and how much, is that of the question.

    `figure` is None where it is not known.
    """

    host_id: str
    hostname: str
    figure: int | None


def is_silent(last_seen: int, interval_ms: int, now: int) -> bool:
    """Tells whether a host stopped reporting."""
    return now - last_seen > max(_SILENT_AFTER_INTERVALS * interval_ms, _SILENT_FLOOR_MS)


def fleet_coverage(store: Reader, labels: Mapping[str, str], now: int, since: int | None = None) -> Coverage:
    """Says what the figures of the fleet rest on. Raises StoreError.

    Where `since` is given, they are those of a window that ended at `now`, and what they rest on is as of then: of the
    hosts that sent samples within the window, those are silent that sent none in its last moments.
    """
    parameters = label_parameters(labels) | {"now": now}
    known = f"SELECT * FROM host WHERE last_seen >= $now - {_GONE_MS}{label_filter(labels)}"
    if since is not None:
        known = f"SELECT host_key, interval_ms, latest AS last_seen FROM ({_seen(labels, since, now)}) AS seen"
    hosts, reporting = store.read(
        f"SELECT count(*), count(CASE WHEN last_seen >= $now - {SILENT} THEN 1 END) FROM ({known}) AS known", parameters
    )[0]
    sums = ", ".join(f"sum({column})" for column in _COVERAGE)
    unknown = " OR ".join(f"{column} IS NULL" for column in _COVERAGE)
    *figures, unknown_hosts, degraded, skewed = store.read(
        f"""
        SELECT {sums}, count(CASE WHEN {unknown} THEN 1 END), count(CASE WHEN degradation > 0 THEN 1 END),
            count(CASE WHEN skew <> 0 THEN 1 END)
        FROM ({_latest(labels, (*_COVERAGE, "degradation", "skew"), since, now)}) AS latest""",
        parameters,
    )[0]
    losing = store.read(
        f"""
        SELECT count(DISTINCT host_key) FROM lost_sample JOIN host USING (host_key)
        WHERE {LOST_AT} >= $now - {LOSING_FOR_MS} AND {LOST_AT} <= $now{label_filter(labels)}""",
        parameters,
    )[0][0]
    return Coverage(
        hosts=hosts,
        hosts_reporting=reporting,
        hosts_silent=hosts - reporting,
        hosts_unknown=unknown_hosts,
        hosts_degraded=degraded,
        hosts_skewed=skewed,
        hosts_losing=losing,
        **{column: optional_int(figure) for column, figure in zip(_COVERAGE, figures, strict=True)},
    )


def fleet_states(store: Reader, labels: Mapping[str, str], now: int) -> dict[str, int | None]:
    """Adds up the latest TCP states of the reporting hosts. None where no host knows. Raises StoreError."""
    sums = ", ".join(f"sum({state})" for state in TCP_STATES)
    sql = f"SELECT {sums} FROM ({_latest(labels, TCP_STATES)}) AS latest"
    row = store.read(sql, label_parameters(labels) | {"now": now})[0]
    return {state: None if value is None else int(value) for state, value in zip(TCP_STATES, row, strict=True)}


def silent_hosts(store: Reader, labels: Mapping[str, str], now: int, limit: int, since: int = 0) -> list[SilentHost]:
    """Lists the hosts that stopped reporting, at `since` or later, longest first. Raises StoreError."""
    rows = store.read(
        f"""
        SELECT host_id, hostname, last_seen FROM host
        WHERE last_seen < $now - {SILENT} AND last_seen >= {max(int(since), now - _GONE_MS)}{label_filter(labels)}
        ORDER BY last_seen, hostname LIMIT {int(limit)}""",
        label_parameters(labels) | {"now": now},
    )
    return [SilentHost(*row) for row in rows]


def losing_hosts(store: Reader, labels: Mapping[str, str], since: int, now: int, limit: int) -> list[NotedHost]:
    """Lists the hosts that lost samples from `since` to `now`, most first; those without a number last.

    Raises StoreError.
    """
    rows = store.read(
        f"""
        SELECT host_id, hostname, sum({_LOST}) AS lost FROM lost_sample JOIN host USING (host_key)
        WHERE {LOST_AT} >= $since AND {LOST_AT} <= $now{label_filter(labels)}
        GROUP BY host_key, host_id, hostname ORDER BY lost DESC NULLS LAST, hostname LIMIT {int(limit)}""",
        label_parameters(labels) | {"since": since, "now": now},
    )
    return [NotedHost(host_id, hostname, optional_int(lost)) for host_id, hostname, lost in rows]


def skewed_hosts(store: Reader, labels: Mapping[str, str], now: int, limit: int) -> list[NotedHost]:
    """Lists the reporting hosts whose clocks are off, by how many milliseconds they are behind, most first.

    Raises StoreError.
    """
    return _noted(store, labels, now, "skew", "abs(skew)", limit)


def degraded_hosts(store: Reader, labels: Mapping[str, str], now: int, limit: int) -> list[NotedHost]:
    """Lists the reporting hosts whose agents leave something out, most first. Raises StoreError."""
    return _noted(store, labels, now, "degradation", "degradation", limit)


def _noted(store: Reader, labels: Mapping[str, str], now: int, column: str, order: str, limit: int) -> list[NotedHost]:
    rows = store.read(
        f"""
        SELECT host_id, hostname, {column} FROM ({_latest(labels, (column,))}) AS latest JOIN host USING (host_key)
        WHERE {column} <> 0 ORDER BY {order} DESC, hostname LIMIT {int(limit)}""",
        label_parameters(labels) | {"now": now},
    )
    return [NotedHost(*row) for row in rows]


def fleet_trend(store: Reader, labels: Mapping[str, str], since: int, now: int, state: str) -> Trend:
    """Reads one TCP state of all hosts over a window: for each part, the maxima of the hosts added up."""
    assert state in TCP_STATES
    rows: list[tuple[Any, ...]] = store.read(
        f"""
        SELECT part, sum(y) FROM (
            SELECT host_key, {trend_part(since, now)} AS part, max({state}) AS y
            FROM host_sample WHERE ts >= {int(since)} AND ts <= {int(now)} AND {state} IS NOT NULL{label_filter(labels)}
            GROUP BY host_key, part) AS parts
        GROUP BY part""",
        label_parameters(labels),
    )
    return trends(rows).get((), ())


def _seen(labels: Mapping[str, str], since: int, until: int) -> str:
    """The relation of the hosts that sent samples within a window, and when the latest of those was taken."""
    return f"""
        SELECT host_key, max(interval_ms) AS interval_ms, max(ts) AS latest FROM host_sample JOIN host USING (host_key)
        WHERE ts >= {int(since)} AND ts <= {int(until)}{label_filter(labels)} GROUP BY host_key"""


def _latest(labels: Mapping[str, str], columns: Sequence[str], since: int | None = None, until: int = 0) -> str:
    """The relation of columns of the latest samples of the hosts that are reporting: one row a host.

    The latest sample is the one taken last. What came last may have waited on the host for long. Where `since` is
    given, it is the latest of a window up to `until`.
    """
    values = ", ".join(f"max({column}) AS {column}" for column in columns)
    newest = f"""
        SELECT host_key, host_latest.ts AS latest FROM host_latest JOIN host USING (host_key)
        WHERE last_seen >= $now - {SILENT}{label_filter(labels)}"""
    if since is not None:
        newest = f"SELECT host_key, latest FROM ({_seen(labels, since, until)}) AS seen WHERE latest >= $now - {SILENT}"
    return f"""
        SELECT host_key, {values} FROM host_sample JOIN ({newest}) AS newest USING (host_key)
        WHERE ts = latest GROUP BY host_key"""
