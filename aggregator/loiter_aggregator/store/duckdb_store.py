"""The store on DuckDB: one file, one process, one writer; any number of readers in that process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np

from loiter_aggregator.store.batch import Batch, HostRecord
from loiter_aggregator.store.schema import CREATE, VERSION

_FILE: Final = "loiter.duckdb"
# A host that has not been heard of for so long beyond retention is forgotten, and so is the epoch of a spool.
_LONG_GONE_MS: Final = 30 * 86_400_000


class StoreError(Exception):
    """The store can not be opened or written. The message is for a person."""


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
        # Hosts that greeted and never reported: nobody is connected yet who could.
        self._connection.execute("DELETE FROM host WHERE last_seen IS NULL")
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
        with self._writing:
            identities = {key: names for key, names in batch.identities.items() if key not in self._identities}
            with self._transaction():
                self._put_hosts(batch.hosts)
                self._insert("host_sample", batch.host_columns() if batch.host_rows else None)
                self._insert("process_sample", batch.process_columns() if batch.process_rows else None)
                self._insert("identity", _identity_columns(identities))
                self._replace_latest(batch)
                self._write_marks(batch)
            self._identities.update(identities)

    def forget_before(self, time: int) -> None:
        """Deletes samples taken before a time in milliseconds, and all that is only there for samples long gone.

        Raises StoreError.
        """
        with self._writing:
            with self._transaction():
                execute = self._connection.execute
                execute("DELETE FROM host_sample WHERE ts < ?", [time])
                execute("DELETE FROM process_sample WHERE ts < ?", [time])
                execute("DELETE FROM host_latest WHERE ts < ?", [time])
                execute("DELETE FROM high_water WHERE updated < ?", [time - _LONG_GONE_MS])
                execute("DELETE FROM host WHERE last_seen < ?", [time - _LONG_GONE_MS])
                execute("DELETE FROM host_label WHERE host_key NOT IN (SELECT host_key FROM host)")
                execute("DELETE FROM identity WHERE identity_key NOT IN (SELECT identity_key FROM process_sample)")
            self._identities = {key for (key,) in self.read("SELECT identity_key FROM identity")}

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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commits what the block does, or nothing of it. Raises StoreError with the reason."""
        try:
            self._connection.begin()
            try:
                yield
                self._connection.commit()
            except BaseException:
                # DuckDB may have rolled back by itself: what matters is the error that made it.
                with suppress(duckdb.Error):
                    self._connection.rollback()
                raise
        except duckdb.Error as error:
            raise StoreError(f"cannot write to the store: {error}") from None

    def _put_hosts(self, hosts: Mapping[int, HostRecord]) -> None:
        """Stores what hosts say of themselves. When they were last seen is for their reports to say."""
        if not hosts:
            return
        records = list(hosts.values())
        texts = ("host_id", "hostname", "boot_id", "agent_version", "kernel_release")
        said = {
            "host_key": np.array([record.host_key for record in records], dtype="u8"),
            **{name: np.array([getattr(record, name) for record in records], dtype=object) for name in texts},
            "interval_ms": np.array([record.interval_ms for record in records], dtype="i8"),
        }
        with self._incoming(said):
            self._connection.execute(
                "INSERT INTO host SELECT *, NULL FROM incoming ON CONFLICT (host_key) DO UPDATE SET "
                "hostname = excluded.hostname, boot_id = excluded.boot_id, interval_ms = excluded.interval_ms, "
                "agent_version = excluded.agent_version, kernel_release = excluded.kernel_release"
            )
            self._connection.execute("DELETE FROM host_label WHERE host_key IN (SELECT host_key FROM incoming)")
        labels = [(record.host_key, name, value) for record in records for name, value in record.labels.items()]
        if labels:
            keys, names, values = zip(*labels, strict=True)
            self._insert(
                "host_label",
                {
                    "host_key": np.array(keys, dtype="u8"),
                    "name": np.array(names, dtype=object),
                    "value": np.array(values, dtype=object),
                },
            )

    def _insert(self, table: str, columns: Mapping[str, Any] | None) -> None:
        if columns is None:
            return
        with self._incoming(columns):
            self._connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")

    def _replace_latest(self, batch: Batch) -> None:
        """Keeps the latest sample of each host: an older one that comes late does not take its place."""
        if not batch.latest:
            return
        with self._incoming(batch.latest_columns()):
            self._connection.execute(
                "INSERT INTO host_latest SELECT * FROM incoming ON CONFLICT (host_key) "
                "DO UPDATE SET ts = excluded.ts, sample = excluded.sample WHERE excluded.ts >= host_latest.ts"
            )

    def _write_marks(self, batch: Batch) -> None:
        if not batch.last_seen:
            return
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
        with self._incoming(marks):
            self._connection.execute(
                "INSERT INTO high_water SELECT * FROM incoming ON CONFLICT (host_key, spool_epoch) "
                "DO UPDATE SET sequence = excluded.sequence, updated = excluded.updated"
            )
        with self._incoming(seen):
            self._connection.execute(
                "UPDATE host SET last_seen = incoming.received FROM incoming WHERE host.host_key = incoming.host_key"
            )

    @contextmanager
    def _incoming(self, columns: Mapping[str, Any]) -> Iterator[None]:
        """Has columns as the table `incoming` for the block, and for no longer: a batch is not kept alive by it."""
        self._connection.register("incoming", columns)
        try:
            yield
        finally:
            # After an error, DuckDB refuses this until the rollback, which does it: what matters is that error.
            with suppress(duckdb.Error):
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
