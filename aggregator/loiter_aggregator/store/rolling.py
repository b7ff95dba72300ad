"""Rolls samples into minutes, minutes into five minutes, and those into hours, bucket by bucket, oldest first.

Rows and mark are of one transaction: after a crash, a bucket is rolled, or as it was.
"""

from __future__ import annotations

from typing import Final

import duckdb

from loiter_aggregator.store.late import rolled_until
from loiter_aggregator.store.levels import HOUR, KINDS, MINUTE, ROLLUPS, SAMPLE, SOURCE, Kind, Level
from loiter_aggregator.store.rollup import from_rollups, from_samples

# A bucket is rolled so long after its end: most of what belongs to it has come by then, and need not be added later.
SETTLED_MS: Final = 30_000

# What is rolled at once, in rows of hosts; those of processes are some ten times as many.
_ROWS: Final = 60_000


def roll_buckets(connection: duckdb.DuckDBPyConnection, until: int) -> Level | None:
    """Rolls the next buckets that end by a time, in milliseconds, of the finest level that has any.

    Returns that level, None where all is rolled. Is to be a transaction in which nobody writes rows of before that
    time. Raises duckdb.Error.
    """
    if rolled_until(connection)[MINUTE.name] is None and not _begin(connection):
        return None
    marks = rolled_until(connection)
    for level in ROLLUPS:
        mark = marks[level.name]
        reach = until if SOURCE[level] is SAMPLE else min(until, marks[SOURCE[level].name] or 0)
        if mark is not None and mark < level.floor(reach):
            _roll(connection, level, mark, level.floor(reach))
            return level
    return None


def rollup_of(level: Level, kind: Kind, where: str) -> str:
    """The relation of the rows of a rollup, made of those of the level before it of which a condition holds."""
    source = SOURCE[level]
    make = from_samples if source is SAMPLE else from_rollups
    return make(kind, level, source.table(kind), where)


def _begin(connection: duckdb.DuckDBPyConnection) -> bool:
    """Puts the marks to where the oldest sample is. Returns whether there is one."""
    rows = connection.execute("SELECT min(ts) FROM host_sample").fetchall()
    (oldest,) = rows[0]
    if oldest is None:
        return False
    for level in ROLLUPS:
        _mark(connection, level, HOUR.floor(oldest))
    return True


def _roll(connection: duckdb.DuckDBPyConnection, level: Level, mark: int, reach: int) -> None:
    time = SOURCE[level].time
    start, end = _buckets(connection, level, mark, reach)
    if start < end:
        for kind in KINDS:
            made = rollup_of(level, kind, f"{time} >= {start} AND {time} < {end}")
            connection.execute(f"INSERT INTO {level.table(kind)} BY NAME {made}")
    _mark(connection, level, end)


def _buckets(connection: duckdb.DuckDBPyConnection, level: Level, mark: int, reach: int) -> tuple[int, int]:
    """Which buckets to roll: one, or as many as have some rows together, as where the aggregator was down for long."""
    source = SOURCE[level]
    bucket = f"{source.time} - {source.time} % {level.width}"
    buckets = connection.execute(
        f"SELECT {bucket} AS start, count(*) FROM {source.table('host')} "
        f"WHERE {source.time} >= {int(mark)} AND {source.time} < {int(reach)} GROUP BY start ORDER BY start"
    ).fetchall()
    if not buckets:
        return reach, reach
    first, end, rows = buckets[0][0], buckets[0][0], 0
    for start, count in buckets:
        if rows and rows + count > _ROWS:
            return first, end
        rows, end = rows + count, start + level.width
    return first, reach


def _mark(connection: duckdb.DuckDBPyConnection, level: Level, time: int) -> None:
    connection.execute("UPDATE level SET rolled_until = ? WHERE name = ?", [time, level.name])
