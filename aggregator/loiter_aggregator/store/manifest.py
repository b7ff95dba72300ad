"""The list of the sealed files, which is a table of the store: what is not in it is not there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import duckdb

_COLUMNS: Final = "file, table_name, span, first_time, last_time, row_count, byte_count, sealed_at, version"


class SealedFile(NamedTuple):
    """A sealed file: rows of a table within a span, the first and the last of them. Times are in milliseconds."""

    file: str
    table: str
    span: int
    first_time: int
    last_time: int
    rows: int
    bytes: int
    sealed_at: int
    version: int


def sealed_files(connection: duckdb.DuckDBPyConnection, where: str = "true") -> list[SealedFile]:
    """The files of which a condition on the table holds, oldest first. Raises duckdb.Error."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM sealed WHERE {where} ORDER BY span, sealed_at, file").fetchall()
    return [SealedFile(*row) for row in rows]


def add_file(connection: duckdb.DuckDBPyConnection, one: SealedFile, identities: Iterable[int]) -> None:
    """Adds a file. Raises duckdb.Error."""
    connection.execute(
        f"INSERT INTO sealed ({_COLUMNS}, identities) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [*one, list(identities)]
    )


def drop_files(connection: duckdb.DuckDBPyConnection, files: Iterable[SealedFile]) -> None:
    """Takes files from the list. Raises duckdb.Error."""
    connection.execute("DELETE FROM sealed WHERE file IN (SELECT unnest(?))", [[one.file for one in files]])
