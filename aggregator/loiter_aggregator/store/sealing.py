"""Moves rows that hardly anybody asks for any more out of the database, into files that take a tenth of the room.

A file has rows of one table and one span of time, sorted by series. It is written beside its place, put onto the disk,
renamed, and only then, in one transaction, put onto the list while exactly its rows are deleted from the table: those
that came meanwhile are not seen by that transaction, and stay. A file that is not on the list, as a crash leaves it, is
deleted at the next start.

Samples come late to a span that was sealed. They stay in the database until they are many, or have waited for an hour,
and become a further file of that span. When small files are more than a few, they become one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

import duckdb

from loiter_aggregator.store.late import rolled_until
from loiter_aggregator.store.levels import HOUR, MINUTE, ROLLUPS, SAMPLE, SOURCE, TABLES, Level
from loiter_aggregator.store.manifest import SealedFile, add_file, drop_files, sealed_files
from loiter_aggregator.store.rollup import from_rollups
from loiter_aggregator.store.schema import VERSION
from loiter_aggregator.store.sealed_columns import read_back, written
from loiter_aggregator.store.sealed_folder import SealedFolder

Step = Callable[[str], None]

# What a file holds at most, or one host has: it is sorted in memory.
SLICE_ROWS: Final = 2_000_000
# What is sealed in one transaction.
_PART_ROWS: Final = 40_000_000
# So many rows that came late to a sealed span are worth a file; fewer wait.
_LATE_ROWS: Final = 200_000
_LATE_MS: Final = 3_600_000
# A span may have so many files that are smaller than a slice.
_SMALL_FILES: Final = 4
_FORMAT: Final = "FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2, ROW_GROUP_SIZE 122880"


class Part(NamedTuple):
    """Rows of a table that are to be sealed together: of a span, taken from `since` to before `until`, milliseconds."""

    table: str
    span: int
    since: int
    until: int

    @property
    def where(self) -> str:
        """A condition on the rows of the table."""
        level, _ = TABLES[self.table]
        return f"{level.time} >= {self.since} AND {level.time} < {self.until}"


def due_parts(connection: duckdb.DuckDBPyConnection, before: int, now: int) -> list[Part]:
    """What is to be sealed by now of what was taken before a time, in milliseconds, oldest first.

    Only what is in all levels that are made of it. Raises duckdb.Error.
    """
    marks = rolled_until(connection)
    parts: list[Part] = []
    for table, (level, _) in TABLES.items():
        mark = marks[_last_needed(level).name]
        if mark is None:
            continue
        end = level.span_of(min(before, mark))
        sealed = {one.span: one.sealed_at for one in sealed_files(connection, f"table_name = '{table}'")}
        spans = connection.execute(
            f"SELECT {level.time} - {level.time} % {level.span} AS span, count(*) FROM {table} "
            f"WHERE {level.time} < {end} GROUP BY span ORDER BY span"
        ).fetchall()
        for span, rows in spans:
            waited = span not in sealed or not 0 <= now - sealed[span] < _LATE_MS
            if waited or rows >= _LATE_ROWS:
                parts += _parts(table, span, rows)
    return parts


def seal(
    part: Part, slice_rows: int, folder: SealedFolder, now: int, step: Step, connection: duckdb.DuckDBPyConnection
) -> Iterator[str]:
    """Seals a part, in the transaction of the caller. Yields each file that is made.

    All of the part is deleted at once: what lies together in the database takes nothing to delete there, and the rows
    of some hosts do not. Where the transaction fails, the files are to be given up. Raises duckdb.Error and OSError.
    """
    level, kind = TABLES[part.table]
    for where in _slices(connection, part, slice_rows):
        source = f"SELECT * FROM {part.table} WHERE {where}"
        if level is not SAMPLE:  # partial rows become whole ones
            source = from_rollups(kind, level, part.table, where)
        yield from _write(connection, folder, part.table, part.span, source, now, step)
    connection.execute(f"DELETE FROM {part.table} WHERE {part.where}")
    step("rows deleted")


def due_merges(connection: duckdb.DuckDBPyConnection, slice_rows: int, folder: SealedFolder) -> list[list[SealedFile]]:
    """The files of each span that are to become one. Raises duckdb.Error."""
    small: dict[tuple[str, int], list[SealedFile]] = {}
    for one in sealed_files(connection, f"row_count < {slice_rows // 4}"):
        if one.file not in folder.missing:
            small.setdefault((one.table, one.span), []).append(one)
    return [files for files in small.values() if len(files) > _SMALL_FILES]


def merge(
    files: list[SealedFile], folder: SealedFolder, now: int, step: Step, connection: duckdb.DuckDBPyConnection
) -> list[str]:
    """Makes one file of several, in the transaction of the caller, who then has the old ones deleted.

    Returns what is made. Raises duckdb.Error and OSError.
    """
    table = files[0].table
    level, kind = TABLES[table]
    source = read_back(table, [str(folder.path / one.file) for one in files])
    if level is not SAMPLE:
        source = from_rollups(kind, level, f"({source})", "true")
    made = _write(connection, folder, table, files[0].span, source, now, step)
    drop_files(connection, files)
    step("old files off the list")
    return made


def _write(
    connection: duckdb.DuckDBPyConnection,
    folder: SealedFolder,
    table: str,
    span: int,
    source: str,
    now: int,
    step: Step,
) -> list[str]:
    """Writes a file and puts it onto the list; none where there is nothing to write."""
    when = datetime.fromtimestamp(span / 1_000, UTC).strftime("%Y%m%dT%H")
    name = f"{table}-{when}-{uuid.uuid4().hex[:12]}.parquet"
    temporary = str(folder.temporary(name))
    quoted = temporary.replace("'", "''")
    try:
        ((rows,),) = connection.execute(f"COPY ({written(table, source)}) TO '{quoted}' ({_FORMAT})").fetchall()
        step("file written")
        if not rows:
            folder.give_up(name)
            return []
        size = folder.keep(name)
        step("file renamed")
        first, last, identities = _contents(connection, table, str(folder.path / name))
        add_file(connection, SealedFile(name, table, span, first, last, rows, size, now, VERSION), identities)
        step("file on the list")
    except BaseException:
        folder.give_up(name)
        raise
    return [name]


def _contents(connection: duckdb.DuckDBPyConnection, table: str, path: str) -> tuple[int, int, list[int]]:
    level, kind = TABLES[table]
    identities = "list(DISTINCT identity_key)" if kind == "process" else "[]"
    quoted = path.replace("'", "''")
    ((first, last, keys),) = connection.execute(
        f"SELECT min({level.time}), max({level.time}), {identities} FROM read_parquet('{quoted}')"
    ).fetchall()
    return first, last, keys


def _last_needed(level: Level) -> Level:
    """The level whose mark says that rows of a level are in all that is made of them."""
    return next((coarser for coarser in ROLLUPS if SOURCE[coarser] is level), HOUR)


def _parts(table: str, span: int, rows: int) -> Iterator[Part]:
    """Equal parts of the time of a span, in whole minutes, none of which has too many rows."""
    level, _ = TABLES[table]
    count = max(1, -(-rows // _PART_ROWS))
    width = max(MINUTE.width, MINUTE.ceil(-(-level.span // count)))
    for since in range(span, span + level.span, width):
        yield Part(table, span, since, min(since + width, span + level.span))


def _slices(connection: duckdb.DuckDBPyConnection, part: Part, slice_rows: int) -> list[str]:
    """Conditions on the rows of a part, each of some hosts, so that each holds about so many rows."""
    hosts = connection.execute(
        f"SELECT host_key, count(*) FROM {part.table} WHERE {part.where} GROUP BY host_key ORDER BY host_key"
    ).fetchall()
    bounds, found = [], 0
    for key, count in hosts:
        if found and found + count > slice_rows:
            bounds.append(key)
            found = 0
        found += count
    lower = ["", *(f" AND host_key >= {key}" for key in bounds)]
    upper = [*(f" AND host_key < {key}" for key in bounds), ""]
    return [part.where + above + below for above, below in zip(lower, upper, strict=True)]
