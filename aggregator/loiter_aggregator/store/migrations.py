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


# What a rollup of version 5 holds.
_HOST_ROLLUP_5: Final = (
    "bucket BIGINT, host_key UBIGINT, samples UINTEGER, first_ts BIGINT, last_ts BIGINT, seen_n UINTEGER, seen_st "
    "DOUBLE, seen_stt DOUBLE, seen_ts BIGINT, left_out UINTEGER, skew_min BIGINT, skew_max BIGINT, n UINTEGER, st "
    "DOUBLE, stt DOUBLE, sy DOUBLE, sty DOUBLE, syy DOUBLE, y_min UINTEGER, close_wait UINTEGER, established "
    "UINTEGER, syn_sent UINTEGER, syn_recv UINTEGER, fin_wait1 UINTEGER, fin_wait2 UINTEGER, close UINTEGER, "
    "last_ack UINTEGER, listen UINTEGER, closing UINTEGER, new_syn_recv UINTEGER, bound_inactive UINTEGER, "
    "time_wait_n UINTEGER, time_wait_sum DOUBLE, time_wait UINTEGER, fd_allocated UBIGINT, fd_limit UBIGINT, "
    "ports_share DOUBLE, stuck UBIGINT, overflows_n UINTEGER, overflows_min UBIGINT, overflows_max UBIGINT, "
    "last_close_wait UINTEGER, last_time_wait UINTEGER, last_established UINTEGER, last_fd_allocated UBIGINT, "
    "last_fd_limit UBIGINT, last_cause UTINYINT, last_ports_share DOUBLE, last_stuck UBIGINT"
)
_PROCESS_ROLLUP_5: Final = (
    "bucket BIGINT, host_key UBIGINT, pid UINTEGER, start_time BIGINT, identity_key UBIGINT, samples UINTEGER, "
    "first_ts BIGINT, last_ts BIGINT, all_st DOUBLE, all_stt DOUBLE, n UINTEGER, st DOUBLE, stt DOUBLE, sy "
    "DOUBLE, sty DOUBLE, syy DOUBLE, y_min UINTEGER, close_wait UINTEGER, time_wait_n UINTEGER, time_wait_sum "
    "DOUBLE, time_wait UINTEGER, established UINTEGER, stuck UINTEGER, ports_share DOUBLE, fd_n UINTEGER, fd_st "
    "DOUBLE, fd_stt DOUBLE, fd_sy DOUBLE, fd_sty DOUBLE, fd_syy DOUBLE, fd_y_min UINTEGER, fd_open UINTEGER, "
    "fd_limit_min UBIGINT, fd_limit UBIGINT, fd_close_wait_n UINTEGER, fd_close_wait_sy DOUBLE, fd_close_wait_sty "
    "DOUBLE, last_close_wait UINTEGER, last_time_wait UINTEGER, last_established UINTEGER, last_sockets UINTEGER, "
    "last_fd_open UINTEGER, last_fd_limit UBIGINT, last_fd_limit_hard UBIGINT, last_stuck UINTEGER, last_cause "
    "UTINYINT, last_age_p50_seconds DOUBLE, last_age_p99_seconds DOUBLE, last_age_max_seconds DOUBLE, "
    "last_ports_share DOUBLE"
)

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
    # What is there is rolled and sealed after the start, step by step.
    4: (
        "CREATE TABLE level (name VARCHAR, rolled_until BIGINT, forgotten_until BIGINT)",
        "INSERT INTO level (name) VALUES ('sample'), ('minute'), ('five_minutes'), ('hour')",
        *(f"CREATE TABLE host_{level} ({_HOST_ROLLUP_5})" for level in ("minute", "five_minutes", "hour")),
        *(f"CREATE TABLE process_{level} ({_PROCESS_ROLLUP_5})" for level in ("minute", "five_minutes", "hour")),
        "CREATE TABLE sealed (file VARCHAR, table_name VARCHAR, span BIGINT, first_time BIGINT, last_time BIGINT, "
        "row_count BIGINT, byte_count BIGINT, sealed_at BIGINT, version INTEGER, identities UBIGINT[])",
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
