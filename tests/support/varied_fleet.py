"""A store with a fleet in it whose figures vary as real ones do, made by SQL: not trivially compressible.

Every figure is a seeded function of host, process and tick: a level of its own, a slow wave, and noise on most ticks;
half the processes are busy, the other half change now and then. Samples come with a jitter of some milliseconds, after
a delay of their own.
"""

from __future__ import annotations

from typing import Final

import duckdb

from loiter.v1 import sample_pb2

STEP_MS: Final = 10_000
PROCESSES: Final = 10
_APPS: Final = 300


def _noise(salt: int, most: str | int, *of: str) -> str:
    """A whole number from 0 to below `most`, by what it is a function of."""
    return f"CAST((hash({', '.join(('$seed', str(salt), *(of or ('i', 'k'))))}) >> 24) % ({most}) AS BIGINT)"


def _own(salt: int, most: int) -> str:
    return _noise(salt, most, "i")


def _of_process(salt: int, most: int) -> str:
    return _noise(salt, most, "i", "p")


def _wave(salt: int, mean: str, share: float) -> str:
    phase = _noise(salt, 628, "i")
    return f"CAST(({mean}) * (1 + {share} * sin(k / 60.0 + {phase} / 100.0)) AS BIGINT)"


_TS: Final = f"$start + k * {STEP_MS} + {_noise(1, STEP_MS, 'i')} + {_noise(2, 8)}"
_LEAKS: Final = f"{_noise(3, 50, 'i')} = 0"
_LEAKED: Final = f"CAST(k * (0.05 + {_noise(4, 100, 'i')} / 50.0) AS BIGINT)"
_CLOSE_WAIT: Final = f"CASE WHEN {_LEAKS} THEN 3 + {_LEAKED} + {_noise(5, 3)} ELSE {_noise(6, 4)} END"
_HOST: Final = {
    "ts": _TS,
    "received": f"{_TS} + 3 + {_noise(7, 25)}",
    "skew": "0",
    "host_key": "hash(i, 77)",
    "sampler": "1",
    "established": f"{_wave(8, f'40 + {_own(9, 400)}', 0.3)} + {_noise(10, 12)}",
    "syn_sent": f"CASE WHEN {_noise(11, 6)} = 0 THEN {_noise(12, 4)} ELSE 0 END",
    "syn_recv": f"CASE WHEN {_noise(13, 9)} = 0 THEN 1 ELSE 0 END",
    "fin_wait1": f"CASE WHEN {_noise(14, 5)} = 0 THEN {_noise(15, 3)} ELSE 0 END",
    "fin_wait2": f"{_noise(16, 4)}",
    "time_wait": f"{_wave(17, f'20 + {_own(18, 900)}', 0.4)} + {_noise(19, 40)}",
    "close": "0",
    "close_wait": _CLOSE_WAIT,
    "last_ack": f"CASE WHEN {_noise(20, 7)} = 0 THEN 1 ELSE 0 END",
    "listen": f"8 + {_noise(21, 30, 'i')}",
    "closing": "0",
    "fd_allocated": f"{_wave(22, f'2000 + {_own(23, 4000)}', 0.1)} + 32 * {_noise(24, 12)}",
    "fd_limit": "9223372036854775807",
    "sockets_attributed": f"{_wave(8, f'60 + {_own(9, 400)}', 0.3)} + {_noise(10, 12)}",
    "sockets_unattributed": f"CASE WHEN {_noise(25, 10)} = 0 THEN 1 ELSE 0 END",
    "sockets_ownerless": f"{_noise(26, 3)}",
    "close_wait_uncharged": "0",
    "processes": f"120 + {_noise(27, 200, 'i')} + {_noise(28, 3)}",
    "processes_unreadable": "0",
    "processes_vanished": f"CASE WHEN {_noise(29, 8)} = 0 THEN 1 ELSE 0 END",
    "namespaces": "1",
    "namespaces_unread": "0",
    "namespaces_by_procfs": "0",
    "dump_torn": "false",
    "other_processes": "0",
    "other_established": "0",
    "other_close_wait": "0",
    "other_sockets": "0",
    "other_fd_open": "0",
    "cpu_seconds": f"(5000 + {_noise(30, 1200)} + {_noise(31, 1000, 'i')}) / 1e6",
    "wall_seconds": f"(6000 + {_noise(32, 1800)} + {_noise(31, 1000, 'i')}) / 1e6",
    "process_cpu_seconds": f"(k * 5600 + {_noise(33, 900)}) / 1e6",
    "resident_bytes": f"4096 * (10500 + {_noise(34, 300, 'i')} + k // 40)",
    "late_ticks": "0",
    "dropped_reports": "0",
    "time_wait_overflows": f"{_noise(35, 5, 'i')}",
    "time_wait_max_buckets": "262144",
    "time_wait_reuse": "2",
    "cause": f"CASE WHEN {_LEAKS} THEN {sample_pb2.CAUSE_LEAK} END",
    "stuck": f"CASE WHEN {_LEAKS} THEN {_LEAKED} ELSE 0 END",
    "ports_share": f"least(1, ({_noise(18, 900, 'i')} + {_noise(19, 40)}) / 28232.0)",
    "spool_epoch": f"{_noise(36, 1 << 62, 'i')}",
    "sequence": "k + 1",
    "degradation": "0",
}
_BUSY: Final = "p % 2 = 0"
_LEAKING: Final = f"({_LEAKS} AND p = 4)"
_OPEN: Final = f"CASE WHEN {_BUSY} THEN {_noise(40, 7, 'i', 'k', 'p')} ELSE {_noise(41, 2, 'i', 'k // 20', 'p')} END"
_ESTABLISHED: Final = f"{_wave(42, f'2 + {_of_process(43, 40)}', 0.2)} + {_OPEN}"
_CHURN: Final = f"CASE WHEN p = 6 THEN {_noise(44, 3)} ELSE 0 END"
_HELD: Final = f"CASE WHEN {_LEAKING} THEN 3 + {_LEAKED} + {_noise(5, 3)} ELSE {_CHURN} END"
_AGE: Final = (
    f"CASE WHEN {_LEAKING} THEN (60000 + k * 10000 + {_noise(45, 8)}) / 1000.0 ELSE {_noise(46, 900)} / 1000.0 END"
)
_PROCESS: Final = {
    "ts": _TS,
    "host_key": "hash(i, 77)",
    "pid": f"300 + p * 37 + {_noise(47, 30000, 'i', 'p')}",
    "start_time": f"$start - 86400000 - 10 * {_of_process(48, 8640000)}",
    "identity_key": f"hash((i * {PROCESSES} + p) % {_APPS}, 5)",
    "established": _ESTABLISHED,
    "close_wait": _HELD,
    "time_wait": f"CASE WHEN p = 0 THEN {_wave(17, f'20 + {_own(18, 900)}', 0.4)} + {_noise(19, 40)} END",
    "sockets": f"{_ESTABLISHED} + {_HELD} + 2 + {_noise(49, 5, 'i', 'p')}",
    "fd_open": f"{_ESTABLISHED} + {_HELD} + 12 + {_noise(50, 90, 'i', 'p')} + {_OPEN} % 3",
    "fd_limit": f"CASE WHEN {_noise(51, 3, 'i', 'p')} = 0 THEN 1024 ELSE 1048576 END",
    "fd_limit_hard": "1048576",
    "stuck": f"CASE WHEN {_LEAKING} THEN {_LEAKED} ELSE 0 END",
    "cause": f"CASE WHEN {_LEAKING} THEN {sample_pb2.CAUSE_LEAK} END",
    **dict.fromkeys(
        ("age_p50_seconds", "age_p99_seconds", "age_max_seconds"), f"CASE WHEN {_HELD} > 0 THEN {_AGE} END"
    ),
    "ports_share": f"CASE WHEN p = 0 THEN least(1, ({_noise(18, 900, 'i')} + {_noise(19, 40)}) / 28232.0) END",
}


