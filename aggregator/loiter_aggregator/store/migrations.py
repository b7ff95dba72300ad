"""Brings a store that an older loiter made to the version of this one.

A step names what it adds by literals: the tables of `schema` change with time, what a version was does not. What an
older loiter did not store is NULL: unknown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

import duckdb

from loiter.logs import fields
from loiter_aggregator.store.schema import VERSION

_log = logging.getLogger(__name__)


def _add(table: str, **columns: str) -> tuple[str, ...]:
    return tuple(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in columns.items())


# From the version to the next.
STEPS: Final[dict[int, Iterable[str]]] = {
    1: (
        # The first loiters of version 1 knew neither; nor did they correct any clock.
        *_add("host_sample", skew="BIGINT DEFAULT 0", close_wait_uncharged="UINTEGER"),
        "ALTER TABLE host_sample ALTER COLUMN skew DROP DEFAULT",
        # Errors of collectors are in the latest sample, which comes with the next report of the host.
        "ALTER TABLE host_sample DROP COLUMN IF EXISTS errors",
        *_add(
            "host_sample",
            time_wait_overflows="UBIGINT",
            time_wait_max_buckets="UBIGINT",
            time_wait_reuse="UINTEGER",
            cause="UTINYINT",
            stuck="UBIGINT",
            ports_share="DOUBLE",
        ),
        *_add(
            "process_sample",
            fd_limit_hard="UBIGINT",
            stuck="UINTEGER",
            cause="UTINYINT",
            age_p50_seconds="DOUBLE",
            age_p99_seconds="DOUBLE",
            age_max_seconds="DOUBLE",
            ports_share="DOUBLE",
        ),
        "CREATE TABLE host_latest (host_key UBIGINT PRIMARY KEY, ts BIGINT, sample BLOB)",
    ),
    2: _add("host_sample", namespaces_by_procfs="UINTEGER"),
    3: (
        *_add("host_sample", spool_epoch="UBIGINT", sequence="UBIGINT", degradation="UTINYINT"),
        *_add("host", certificate_name="VARCHAR"),
        "CREATE TABLE lost_sample (host_key UBIGINT, spool_epoch UBIGINT, first_sequence UBIGINT, "
        "last_sequence UBIGINT, first_ts BIGINT, last_ts BIGINT, received BIGINT, reason UTINYINT)",
    ),
}


def migrate(connection: duckdb.DuckDBPyConnection, found: int) -> None:
    """Brings a store of version `found` to this one: all of it, or, where the process is killed, nothing.

    Raises duckdb.Error, in which case nothing is changed.
    """
    started = time.monotonic()
    connection.begin()
    try:
        for version in range(found, VERSION):
            for statement in STEPS[version]:
                connection.execute(statement)
        connection.execute("UPDATE store_version SET version = ?", [VERSION])
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    seconds = time.monotonic() - started
    facts = fields(from_version=found, to_version=VERSION, seconds=round(seconds, 3))
    _log.info("store migrated from version %d to %d in %.1f s", found, VERSION, seconds, extra=facts)
