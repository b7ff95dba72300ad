"""Takes back what was stored: what is old by retention, and what lies ahead once the clock was set back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import duckdb

from loiter_aggregator.store.late import rolled_until
from loiter_aggregator.store.levels import HOUR, KINDS, ROLLUPS, SAMPLE, SOURCE, TABLES, Level
from loiter_aggregator.store.manifest import SealedFile, drop_files, sealed_files
from loiter_aggregator.store.rolling import rollup_of
from loiter_aggregator.store.schema import LOST_AT
from loiter_aggregator.store.sealed_columns import names, read_back
from loiter_aggregator.store.sealed_folder import SealedFolder

Times = Mapping[Level, int]

UNUSED_IDENTITIES: Final = " ".join(
    (
        "SELECT identity_key FROM identity EXCEPT (SELECT unnest(identities) FROM sealed",
        *(f"UNION SELECT identity_key FROM {table}" for table, (_, kind) in TABLES.items() if kind == "process"),
        ")",
    )
)


def drop_old_files(connection: duckdb.DuckDBPyConnection, before: Times) -> list[SealedFile]:
    """Takes the files off the list that are wholly older than the time of their level. Raises duckdb.Error."""
    old = [
        one
        for level, time in before.items()
        for kind in KINDS
        for one in sealed_files(
            connection, f"table_name = '{level.table(kind)}' AND last_time + {max(1, level.width)} <= {int(time)}"
        )
    ]
    drop_files(connection, old)
    return old


def note_forgotten(connection: duckdb.DuckDBPyConnection, before: Times) -> None:
    """Notes that rows of before a time may be gone. Raises duckdb.Error."""
    for level, time in before.items():
        connection.execute(
            "UPDATE level SET forgotten_until = greatest(forgotten_until, ?) WHERE name = ?", [time, level.name]
        )


def take_back(connection: duckdb.DuckDBPyConnection, after: int, until: int, folder: SealedFolder) -> list[SealedFile]:
    """Deletes samples and losses of later than `after`, up to `until`, in milliseconds, from all levels.

    Buckets that the span cuts through are made anew from the level before. Sealed files that have anything of those are
    unsealed: what is left of them is hot again. Returns the files that are off the list. Raises duckdb.Error.
    """
    # Whole hours: what is left of a bucket is made of all that is in it.
    start, end = HOUR.floor(after + 1), HOUR.ceil(until + 1)
    unsealed = [one for table in TABLES for one in _unseal(connection, table, start, end, folder)]
    for kind in KINDS:
        connection.execute(f"DELETE FROM {SAMPLE.table(kind)} WHERE ts > ? AND ts <= ?", [after, until])
    connection.execute(f"DELETE FROM lost_sample WHERE {LOST_AT} > ? AND {LOST_AT} <= ?", [after, until])
    marks, forgotten = rolled_until(connection), forgotten_until(connection)
    for level in ROLLUPS:
        gone, mark = forgotten[SOURCE[level].name] or 0, marks[level.name] or 0
        # A bucket that is cut through, and whose samples are not kept any more, stays as it is.
        first = level.floor(after + 1) if gone <= level.floor(after + 1) else level.ceil(after + 1)
        last = level.ceil(until + 1) if gone <= level.floor(until + 1) else level.floor(until + 1)
        _roll_again(connection, level, first, min(last, mark))
    return unsealed


def forgotten_until(connection: duckdb.DuckDBPyConnection) -> dict[str, int | None]:
    """Before when rows of each level may be gone, by its name, in milliseconds; None where none are.

    Raises duckdb.Error.
    """
    return dict(connection.execute("SELECT name, forgotten_until FROM level").fetchall())


def _roll_again(connection: duckdb.DuckDBPyConnection, level: Level, start: int, end: int) -> None:
    time = SOURCE[level].time
    for kind in KINDS:
        connection.execute(f"DELETE FROM {level.table(kind)} WHERE bucket >= ? AND bucket < ?", [start, end])
        made = rollup_of(level, kind, f"{time} >= {start} AND {time} < {end}")
        connection.execute(f"INSERT INTO {level.table(kind)} BY NAME {made}")


def _unseal(
    connection: duckdb.DuckDBPyConnection, table: str, start: int, end: int, folder: SealedFolder
) -> list[SealedFile]:
    """Makes the rows hot of the files of a table that have any of a span. Those that are missing stay on the list."""
    found = sealed_files(connection, f"table_name = '{table}' AND last_time >= {start} AND first_time < {end}")
    present = [one for one in found if one.file not in folder.missing]
    if present:
        files = [str(folder.path / one.file) for one in present]
        connection.execute(f"INSERT INTO {table} ({', '.join(names(table))}) {read_back(table, files)}")
        drop_files(connection, present)
    return present
