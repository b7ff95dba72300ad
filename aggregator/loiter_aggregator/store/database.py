"""The DuckDB file of the store: opened, opened anew when DuckDB gives it up, and kept quick to open."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import duckdb

from loiter.logs import fields

_log = logging.getLogger(__name__)

# What a start after kill -9 has to read again; see tests/bench/README.md.
CHECKPOINT_BYTES: Final = 16_000_000
_CLOSE_SECONDS: Final = 5.0


class StoreError(Exception):
    """The store can not be opened, read or written. The message is for a person."""


class BrokenDatabase(StoreError):
    """DuckDB has given the file up amid some work. Whether a commit got through is to be seen in the file."""


class Database:
    """An open file. Any number of threads may use it, each by cursors of its own."""

    def __init__(self, file: Path, memory_limit: str) -> None:
        """Opens the file, and makes it where there is none. Raises StoreError."""
        self._file = file
        self.catalog = file.stem  # which is what DuckDB calls it
        self._memory_limit = memory_limit
        self._changed = threading.Condition()
        self._cursors = 0
        self._closed = False
        self._identity: tuple[int, int] | None = None
        self._connection: duckdb.DuckDBPyConnection | None = self._connect()

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for the block.

        After an error that DuckDB does not survive in this process, such as a checkpoint that the disk has no room
        for, the next cursor is one of the file opened anew: all that was committed is in there.

        Raises:
            BrokenDatabase: Such an error happened.
            StoreError: The file is closed, or can not be opened again.
        """
        with self._changed:
            if self._closed:
                raise StoreError("the store is closed")
            if self._connection is None:
                self._connection = self._connect()
            connection = self._connection
            cursor = connection.cursor()
            self._cursors += 1
        broken: duckdb.FatalException | None = None
        try:
            yield cursor
        except duckdb.FatalException as error:
            broken = error
        finally:
            cursor.close()
            with self._changed:
                self._cursors -= 1
                self._changed.notify_all()
        if broken is not None:
            self._discard(connection)
            raise BrokenDatabase(self.explain(broken)) from None

    def read(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """Runs a query on the tables as they are in the file. Raises StoreError."""
        try:
            with self.cursor() as cursor:
                return cursor.execute(sql, parameters).fetchall()
        except duckdb.Error as error:
            raise StoreError(f"cannot read from the store: {self.explain(error)}") from None

    def check_in_place(self) -> None:
        """Checks that the file is still where it was opened.

        One that was removed or replaced can be written on and on, and nothing of it is there after the end. Raises
        StoreError.
        """
        if self._identity_now() != self._identity:
            raise StoreError(
                f"{self._file} was removed or replaced while it was in use: put it back, or restart the aggregator, "
                "which then begins a new store"
            )

    def checkpoint_if_due(self) -> None:
        """Moves what was committed from the write-ahead log to the tables, once there is much of it.

        DuckDB does so by itself at commit, but gives the file up where the disk has no room for that. So it is told not
        to, and this waits for room.
        """
        try:
            log_bytes = self._file.with_name(self._file.name + ".wal").stat().st_size
        except OSError:
            return  # nothing was committed since the last time
        if log_bytes < CHECKPOINT_BYTES or shutil.disk_usage(self._file.parent).free < 2 * log_bytes:
            return
        try:
            with self.cursor() as cursor:
                cursor.execute("CHECKPOINT")
        except StoreError as error:
            _log.warning("%s; what was committed stays in the write-ahead log", error, extra=fields(reason=error))
        except duckdb.Error as error:  # another transaction is in its way: the next commit tries again
            _log.debug("no checkpoint: %s", error)

    def explain(self, error: duckdb.Error) -> str:
        """Says what went wrong in words for a person."""
        said = str(error).strip().splitlines() or ["no reason given"]
        if any("No space left on device" in line for line in said):
            return f"the disk of {self._file.parent} is full"
        return said[0]

    def close(self) -> None:
        """Closes the file, once what runs on it is through. Closing twice is harmless."""
        with self._changed:
            self._closed = True
            # DuckDB refuses to close what is in use. What is not through by then is only being read: that ends with us.
            self._changed.wait_for(lambda: not self._cursors, _CLOSE_SECONDS)
            if self._connection is not None:
                with suppress(duckdb.Error):
                    self._connection.close()
                self._connection = None

    def _connect(self) -> duckdb.DuckDBPyConnection:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": self._memory_limit,
            "autoinstall_known_extensions": False,
            "parquet_metadata_cache": True,  # sealed files do not change
            "checkpoint_threshold": "1TB",  # see checkpoint_if_due
        }
        try:
            connection = duckdb.connect(str(self._file), config=config)
        except duckdb.Error as error:
            if "set lock on file" in str(error).lower():
                raise StoreError(
                    f"{self._file} is in use by another process: is an aggregator running on this folder already?"
                ) from None
            raise StoreError(f"cannot open the store {self._file}: {self.explain(error)}") from None
        self._identity = self._identity_now()
        return connection

    def _identity_now(self) -> tuple[int, int] | None:
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _discard(self, broken: duckdb.DuckDBPyConnection) -> None:
        with self._changed:
            # DuckDB gives the same broken database to whoever opens the file before all have let go of it.
            self._changed.wait_for(lambda: self._connection is not broken or not self._cursors)
            if self._connection is broken:
                broken.close()
                self._connection = None
