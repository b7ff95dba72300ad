"""Writes what a batch holds, table by table, within a transaction of the caller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import duckdb
import numpy as np

from loiter_aggregator.store.batch import Batch, HostRecord
from loiter_aggregator.store.late import add_late_rows
from loiter_aggregator.store.schema import HOST_SAMPLE, LOST_SAMPLE, PROCESS_SAMPLE

_TEXTS: Final = ("host_id", "hostname", "boot_id", "agent_version", "kernel_release", "certificate_name")


def write_batch(connection: duckdb.DuckDBPyConnection, batch: Batch, known_identities: set[int]) -> None:
    """Writes all of a batch but the identities that are there already. Raises duckdb.Error."""
    _put_hosts(connection, batch.hosts)
    _insert(connection, "host_sample", HOST_SAMPLE, batch.host_columns() if batch.host_rows else None)
    _insert(connection, "process_sample", PROCESS_SAMPLE, batch.process_columns() if batch.process_rows else None)
    add_late_rows(connection, batch)
    _insert(connection, "lost_sample", LOST_SAMPLE, batch.lost_columns() if batch.lost_rows else None)
    identities = _identity_columns(
        {key: names for key, names in batch.identities.items() if key not in known_identities}
    )
    _insert(connection, "identity", identities or (), identities)
    _replace_latest(connection, batch)
    _write_marks(connection, batch)
    _write_last_seen(connection, batch.last_seen)
    _write_intervals(connection, batch)


def _put_hosts(connection: duckdb.DuckDBPyConnection, hosts: Mapping[int, HostRecord]) -> None:
    """Stores what hosts say of themselves. When they were last seen is for their reports to say."""
    if not hosts:
        return
    records = list(hosts.values())
    said = {
        "host_key": np.array([record.host_key for record in records], dtype="u8"),
        **{name: np.array([getattr(record, name) for record in records], dtype=object) for name in _TEXTS},
        "interval_ms": np.array([record.interval_ms for record in records], dtype="i8"),
    }
    with _incoming(connection, said):
        connection.execute(
            f"INSERT INTO host BY NAME SELECT {', '.join(said)} FROM incoming ON CONFLICT (host_key) DO UPDATE SET "
            "hostname = excluded.hostname, boot_id = excluded.boot_id, interval_ms = excluded.interval_ms, "
            "agent_version = excluded.agent_version, kernel_release = excluded.kernel_release, "
            # Whose a host id is once shown by a certificate stays so.
            "certificate_name = coalesce(host.certificate_name, excluded.certificate_name)"
        )
        connection.execute("DELETE FROM host_label WHERE host_key IN (SELECT host_key FROM incoming)")
    labels = [(record.host_key, name, value) for record in records for name, value in record.labels.items()]
    if labels:
        keys, names, values = zip(*labels, strict=True)
        columns = {
            "host_key": np.array(keys, dtype="u8"),
            "name": np.array(names, dtype=object),
            "value": np.array(values, dtype=object),
        }
        _insert(connection, "host_label", columns, columns)


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, names: Mapping[str, Any] | tuple[()], columns: Any
) -> None:
    """Inserts columns by their names: their order in the file is that in which versions of loiter added them."""
    if columns is None:
        return
    with _incoming(connection, columns):
        connection.execute(f"INSERT INTO {table} BY NAME SELECT {', '.join(names)} FROM incoming")


def _replace_latest(connection: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Keeps the latest sample of each host: an older one that comes late does not take its place.

    One of later than what is received now was stored before the clock was set back, and is the older one.
    """
    if not batch.latest:
        return
    with _incoming(connection, batch.latest_columns()):
        connection.execute(
            "INSERT INTO host_latest BY NAME SELECT host_key, ts, sample FROM incoming ON CONFLICT (host_key) "
            "DO UPDATE SET ts = excluded.ts, sample = excluded.sample "
            f"WHERE excluded.ts >= host_latest.ts OR host_latest.ts > {max(batch.last_seen.values())}"
        )


def _write_marks(connection: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    if not batch.high_water:
        return
    marks = {
        "host_key": np.array([host_key for host_key, _ in batch.high_water], dtype="u8"),
        "spool_epoch": np.array([epoch for _, epoch in batch.high_water], dtype="u8"),
        "sequence": np.array(list(batch.high_water.values()), dtype="u8"),
        "updated": np.array([batch.last_seen[host_key] for host_key, _ in batch.high_water], dtype="i8"),
    }
    with _incoming(connection, marks):
        connection.execute(
            f"INSERT INTO high_water BY NAME SELECT {', '.join(marks)} FROM incoming "
            "ON CONFLICT (host_key, spool_epoch) DO UPDATE SET sequence = excluded.sequence, updated = excluded.updated"
        )


def _write_last_seen(connection: duckdb.DuckDBPyConnection, last_seen: Mapping[int, int]) -> None:
    if not last_seen:
        return
    seen = {
        "host_key": np.array(list(last_seen), dtype="u8"),
        "received": np.array(list(last_seen.values()), dtype="i8"),
    }
    with _incoming(connection, seen):
        connection.execute(
            "UPDATE host SET last_seen = incoming.received FROM incoming WHERE host.host_key = incoming.host_key"
        )


def _write_intervals(connection: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Keeps the interval of each host's latest sample; most say what is there already."""
    if not batch.intervals:
        return
    said = {
        "host_key": np.array(list(batch.intervals), dtype="u8"),
        "ts": np.array([batch.latest[host_key][0] for host_key in batch.intervals], dtype="i8"),
        "interval_ms": np.array(list(batch.intervals.values()), dtype="i8"),
    }
    with _incoming(connection, said):
        connection.execute(
            "UPDATE host SET interval_ms = incoming.interval_ms "
            "FROM incoming JOIN host_latest USING (host_key, ts) "
            "WHERE host.host_key = incoming.host_key AND host.interval_ms <> incoming.interval_ms"
        )


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


@contextmanager
def _incoming(connection: duckdb.DuckDBPyConnection, columns: Mapping[str, Any]) -> Iterator[None]:
    """Has columns as the table `incoming` for the block, and for no longer: a batch is not kept alive by it."""
    connection.register("incoming", columns)
    try:
        yield
    finally:
        # After an error, DuckDB refuses this until the rollback, which does it: what matters is that error.
        with suppress(duckdb.Error):
            connection.unregister("incoming")
