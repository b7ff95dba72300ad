"""How figures went: a window is divided into equal parts, and each has the maximum of every series, added up.

A series is a host, or a process. Parts may be shorter than the time between two samples, and hosts do not tick at one
time: a sum of what fell into each part alone would fall and rise with nothing behind it. So a part into which no sample
of a host fell has that host's figures of the part before, for as long as the host is not silent (three of its
intervals, five seconds at least). Thereafter it is unknown, and not part of any sum. What a process had is carried with
its host: one that ended is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loiter_aggregator.ranking.fleet import SILENT
from loiter_aggregator.ranking.present import SERIES
from loiter_aggregator.ranking.query import (
    KNOWS_CAUSES,
    KNOWS_PROCESSES,
    Ranking,
    label_filter,
    label_parameters,
    trend_part,
)
from loiter_aggregator.store.question import Reader
from loiter_aggregator.store.schema import TCP_STATES

Values = Sequence[float | None]

# What a sample of a host says, by the names of the figures.
_OF_HOST: Final[Mapping[str, str]] = {
    **{state: state for state in TCP_STATES},
    "fd_allocated": "fd_allocated",
    "fd_limit": "fd_limit",
    "stuck": f"CASE WHEN {KNOWS_CAUSES} OR close_wait = 0 THEN stuck END",
    "ports_share": "ports_share",
}
_OF_PROCESS: Final = ("close_wait", "stuck", "time_wait", "established", "fd_open", "fd_limit")
# Shares do not add up, nor do limits that each process has for itself.
_SUMS_OF_HOSTS: Final = {**{name: f"sum({name})" for name in _OF_HOST}, "ports_share": "max(ports_share)"}
_SUMS_OF_PROCESSES: Final = {**{name: f"sum({name})" for name in _OF_PROCESS}, "fd_limit": "min(fd_limit)"}


@dataclass(frozen=True, slots=True)
class History:
    """A question: the window and the labels of a ranking, in how many parts; of one host where a key is given."""

    ranking: Ranking
    parts: int
    host_key: int | None = None

    @property
    def hosts(self) -> str:
        """A condition on `host_key`."""
        return "true" + self._only + label_filter(self.ranking.labels)

    @property
    def _only(self) -> str:
        return "" if self.host_key is None else f" AND host_key = {int(self.host_key)}"

    @property
    def part(self) -> str:
        """The part that `ts` falls into; -1 before the window, which is only there to be carried into it."""
        since, now = int(self.ranking.since), int(self.ranking.now)
        return f"CASE WHEN ts < {since} THEN -1 ELSE {trend_part(since, now, self.parts)} END"


def host_history(store: Reader, history: History) -> dict[str, Values]:
    """Reads the figures of the hosts, added up, by name; `hosts` is how many there were. Raises StoreError."""
    columns = ", ".join(f"max({sql}) AS {name}" for name, sql in _OF_HOST.items())
    return _read(
        store,
        history,
        f"""
        WITH points AS (
            SELECT host_key, {history.part} AS part, max(ts) AS last_ts, {columns} FROM host_sample
            WHERE {_reach(store, history)} GROUP BY host_key, part)""",
        "points",
        {**_SUMS_OF_HOSTS, "hosts": "count(*)"},
    )


def process_history(store: Reader, history: History, pid: int) -> dict[str, Values] | None:
    """Reads the figures of a process, by name: of those of the window with this pid, the one that started last.

    None where there never was one, as far as the store reaches. Raises StoreError.
    """
    of_pid = f"host_key = {int(history.host_key or 0)} AND pid = {int(pid)}"
    (start,) = store.read(f"SELECT max(start_time) FROM process_sample WHERE {history.ranking.window} AND {of_pid}")[0]
    if start is None:
        known = store.read(f"SELECT 1 FROM process_sample WHERE {of_pid} LIMIT 1")
        return _laid_out((), _OF_PROCESS, history.parts) if known else None
    return _of_processes(store, history, f" AND {of_pid} AND start_time = {int(start)}", _SUMS_OF_PROCESSES)


def app_history(store: Reader, history: History, app: str) -> dict[str, Values] | None:
    """Reads the figures of the processes of an application, added up, by name; `processes` is how many there were.

    None where there never was one, on the host if there is one, as far as the store reaches. Raises StoreError.
    """
    if not _knows_app(store, app, history.host_key):
        return None
    only = " AND identity_key IN (SELECT identity_key FROM identity WHERE app = $app)"
    return _of_processes(store, history, only, {**_SUMS_OF_PROCESSES, "processes": "count(*)"}, {"app": app})


def _knows_app(store: Reader, app: str, host_key: int | None) -> bool:
    named = "identity WHERE app = $app"
    if host_key is None:
        return bool(store.read(f"SELECT 1 FROM {named} LIMIT 1", {"app": app}))
    return bool(
        store.read(
            f"""
            SELECT 1 FROM process_sample
            WHERE host_key = {int(host_key)} AND identity_key IN (SELECT identity_key FROM {named}) LIMIT 1""",
            {"app": app},
        )
    )


def _of_processes(
    store: Reader, history: History, only: str, figures: Mapping[str, str], parameters: Mapping[str, object] = {}
) -> dict[str, Values]:
    reach = _reach(store, history)
    columns = ", ".join(f"max({name}) AS {name}" for name in _OF_PROCESS)
    return _read(
        store,
        history,
        f"""
        WITH points AS (
            SELECT host_key, {history.part} AS part, max(ts) AS last_ts FROM host_sample
            WHERE {reach} AND {KNOWS_PROCESSES} GROUP BY host_key, part),
        series AS (
            SELECT {SERIES}, {history.part} AS part, {columns} FROM process_sample
            WHERE {reach}{only} GROUP BY {SERIES}, part)""",
        "series",
        figures,
        parameters,
    )


def _reach(store: Reader, history: History) -> str:
    """A condition on samples: of the window, or shortly before it. Those may be carried into it."""
    parameters = label_parameters(history.ranking.labels)
    (before,) = store.read(f"SELECT coalesce(max({SILENT}), 0) FROM host WHERE {history.hosts}", parameters)[0]
    since = history.ranking.since - min(int(before), history.ranking.now - history.ranking.since)
    return f"ts >= {since} AND ts <= {int(history.ranking.now)} AND {history.hosts}"


def _read(
    store: Reader,
    history: History,
    relations: str,
    series: str,
    figures: Mapping[str, str],
    parameters: Mapping[str, object] = {},
) -> dict[str, Values]:
    """Adds up a relation of series part by part, with what is carried where `points` of their hosts are missing."""
    rows = store.read(
        f"""
        {relations},
        -- Up to which part a host counts with what it had: the one before its next sample, or that in which it falls
        -- silent.
        lasting AS (
            SELECT host_key, part, least(next_part - 1, {history.part}) AS last_part FROM (
                SELECT host_key, part, last_ts + {SILENT} AS ts,
                    lead(part, 1, {history.parts}) OVER (PARTITION BY host_key ORDER BY part) AS next_part
                FROM points JOIN host USING (host_key)) AS following),
        carried AS (
            SELECT host_key, part, unnest(range(part + 1, last_part + 1)) AS into_part
            FROM lasting WHERE last_part > part),
        filled AS (
            SELECT * FROM {series} UNION ALL
            SELECT {series}.* REPLACE (into_part AS part)
            FROM {series} JOIN carried ON {series}.host_key = carried.host_key AND {series}.part = carried.part)
        SELECT part, {", ".join(figures.values())} FROM filled WHERE part >= 0 GROUP BY part""",
        {**label_parameters(history.ranking.labels), **parameters},
    )
    return _laid_out(rows, tuple(figures), history.parts)


def _laid_out(rows: Sequence[tuple[Any, ...]], names: Sequence[str], parts: int) -> dict[str, Values]:
    """One value for each part under each name; None for a part in which it is unknown."""
    values: dict[str, list[float | None]] = {name: [None] * parts for name in names}
    for part, *figures in rows:
        for name, figure in zip(names, figures, strict=True):
            values[name][int(part)] = None if figure is None else float(figure)
    return dict(values)
