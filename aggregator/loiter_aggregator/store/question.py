"""What one question reads from the store, so that it can be called off."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import duckdb

from loiter_aggregator.store.database import BrokenDatabase, Database, StoreError

Rows = list[tuple[Any, ...]]
Parameters = Sequence[object] | Mapping[str, object]


class Reader(Protocol):
    """What answers a query."""

    def read(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Runs a query. Raises StoreError."""
        ...


class CalledOff(Exception):
    """Nobody waits for the answer any more."""


class Question:
    """Runs the queries of one question, one after the other."""

    def __init__(self, database: Database) -> None:
        """Takes what to read from."""
        self._database = database
        self._guard = threading.Lock()
        self._running: duckdb.DuckDBPyConnection | None = None
        self._called_off = False

    def read(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Runs a query beside the writer.

        Raises:
            CalledOff: `call_off` was called.
            StoreError: The store can not be read.
        """
        try:
            return self._read(sql, parameters)
        except BrokenDatabase:
            # Something else broke it, or this query: then it says so again.
            return self._read(sql, parameters)

    def call_off(self) -> None:
        """Interrupts what runs, and has nothing more run.

        A query that is just about to begin may miss the interrupt: call it again until it has ended.
        """
        with self._guard:
            self._called_off = True
            if self._running is not None:
                self._running.interrupt()

    def _read(self, sql: str, parameters: Parameters) -> Rows:
        try:
            with self._database.cursor() as cursor:
                self._run(cursor)
                try:
                    return cursor.execute(sql, parameters).fetchall()
                finally:
                    with self._guard:
                        self._running = None
        except duckdb.InterruptException:
            raise CalledOff from None
        except duckdb.Error as error:
            raise StoreError(f"cannot read from the store: {self._database.explain(error)}") from None

    def _run(self, cursor: duckdb.DuckDBPyConnection) -> None:
        with self._guard:
            if self._called_off:
                raise CalledOff
            self._running = cursor
