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
from loiter_aggregator.store.levels import HOUR, ROLLUPS, SAMPLE, SOURCE, TABLES, Level
from loiter_aggregator.store.manifest import SealedFile, add_file, drop_files, sealed_files
from loiter_aggregator.store.rollup import from_rollups
from loiter_aggregator.store.schema import VERSION
from loiter_aggregator.store.sealed_columns import read_back, written
from loiter_aggregator.store.sealed_folder import SealedFolder

Step = Callable[[str], None]

# What is sealed at once: it has to be sorted, and for so long rows of the past can not be deleted for other reasons.
SLICE_ROWS: Final = 2_000_000
# So many rows that came late to a sealed span are worth a file; fewer wait.
_LATE_ROWS: Final = 200_000
_LATE_MS: Final = 3_600_000
# A span may have so many files that are smaller than a slice.
_SMALL_FILES: Final = 4
_FORMAT: Final = "FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2, ROW_GROUP_SIZE 122880"


class Slice(NamedTuple):
    """Rows of a table that are to be sealed together: of a span, of hosts from one key to before another."""

    table: str
    span: int
    first_key: int
    end_key: int

    @property
    def where(self) -> str:
        """A condition on the rows of the table."""
        level, _ = TABLES[self.table]
        keys = f"host_key >= {self.first_key} AND host_key < {self.end_key}::UHUGEINT"
        return f"{level.time} >= {self.span} AND {level.time} < {self.span + level.span} AND {keys}"


def due_slices(
    connection: duckdb.DuckDBPyConnection, before: int, now: int, slice_rows: int = SLICE_ROWS
) -> list[Slice]:
    """What is to be sealed by now of what was taken before a time, in milliseconds, oldest first.

    Only what is in all levels that are made of it. Raises duckdb.Error.
    """
    marks = rolled_until(connection)
    slices: list[Slice] = []
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
                slices += _slices(connection, table, span, rows, slice_rows)
    return slices


def seal(connection: duckdb.DuckDBPyConnection, one: Slice, folder: SealedFolder, now: int, step: Step) -> str | None:
    """Seals a slice, in the transaction of the caller. Returns the file, None where there are no such rows any more.

    Where the transaction fails after that, the file is to be given up. Raises duckdb.Error and OSError.
    """
    level, kind = TABLES[one.table]
    source = f"SELECT * FROM {one.table} WHERE {one.where}"
    if level is not SAMPLE:  # partial rows become whole ones
        source = from_rollups(kind, level, one.table, one.where)
    file = _write(connection, folder, one.table, one.span, source, now, step)
    if file is None:
        return None
    connection.execute(f"DELETE FROM {one.table} WHERE {one.where}")
    step("rows deleted")
    return file


def due_merges(connection: duckdb.DuckDBPyConnection, slice_rows: int = SLICE_ROWS) -> list[list[SealedFile]]:
    """The files of each span that are to become one. Raises duckdb.Error."""
    small: dict[tuple[str, int], list[SealedFile]] = {}
    for one in sealed_files(connection, f"row_count < {slice_rows // 4}"):
        small.setdefault((one.table, one.span), []).append(one)
    return [files for files in small.values() if len(files) > _SMALL_FILES]


def merge(
    connection: duckdb.DuckDBPyConnection, files: list[SealedFile], folder: SealedFolder, now: int, step: Step
) -> str | None:
    """Makes one file of several, in the transaction of the caller, who then has the old ones deleted.

    Returns the new file. Raises duckdb.Error and OSError.
    """
    table = files[0].table
    level, kind = TABLES[table]
    source = read_back(table, [str(folder.path / one.file) for one in files])
    if level is not SAMPLE:
        source = from_rollups(kind, level, f"({source})", "true")
    file = _write(connection, folder, table, files[0].span, source, now, step)
    drop_files(connection, files)
    step("old files off the list")
    return file


def _write(
    connection: duckdb.DuckDBPyConnection,
    folder: SealedFolder,
    table: str,
    span: int,
    source: str,
    now: int,
    step: Step,
) -> str | None:
    """Writes a file and puts it onto the list; None where there is nothing to write."""
    when = datetime.fromtimestamp(span / 1_000, UTC).strftime("%Y%m%dT%H")
    name = f"{table}-{when}-{uuid.uuid4().hex[:12]}.parquet"
    temporary = str(folder.temporary(name))
    quoted = temporary.replace("'", "''")
    try:
        ((rows,),) = connection.execute(f"COPY ({written(table, source)}) TO '{quoted}' ({_FORMAT})").fetchall()
        step("file written")
        if not rows:
            folder.give_up(name)
            return None
        size = folder.keep(name)
        step("file renamed")
        first, last, identities = _contents(connection, table, str(folder.path / name))
        add_file(connection, SealedFile(name, table, span, first, last, rows, size, now, VERSION), identities)
        step("file on the list")
    except BaseException:
        folder.give_up(name)
        raise
    return name


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


def _slices(
    connection: duckdb.DuckDBPyConnection, table: str, span: int, rows: int, slice_rows: int
) -> Iterator[Slice]:
    level, _ = TABLES[table]
    first = 0
    if rows > slice_rows:
        within = f"{level.time} >= {span} AND {level.time} < {span + level.span}"
        found = 0
        for key, count in connection.execute(
            f"SELECT host_key, count(*) FROM {table} WHERE {within} GROUP BY host_key ORDER BY host_key"
        ).fetchall():
            if found and found + count > slice_rows:
                yield Slice(table, span, first, key)
                first, found = key, 0
            found += count
    yield Slice(table, span, first, 2**64)
