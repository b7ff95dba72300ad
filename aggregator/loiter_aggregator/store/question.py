"""What one question reads from the store, so that it can be called off."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import duckdb

from loiter_aggregator.store.database import BrokenDatabase, Database, StoreError
from loiter_aggregator.store.manifest import sealed_files
from loiter_aggregator.store.sealed_folder import SealedFolder
from loiter_aggregator.store.views import make_views, tables_in

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

    def __init__(
        self, database: Database, folder: SealedFolder, since: int | None = None, until: int | None = None
    ) -> None:
        """Takes what to read from, and the window that is asked for, in milliseconds, if there is one."""
        self._database = database
        self._folder = folder
        self._window = since, until
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
        except StoreError:
            if not self._misses_more():
                raise
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
                    return self._answer(cursor, sql, parameters)
                finally:
                    with self._guard:
                        self._running = None
        except duckdb.InterruptException:
            raise CalledOff from None
        except duckdb.Error as error:
            raise StoreError(f"cannot read from the store: {self._database.explain(error)}") from None

    def _answer(self, cursor: duckdb.DuckDBPyConnection, sql: str, parameters: Parameters) -> Rows:
        tables = tables_in(sql)
        if not tables:
            return cursor.execute(sql, parameters).fetchall()
        # The list of files and the hot rows have to be of one moment: what is sealed moves from the one to the other.
        with self._folder.reading():
            cursor.begin()
            make_views(cursor, self._database.catalog, tables, self._folder, *self._window)
            rows = cursor.execute(sql, parameters).fetchall()
            cursor.commit()
            return rows

    def _misses_more(self) -> bool:
        """Whether sealed files are gone that were there before: what there is can be answered without them."""
        with self._database.cursor() as cursor:
            return self._folder.look_for(sealed_files(cursor))

    def _run(self, cursor: duckdb.DuckDBPyConnection) -> None:
        with self._guard:
            if self._called_off:
                raise CalledOff
            self._running = cursor
