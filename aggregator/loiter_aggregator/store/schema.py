"""The tables of the store.

Times are BIGINT milliseconds since the epoch: `ts` when a sample was taken, by the agent's clock with `skew` added,
which sets it right; `received` by the aggregator's clock. Keys are 64-bit hashes, so that several aggregators would
give the same key to the same host without asking each other. NULL stands for what an agent could not read. Sample
tables have no index: they are written in the order of time, and min/max of each row group serve instead.
"""

from __future__ import annotations

from typing import Final

from loiter.v1 import sample_pb2 as pb

VERSION: Final = 5

# A sample of an agent that leaves processes out says nothing of them, not that there are none.
KNOWS_PROCESSES: Final = f"coalesce(degradation, 0) < {pb.DEGRADATION_COUNTS_ONLY}"
# Nor does one that leaves causes out say that CLOSE_WAIT sockets have none.
KNOWS_CAUSES: Final = f"coalesce(degradation, 0) < {pb.DEGRADATION_NO_DETAIL}"

TCP_STATES: Final = tuple(field.name for field in pb.TcpStateCounts.DESCRIPTOR.fields)

# name → (SQL type, numpy type), in the order of the columns.
HOST_SAMPLE: Final = {
    "ts": ("BIGINT", "i8"),
    "received": ("BIGINT", "i8"),
    "skew": ("BIGINT", "i8"),
    "host_key": ("UBIGINT", "u8"),
    "sampler": ("UTINYINT", "u1"),
    **dict.fromkeys(TCP_STATES, ("UINTEGER", "u4")),
    "fd_allocated": ("UBIGINT", "u8"),
    "fd_limit": ("UBIGINT", "u8"),
    "sockets_attributed": ("UINTEGER", "u4"),
    "sockets_unattributed": ("UINTEGER", "u4"),
    "sockets_ownerless": ("UINTEGER", "u4"),
    "close_wait_uncharged": ("UINTEGER", "u4"),
    "processes": ("UINTEGER", "u4"),
    "processes_unreadable": ("UINTEGER", "u4"),
    "processes_vanished": ("UINTEGER", "u4"),
    "namespaces": ("UINTEGER", "u4"),
    "namespaces_unread": ("UINTEGER", "u4"),
    "namespaces_by_procfs": ("UINTEGER", "u4"),
    "dump_torn": ("BOOLEAN", "?"),
    "other_processes": ("UINTEGER", "u4"),
    "other_established": ("UINTEGER", "u4"),
    "other_close_wait": ("UINTEGER", "u4"),
    "other_sockets": ("UINTEGER", "u4"),
    "other_fd_open": ("UBIGINT", "u8"),
    "cpu_seconds": ("DOUBLE", "f8"),
    "wall_seconds": ("DOUBLE", "f8"),
    "process_cpu_seconds": ("DOUBLE", "f8"),
    "resident_bytes": ("UBIGINT", "u8"),
    "late_ticks": ("UBIGINT", "u8"),
    "dropped_reports": ("UBIGINT", "u8"),
    "time_wait_overflows": ("UBIGINT", "u8"),
    "time_wait_max_buckets": ("UBIGINT", "u8"),
    "time_wait_reuse": ("UINTEGER", "u4"),
    # What its processes and port budgets come to, so that a ranking of hosts need not read them.
    "cause": ("UTINYINT", "u1"),
    "stuck": ("UBIGINT", "u8"),
    "ports_share": ("DOUBLE", "f8"),
    # What names the report for all time, together with the host.
    "spool_epoch": ("UBIGINT", "u8"),
    "sequence": ("UBIGINT", "u8"),
    "degradation": ("UTINYINT", "u1"),
}

# Samples that were taken and will never come: sequences from the first to the last. `first_sequence` is NULL where it
# is not known how many there were.
LOST_SAMPLE: Final = {
    "host_key": ("UBIGINT", "u8"),
    "spool_epoch": ("UBIGINT", "u8"),
    "first_sequence": ("UBIGINT", "u8"),
    "last_sequence": ("UBIGINT", "u8"),
    "first_ts": ("BIGINT", "i8"),
    "last_ts": ("BIGINT", "i8"),
    "received": ("BIGINT", "i8"),
    "reason": ("UTINYINT", "u1"),
}
# When the last of a row of lost_sample was taken; where that is not known, when it was heard of.
LOST_AT: Final = "coalesce(last_ts, first_ts, received)"

PROCESS_SAMPLE: Final = {
    "ts": ("BIGINT", "i8"),
    "host_key": ("UBIGINT", "u8"),
    "pid": ("UINTEGER", "u4"),
    "start_time": ("BIGINT", "i8"),
    "identity_key": ("UBIGINT", "u8"),
    "established": ("UINTEGER", "u4"),
    "close_wait": ("UINTEGER", "u4"),
    "time_wait": ("UINTEGER", "u4"),
    "sockets": ("UINTEGER", "u4"),
    "fd_open": ("UINTEGER", "u4"),
    "fd_limit": ("UBIGINT", "u8"),
    "fd_limit_hard": ("UBIGINT", "u8"),
    "stuck": ("UINTEGER", "u4"),
    "cause": ("UTINYINT", "u1"),
    "age_p50_seconds": ("DOUBLE", "f8"),
    "age_p99_seconds": ("DOUBLE", "f8"),
    "age_max_seconds": ("DOUBLE", "f8"),
    "ports_share": ("DOUBLE", "f8"),
}


def _table(name: str, columns: dict[str, tuple[str, str]]) -> str:
    return f"CREATE TABLE {name} ({', '.join(f'{column} {sql}' for column, (sql, _) in columns.items())})"


CREATE: Final = (
    "CREATE TABLE store_version (version INTEGER)",
    f"INSERT INTO store_version VALUES ({VERSION})",
    _table("host_sample", HOST_SAMPLE),
    _table("process_sample", PROCESS_SAMPLE),
    _table("lost_sample", LOST_SAMPLE),
    # What a process is called; one row serves every process that is called the same.
    "CREATE TABLE identity (identity_key UBIGINT PRIMARY KEY, name VARCHAR, app VARCHAR, user_name VARCHAR)",
    "CREATE TABLE host (host_key UBIGINT PRIMARY KEY, host_id VARCHAR, hostname VARCHAR, boot_id VARCHAR, "
    "agent_version VARCHAR, kernel_release VARCHAR, interval_ms BIGINT, last_seen BIGINT, "
    # The name in the certificate that the host id belongs to; NULL where no certificate was asked for.
    "certificate_name VARCHAR)",
    "CREATE TABLE host_label (host_key UBIGINT, name VARCHAR, value VARCHAR)",
    # The latest sample of each host as it came: all that is asked of the present, and not of the past.
    "CREATE TABLE host_latest (host_key UBIGINT PRIMARY KEY, ts BIGINT, sample BLOB)",
    # The last report of each spool that is in the tables above; written in the same transaction.
    "CREATE TABLE high_water (host_key UBIGINT, spool_epoch UBIGINT, sequence UBIGINT, updated BIGINT, "
    "PRIMARY KEY (host_key, spool_epoch))",
)
