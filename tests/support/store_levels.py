"""Stores with rows in many levels, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pytest

from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.levels import KINDS, LEVELS, SAMPLE, Kind, Level
from loiter_aggregator.store.ranges import Range, ranges
from loiter_aggregator.store.rollup import line_sums
from support.aggregators import batch_of, host_key, record
from support.reports import HOUR, NOW, hello, process, report, sample

# The start of an hour, and of a day.
MIDNIGHT: Final = NOW - NOW % (24 * HOUR)

_OF_SAMPLES: Final = """
    count(*) AS samples, min(ts) AS first_ts, max(ts) AS last_ts, count(y) AS n, sum(t) AS st, sum(t * t) AS stt,
    sum(y) AS sy, sum(t * y) AS sty, sum(y * y) AS syy, min(y) AS y_min, max(y) AS y_max"""
_OF_RANGES: Final = """
    sum(samples), min(first_ts), max(last_ts), sum(n), sum(st), sum(stt), sum(sy), sum(sty), sum(syy), min(y_min),
    max(y_max)"""
_SERIES: Final[dict[Kind, str]] = {"host": "host_key", "process": "host_key, pid, start_time"}


def put(store: DuckDbStore, *samples: tuple[str, int, int | None], received: int = NOW + 1_000 * HOUR) -> None:
    """Stores samples (hostname, time, CLOSE_WAIT) in one batch, each with two processes; the first has as many."""
    batch = batch_of(
        *(
            report(
                hostname,
                sequence=time,
                taken=sample(
                    time,
                    count,
                    time_wait=time % 9,
                    processes=[
                        process(100, count, time_wait=time % 7, fd_open=None if time % 5 == 0 else time % 50),
                        process(200, time % 3, fd_open=3, fd_limit=1024),
                    ],
                ),
            )
            for hostname, time, count in samples
        ),
        received=received,
    )
    batch.hosts.update((host_key(hostname), record(hello(hostname))) for hostname, _, _ in samples)
    store.write(batch)


def roll(store: DuckDbStore, until: int) -> None:
    """Rolls all that ends by a time."""
    while store.maintenance.roll(until):
        pass


def raw_sums(store: DuckDbStore, kind: Kind, since: int, until: int) -> list[tuple[Any, ...]]:
    """What a line through the CLOSE_WAIT of each series needs, from samples."""
    return store.read(
        f"SELECT {_SERIES[kind]}, {_OF_SAMPLES} FROM ("
        f" SELECT *, CAST(close_wait AS DOUBLE) AS y,"
        f" CASE WHEN close_wait IS NOT NULL THEN (ts - {MIDNIGHT}) / 1000.0 END AS t"
        f" FROM {kind}_sample WHERE ts >= {since} AND ts <= {until}) AS points GROUP BY ALL ORDER BY ALL"
    )


def sums(store: DuckDbStore, kind: Kind, since: int, until: int, coarsest: Level) -> list[tuple[Any, ...]]:
    """The same from the levels that `ranges` names."""
    return _over(store, kind, ranges(since, until, store.kept(), coarsest).parts)


def level_sums(store: DuckDbStore) -> dict[str, list[tuple[Any, ...]]]:
    """The sums over all that each table has."""
    always = [Range(level, 0, 2 * MIDNIGHT) for level in LEVELS]
    return {one.table(kind): _over(store, kind, [one]) for one in always for kind in KINDS}


def the_same(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]]) -> bool:
    """Whether two lists of sums are the same. A sum of nothing is 0 in a rollup, and unknown over samples.

    Sums of large squares differ in their last digits, by the order in which they were added up.
    """
    return [list(map(float, map(_known, row))) for row in one] == [
        pytest.approx([float(_known(value)) for value in row], rel=1e-12) for row in other
    ]


def _known(value: float | None) -> float:
    return value or 0


def _over(store: DuckDbStore, kind: Kind, parts: Iterable[Range]) -> list[tuple[Any, ...]]:
    relations = [_of_part(kind, part) for part in parts]
    if not relations:
        return []
    parts_read = " UNION ALL ".join(relations)
    return store.read(f"SELECT {_SERIES[kind]}, {_OF_RANGES} FROM ({parts_read}) AS parts GROUP BY ALL ORDER BY ALL")


def _of_part(kind: Kind, part: Range) -> str:
    series = _SERIES[kind]
    if part.level is SAMPLE:
        return (
            f"SELECT {series}, {_OF_SAMPLES} FROM (SELECT *, CAST(close_wait AS DOUBLE) AS y,"
            f" CASE WHEN close_wait IS NOT NULL THEN (ts - {MIDNIGHT}) / 1000.0 END AS t"
            f" FROM {part.table(kind)} WHERE {part.where}) AS points GROUP BY ALL"
        )
    times = "sum(samples) AS samples, min(first_ts) AS first_ts, max(last_ts) AS last_ts"
    return (
        f"SELECT {series}, {times}, {line_sums(origin=str(MIDNIGHT))}"
        f" FROM {part.table(kind)} WHERE {part.where} GROUP BY ALL"
    )
