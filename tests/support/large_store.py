"""A store with an hour of a large fleet in it, made by SQL: what 10,000 agents would have reported by now."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import duckdb

from loiter.v1 import sample_pb2
from loiter_aggregator.store.duckdb_store import DuckDbStore

_STEP_MS: Final = 10_000
_TICKS: Final = 360
_PROCESSES: Final = 10
_APPS: Final = 300

# One host in 500 leaks, each at a rate of its own; the others have a few that come and go.
_LEAKS: Final = "i % 500 = 0"
_HOST_COLUMNS: Final = {
    "ts": "$now - ($ticks - k) * $step",
    "received": "$now - ($ticks - k) * $step",
    "skew": "0",
    "host_key": "1000 + i",
    "sampler": "1",
    "established": "100 + i % 50",
    "close_wait": f"CASE WHEN {_LEAKS} THEN 10 + k * (1 + i // 500 % 7) ELSE i % 5 END",
    "time_wait": "200 + (i * k) % 300",
    "syn_sent": "0",
    "listen": "12",
    "fd_allocated": "3000",
    "fd_limit": "1000000",
    "sockets_attributed": "200",
    "sockets_unattributed": "0",
    "sockets_ownerless": "0",
    "close_wait_uncharged": "0",
    "processes": "150",
    "processes_unreadable": "0",
    "namespaces": "1",
    "namespaces_unread": "0",
    "namespaces_by_procfs": "0",
    "dump_torn": "false",
    "spool_epoch": "1",
    "sequence": "k + 1",
    "stuck": f"CASE WHEN {_LEAKS} THEN k * (1 + i // 500 % 7) ELSE 0 END",
    "cause": f"CASE WHEN {_LEAKS} THEN {sample_pb2.CAUSE_LEAK} ELSE 0 END",
    "ports_share": "(i % 90) / 100.0",
    "time_wait_overflows": "0",
}
_PROCESS_COLUMNS: Final = {
    "ts": "$now - ($ticks - k) * $step",
    "host_key": "1000 + i",
    "pid": "100 + p",
    "start_time": "$now - 86400000",
    "identity_key": f"5000 + (i * {_PROCESSES} + p) % {_APPS}",
    "established": "10",
    "close_wait": f"CASE WHEN {_LEAKS} AND p = 3 THEN 10 + k * (1 + i // 500 % 7) ELSE i % 3 END",
    "time_wait": "5",
    "sockets": "30",
    "fd_open": f"CASE WHEN {_LEAKS} AND p = 3 THEN 100 + k * (1 + i // 500 % 7) ELSE 50 + p END",
    "fd_limit": "10240",
    "fd_limit_hard": "10240",
    "stuck": f"CASE WHEN {_LEAKS} AND p = 3 THEN k * (1 + i // 500 % 7) ELSE 0 END",
    "cause": f"CASE WHEN {_LEAKS} AND p = 3 THEN {sample_pb2.CAUSE_LEAK} ELSE 0 END",
    "ports_share": "0.1",
}


def make_large_store(folder: Path, hosts: int) -> None:
    """Makes the store of a folder: an hour of so many hosts, a sample every 10 s, ten processes on each.

    The agents are said to report once a minute, so that no host falls silent within the next three.
    """
    store = DuckDbStore(folder, "4GB")
    file = store.file
    store.close()
    now = time.time_ns() // 1_000_000
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            "INSERT INTO host"
            " (host_key, host_id, hostname, boot_id, agent_version, kernel_release, interval_ms, last_seen)"
            " SELECT 1000 + i, printf('%032x', i), printf('host-%05d', i), printf('%032x', i), '0.3.0', '6.18.44',"
            f" 60000, {now} FROM range({hosts}) AS t(i)"
        )
        connection.execute(
            "INSERT INTO host_label SELECT 1000 + i, 'role', (['web', 'db', 'cache', 'batch'])[1 + i % 4]"
            f" FROM range({hosts}) AS t(i)"
        )
        connection.execute(
            "INSERT INTO identity (identity_key, name, app, user_name)"
            f" SELECT 5000 + i, 'proc' || i, 'app-' || i || '.service', 'root' FROM range({_APPS}) AS t(i)"
        )
        _fill(connection, "host_sample", _HOST_COLUMNS, now, f"range({_TICKS}) AS a(k), range({hosts}) AS b(i)")
        _fill(
            connection,
            "process_sample",
            _PROCESS_COLUMNS,
            now,
            f"range({_TICKS}) AS a(k), range({hosts}) AS b(i), range({_PROCESSES}) AS c(p)",
        )
        latest = sample_pb2.Sample(tcp_states=sample_pb2.TcpStateCounts(close_wait=3, established=100))
        connection.execute(
            f"INSERT INTO host_latest SELECT 1000 + i, {now}, $latest FROM range({hosts}) AS t(i)",
            {"latest": latest.SerializeToString()},
        )
        connection.execute("CHECKPOINT")


def _fill(connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], now: int, source: str) -> None:
    values = ", ".join(columns.values()).replace("$now", str(now))
    values = values.replace("$ticks", str(_TICKS)).replace("$step", str(_STEP_MS))
    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {source}")
