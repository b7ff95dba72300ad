"""What a question reads: the hot rows of a table together with those of its sealed files, under the table's name."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

import duckdb

from loiter_aggregator.store.levels import TABLES
from loiter_aggregator.store.manifest import SealedFile, sealed_files
from loiter_aggregator.store.sealed_columns import hot_and_sealed
from loiter_aggregator.store.sealed_folder import SealedFolder

_NAME: Final = re.compile(r"\b(?:" + "|".join(TABLES) + r")\b")


def tables_in(sql: str) -> frozenset[str]:
    """The tables of levels that a query names."""
    return frozenset(_NAME.findall(sql))


def make_views(
    connection: duckdb.DuckDBPyConnection,
    catalog: str,
    tables: Collection[str],
    folder: SealedFolder,
    since: int | None,
    until: int | None,
) -> None:
    """Has the names of tables stand for hot and sealed rows on this connection; it is in a transaction.

    `catalog` is the name that DuckDB has for the file.

    Sealed files that have nothing within the window are left out, as are those that are missing. Raises duckdb.Error.
    """
    by_table: dict[str, list[SealedFile]] = {}
    for one in sealed_files(connection, _overlaps(tables, since, until)):
        if one.file not in folder.missing:
            by_table.setdefault(one.table, []).append(one)
    for table, files in by_table.items():
        paths = [str(folder.path / one.file) for one in files]
        connection.execute(f"CREATE TEMP VIEW {table} AS {hot_and_sealed(table, f'{catalog}.main.{table}', paths)}")


def _overlaps(tables: Collection[str], since: int | None, until: int | None) -> str:
    named = ", ".join(f"'{name}'" for name in sorted(tables))
    conditions = [f"table_name IN ({named})"]
    if since is not None:
        # A row of a rollup stands for what came until the end of its bucket.
        widths = " ".join(f"WHEN '{table}' THEN {level.width}" for table, (level, _) in TABLES.items())
        conditions.append(f"last_time + CASE table_name {widths} END >= {int(since)}")
    if until is not None:
        conditions.append(f"first_time <= {int(until)}")
    return " AND ".join(conditions)