def add_hosts(connection: duckdb.DuckDBPyConnection, hosts: int, now: int) -> None:
    """Adds the hosts and what their processes are called."""
    connection.execute(
        "INSERT INTO host (host_key, host_id, hostname, boot_id, agent_version, kernel_release, interval_ms, last_seen)"
        " SELECT hash(i, 77), printf('%032x', i), printf('host-%05d', i), printf('%032x', i), '0.3.0', '6.18.44',"
        f" {STEP_MS}, {now} FROM range({hosts}) AS t(i)"
    )
    connection.execute(
        "INSERT INTO identity (identity_key, name, app, user_name)"
        f" SELECT hash(i, 5), 'proc' || i, 'app-' || i || '.service', 'root' FROM range({_APPS}) AS t(i)"
    )


def add_samples(
    connection: duckdb.DuckDBPyConnection, hosts: int, ticks: range, start: int, table: str, seed: int = 1
) -> None:
    """Adds the rows of some ticks to `host_sample` or `process_sample`; the first tick is at `start`, milliseconds."""
    figures, processes = (_HOST, "") if table == "host_sample" else (_PROCESS, f", range({PROCESSES}) AS c(p)")
    values = ", ".join(figures.values()).replace("$seed", str(seed)).replace("$start", str(start))
    connection.execute(
        f"INSERT INTO {table} ({', '.join(figures)}) SELECT {values}"
        f" FROM range({ticks.start}, {ticks.stop}) AS a(k), range({hosts}) AS b(i){processes} ORDER BY k"
    )
