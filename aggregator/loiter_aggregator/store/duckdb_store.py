"""The store on DuckDB: one file, one process, one writer; any number of readers in that process."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np

from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.schema import CREATE, VERSION

_FILE: Final = "loiter.duckdb"
# An epoch whose agent has not been heard of for so long is forgotten.
_EPOCH_RETENTION_MS: Final = 30 * 86_400_000


class StoreError(Exception):
    """The store can not be opened or written. The message is for a person."""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What an agent says of its host when it connects."""

    host_key: int
    host_id: str
    hostname: str
    boot_id: str
    agent_version: str
    kernel_release: str
    interval_ms: int
    labels: Mapping[str, str]


class DuckDbStore:
    """An open store."""

    def __init__(self, data_dir: Path, memory_limit: str) -> None:
        """Opens the store in a folder, and makes it where there is none.

        Raises:
            StoreError: The folder or the file can not be used, another process has it open, or another version of
                loiter made it.
        """
        file = data_dir / _FILE
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            self._connection = duckdb.connect(
                str(file),
                config={"memory_limit": memory_limit, "autoinstall_known_extensions": False},
            )
        except OSError as error:
            raise StoreError(f"cannot use the folder {data_dir}: {error.strerror}") from None
        except duckdb.Error as error:
            raise StoreError(_explain(file, error)) from None
        self._writing = threading.Lock()
        self._identities: set[int] = set()
        self._closed = False
        try:
            self._prepare(file)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, file: Path) -> None:
        tables = {name for (name,) in self._connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if not tables:
            self._connection.begin()
            for statement in CREATE:
                self._connection.execute(statement)
            self._connection.commit()
            return
        if "store_version" not in tables:
            raise StoreError(
                f"{file} is a DuckDB file, but not a store of loiter; move it away or choose another folder"
            )
        found = self._connection.execute("SELECT max(version) FROM store_version").fetchall()[0][0]
        if found != VERSION:
            raise StoreError(f"{file} has version {found} of the store, but this loiter works with version {VERSION}")
        self._identities = {key for (key,) in self._connection.execute("SELECT identity_key FROM identity").fetchall()}

    def high_water(self) -> dict[tuple[int, int], int]:
        """Reads the last stored sequence of every spool, by host key and epoch."""
        rows = self.read("SELECT host_key, spool_epoch, sequence FROM high_water")
        return {(host_key, epoch): sequence for host_key, epoch, sequence in rows}

    def write(self, batch: Batch) -> None:
        """Commits a batch: samples, identities and high-water marks, all or nothing.

        When this returns, the batch survives a crash of the process and of the machine: DuckDB has written it to its
        write-ahead log and called fsync.

        Raises:
            StoreError: Nothing of the batch was stored.
        """
        identities = {key: names for key, names in batch.identities.items() if key not in self._identities}
        with self._writing:
            try:
                self._connection.begin()
                try:
                    self._insert("host_sample", batch.host_columns() if batch.host_rows else None)
                    self._insert("process_sample", batch.process_columns() if batch.process_rows else None)
                    self._insert("identity", _identity_columns(identities))
                    self._write_marks(batch)
                    self._connection.commit()
                except BaseException:
                    self._connection.rollback()
                    raise
            except duckdb.Error as error:
                raise StoreError(f"cannot write to the store: {error}") from None
        self._identities.update(identities)

    def put_host(self, host: HostRecord, now: int) -> None:
        """Stores what a host says of itself. Survives a crash once it returned. Raises StoreError."""
        with self._writing:
            try:
                self._connection.begin()
                try:
                    self._connection.execute(
                        "INSERT INTO host VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (host_key) DO UPDATE SET "
                        "hostname = excluded.hostname, boot_id = excluded.boot_id, interval_ms = excluded.interval_ms, "
                        "agent_version = excluded.agent_version, kernel_release = excluded.kernel_release",
                        [
                            host.host_key,
                            host.host_id,
                            host.hostname,
                            host.boot_id,
                            host.agent_version,
                            host.kernel_release,
                            host.interval_ms,
                            now,
                        ],
                    )
                    self._connection.execute("DELETE FROM host_label WHERE host_key = ?", [host.host_key])
                    for name, value in host.labels.items():
                        self._connection.execute(
                            "INSERT INTO host_label VALUES (?, ?, ?)", [host.host_key, name, value]
                        )
                    self._connection.commit()
                except BaseException:
                    self._connection.rollback()
                    raise
            except duckdb.Error as error:
                raise StoreError(f"cannot write to the store: {error}") from None

    def forget_before(self, time: int) -> None:
        """Deletes samples taken before a time in milliseconds, and epochs long unused. Raises StoreError."""
        with self._writing:
            try:
                self._connection.execute("DELETE FROM host_sample WHERE ts < ?", [time])
                self._connection.execute("DELETE FROM process_sample WHERE ts < ?", [time])
                self._connection.execute("DELETE FROM high_water WHERE updated < ?", [time - _EPOCH_RETENTION_MS])
            except duckdb.Error as error:
                raise StoreError(f"cannot delete from the store: {error}") from None

    def read(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """Runs a query on a connection of its own, beside the writer. Raises StoreError."""
        try:
            with self._connection.cursor() as cursor:
                return cursor.execute(sql, parameters).fetchall()
        except duckdb.Error as error:
            raise StoreError(f"cannot read from the store: {error}") from None

    def close(self) -> None:
        """Closes the store. Closing twice is harmless."""
        with self._writing:
            if not self._closed:
                self._closed = True
                self._connection.close()

    def _insert(self, table: str, columns: Mapping[str, Any] | None) -> None:
        if columns is None:
            return
        self._connection.register("incoming", columns)
        try:
            self._connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")
        finally:
            self._connection.unregister("incoming")

    def _write_marks(self, batch: Batch) -> None:
        seen = {
            "host_key": np.array(list(batch.last_seen), dtype="u8"),
            "received": np.array(list(batch.last_seen.values()), dtype="i8"),
        }
        marks = {
            "host_key": np.array([host_key for host_key, _ in batch.high_water], dtype="u8"),
            "spool_epoch": np.array([epoch for _, epoch in batch.high_water], dtype="u8"),
            "sequence": np.array(list(batch.high_water.values()), dtype="u8"),
            "updated": np.array([batch.last_seen[host_key] for host_key, _ in batch.high_water], dtype="i8"),
        }
        self._connection.register("incoming", marks)
        self._connection.execute(
            "INSERT INTO high_water SELECT * FROM incoming ON CONFLICT (host_key, spool_epoch) "
            "DO UPDATE SET sequence = excluded.sequence, updated = excluded.updated"
        )
        self._connection.register("incoming", seen)
        self._connection.execute(
            "UPDATE host SET last_seen = incoming.received FROM incoming WHERE host.host_key = incoming.host_key"
        )
        self._connection.unregister("incoming")


def _identity_columns(identities: Mapping[int, tuple[str, str, str]]) -> dict[str, Any] | None:
    if not identities:
        return None
    names, apps, users = zip(*identities.values(), strict=True)
    return {
        "identity_key": np.array(list(identities), dtype="u8"),
        "name": np.array(names, dtype=object),
        "app": np.array(apps, dtype=object),
        "user_name": np.array(users, dtype=object),
    }


def _explain(file: Path, error: duckdb.Error) -> str:
    text = str(error)
    if "lock" in text.lower():
        return f"{file} is in use by another process: is an aggregator running on this folder already?"
    return f"cannot open the store {file}: {text.splitlines()[0]}"
