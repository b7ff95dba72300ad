"""How rows are written to sealed files so that they take little room, and read back as they were. Pure.

Whole numbers take the less room the fewer values they have; numbers that are not whole take all of their bytes. So
seconds are written as whole microseconds or milliseconds, which is as fine as they are measured, and what is mostly
equal to another column, or a little more, as its difference from that, or as NULL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from loiter_aggregator.store.levels import SAMPLE, TABLES, Kind
from loiter_aggregator.store.rollup import KEYS, columns
from loiter_aggregator.store.schema import HOST_SAMPLE, PROCESS_SAMPLE


class Encoding(NamedTuple):
    """What is written for a column, and how it is read back; both are SQL."""

    written: str
    read: str


def _whole(column: str, per_second: int) -> Encoding:
    return Encoding(f"CAST(round({column} * {per_second}) AS BIGINT)", f"{column} / {per_second}.0")


def _beside(column: str, other: str) -> Encoding:
    """As the difference from a column that is never NULL."""
    return Encoding(f"{column} - {other}", f"{column} + {other}")


def _same(column: str, other: str) -> Encoding:
    """NULL where it is equal to another; neither is ever unknown."""
    return Encoding(f"nullif({column}, {other})", f"coalesce({column}, {other})")


def _all_same(names: str, others: str) -> dict[str, Encoding]:
    return {name: _same(name, other) for name, other in zip(names.split(), others.split(), strict=True)}


_AGES: Final = ("age_p50_seconds", "age_p99_seconds", "age_max_seconds")
_SAMPLES: Final[Mapping[Kind, Mapping[str, Encoding]]] = {
    "host": {
        "received": _beside("received", "ts"),
        "cpu_seconds": _whole("cpu_seconds", 1_000_000),
        "wall_seconds": _whole("wall_seconds", 1_000_000),
        "process_cpu_seconds": _whole("process_cpu_seconds", 1_000_000),
    },
    "process": {name: _whole(name, 1_000) for name in _AGES},
}
_ROLLUPS: Final[Mapping[Kind, Mapping[str, Encoding]]] = {
    "host": {
        **_all_same("seen_n n time_wait_n overflows_n", "samples samples samples samples"),
        **_all_same("st stt", "seen_st seen_stt"),
        "first_ts": _beside("first_ts", "bucket"),
        "last_ts": _beside("last_ts", "bucket"),
        "seen_ts": _beside("seen_ts", "bucket"),
    },
    "process": {
        **_all_same("n fd_n time_wait_n fd_close_wait_n", "samples samples samples samples"),
        **_all_same("st stt fd_st fd_stt", "all_st all_stt all_st all_stt"),
        **_all_same("fd_close_wait_sy fd_close_wait_sty", "sy sty"),
        "first_ts": _beside("first_ts", "bucket"),
        "last_ts": _beside("last_ts", "bucket"),
        **{f"last_{name}": _whole(f"last_{name}", 1_000) for name in _AGES},
    },
}


def names(table: str) -> tuple[str, ...]:
    """The columns of a table."""
    level, kind = TABLES[table]
    if level is SAMPLE:
        return tuple(HOST_SAMPLE if kind == "host" else PROCESS_SAMPLE)
    return tuple(columns(kind))


def order(table: str) -> str:
    """What a sealed file is sorted by: one series after the other, each in the order of time."""
    level, kind = TABLES[table]
    return f"{', '.join(key for key in KEYS[kind] if key != 'identity_key')}, {level.time}"


def written(table: str, source: str) -> str:
    """What is to be written to a file of the rows of a relation."""
    encodings = _encodings(table)
    values = (f"{encodings[name].written} AS {name}" if name in encodings else name for name in names(table))
    return f"SELECT {', '.join(values)} FROM ({source}) AS rows ORDER BY {order(table)}"


def read_back(table: str, paths: Sequence[str]) -> str:
    """The relation of the rows of files, as they were."""
    encodings = _encodings(table)
    values = (f"{encodings[name].read} AS {name}" if name in encodings else name for name in names(table))
    files = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    return f"SELECT {', '.join(values)} FROM read_parquet([{files}], hive_partitioning = false)"


def hot_and_sealed(table: str, hot: str, paths: Sequence[str]) -> str:
    """The relation of all rows of a table: those of `hot` and those of files."""
    return f"SELECT {', '.join(names(table))} FROM {hot} UNION ALL {read_back(table, paths)}"


def _encodings(table: str) -> Mapping[str, Encoding]:
    level, kind = TABLES[table]
    return (_SAMPLES if level is SAMPLE else _ROLLUPS)[kind]
