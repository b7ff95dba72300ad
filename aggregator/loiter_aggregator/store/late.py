"""Rows that come when their bucket was rolled already: what they come to is added to each rollup concerned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.levels import ROLLUPS, Kind
from loiter_aggregator.store.rollup import from_samples


def add_late_rows(connection: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Adds the rows of a batch that were taken before the mark of a rollup to that rollup, as rows of their own.

    Is part of the transaction that stores the batch, so that marks stay true. Raises duckdb.Error.
    """
    first = min(batch.times(), default=None)
    if first is None:
        return
    marks = rolled_until(connection)
    late = {level: mark for level in ROLLUPS if (mark := marks[level.name]) is not None and first < mark}
    if not late:
        return
    columns: dict[Kind, Mapping[str, Any]] = {"host": batch.host_columns()}
    if batch.process_rows:
        columns["process"] = batch.process_columns()
    for kind, values in columns.items():
        connection.register("late", values)
        try:
            for level, mark in late.items():
                rows = from_samples(kind, level, "late", f"ts < {int(mark)}")
                connection.execute(f"INSERT INTO {level.table(kind)} BY NAME {rows}")
        finally:
            connection.unregister("late")


def rolled_until(connection: duckdb.DuckDBPyConnection) -> dict[str, int | None]:
    """The marks of the levels, by name, in milliseconds; None where nothing was rolled yet. Raises duckdb.Error."""
    return dict(connection.execute("SELECT name, rolled_until FROM level").fetchall())
