"""What a rollup row holds, how it comes from samples, and how rows become one. Pure.

A line needs n, Σt, Σt², Σy, Σty and Σy², t being milliseconds since the start of the bucket: whole numbers, whose sums
are exact in a double as long as they are below 2^53. To move the origin back by d, Σt becomes Σt + n·d, Σt² becomes
Σt² + 2d·Σt + n·d², and Σty becomes Σty + d·Σy. Where no y is known, n and the sums are 0.

A name without more is the largest value in the bucket, `last_` before it that of the latest sample, unknown included;
where one host has two samples of one millisecond, that of one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from loiter_aggregator.store.levels import KINDS, LEVELS, ROLLUPS, Kind, Level
from loiter_aggregator.store.schema import HOST_SAMPLE, KNOWS_CAUSES, KNOWS_PROCESSES, PROCESS_SAMPLE, TCP_STATES

_T: Final = "CAST(ts - {bucket} AS DOUBLE)"
_STUCK: Final = f"CASE WHEN {KNOWS_CAUSES} OR close_wait = 0 THEN stuck END"


class Figure(NamedTuple):
    """A column of a rollup: its SQL type, its aggregate over samples, and over rollups.

    The first speaks of `t`, the second of `d`, by how much the buckets are later than the one that they go into.
    """

    sql_type: str
    of_samples: str
    of_rollups: str


def _largest(column: str, name: str, sql_type: str) -> Figure:
    return Figure(sql_type, f"max({column})", f"max({name})")


def _smallest(column: str, name: str, sql_type: str) -> Figure:
    return Figure(sql_type, f"min({column})", f"min({name})")


def _added(sql: str, name: str, sql_type: str = "DOUBLE") -> Figure:
    return Figure(sql_type, f"coalesce({sql}, 0)", f"sum({name})")


def _last(column: str, name: str, sql_type: str) -> Figure:
    return Figure(sql_type, f"arg_max_null({column}, ts)", f"arg_max_null({name}, last_ts)")


def _moments(prefix: str, known: str, n: str = "") -> dict[str, Figure]:
    """How many samples there are of which a condition holds, as `n` if it has a name, and the sums of their times."""
    n, st, stt = n or f"{prefix}n", f"{prefix}st", f"{prefix}stt"
    return {
        n: _added(f"count(CASE WHEN {known} THEN 1 END)", n, "UINTEGER"),
        st: Figure("DOUBLE", f"coalesce(sum(CASE WHEN {known} THEN t END), 0)", f"sum({st} + {n} * d)"),
        stt: Figure(
            "DOUBLE",
            f"coalesce(sum(CASE WHEN {known} THEN t * t END), 0)",
            f"sum({stt} + 2 * d * {st} + {n} * d * d)",
        ),
    }


def _product(prefix: str, y: str, known: str = "true") -> dict[str, Figure]:
    sy, sty = f"{prefix}sy", f"{prefix}sty"
    value = f"CASE WHEN {known} THEN CAST({y} AS DOUBLE) END"
    return {
        sy: _added(f"sum({value})", sy),
        sty: Figure("DOUBLE", f"coalesce(sum(t * {value}), 0)", f"sum({sty} + d * {sy})"),
    }


def _line(prefix: str, y: str) -> dict[str, Figure]:
    """All that a line through a count needs; its largest value has the name of the count."""
    syy = f"{prefix}syy"
    return {
        **_moments(prefix, f"{y} IS NOT NULL"),
        **_product(prefix, y),
        syy: _added(f"sum(CAST({y} AS DOUBLE) * {y})", syy),
        f"{prefix}y_min": _smallest(y, f"{prefix}y_min", "UINTEGER"),
        y: _largest(y, y, "UINTEGER"),
    }


def _time_wait() -> dict[str, Figure]:
    return {
        "time_wait_n": _added("count(time_wait)", "time_wait_n", "UINTEGER"),
        "time_wait_sum": _added("sum(CAST(time_wait AS DOUBLE))", "time_wait_sum"),
        "time_wait": _largest("time_wait", "time_wait", "UINTEGER"),
    }


def _times() -> dict[str, Figure]:
    return {
        "samples": _added("count(*)", "samples", "UINTEGER"),
        "first_ts": _smallest("ts", "first_ts", "BIGINT"),
        "last_ts": _largest("ts", "last_ts", "BIGINT"),
    }


def _lasts(types: dict[str, tuple[str, str]], names: Iterable[str]) -> dict[str, Figure]:
    return {f"last_{name}": _last(name, f"last_{name}", types[name][0]) for name in names}


_HOST: Final[dict[str, Figure]] = {
    **_times(),
    # The samples that have processes, and the latest of them; and whether a host had to leave out any that has
    # CLOSE_WAIT sockets, as rankings of processes ask for it.
    **_moments("seen_", KNOWS_PROCESSES),
    "seen_ts": Figure("BIGINT", f"max(CASE WHEN {KNOWS_PROCESSES} THEN ts END)", "max(seen_ts)"),
    "left_out": Figure(
        "UINTEGER", f"max(CASE WHEN {KNOWS_PROCESSES} THEN coalesce(other_close_wait, 1) END)", "max(left_out)"
    ),
    "skew_min": _smallest("skew", "skew_min", "BIGINT"),
    "skew_max": _largest("skew", "skew_max", "BIGINT"),
    **_line("", "close_wait"),
    **{state: _largest(state, state, "UINTEGER") for state in TCP_STATES if state not in ("close_wait", "time_wait")},
    **_time_wait(),
    "fd_allocated": _largest("fd_allocated", "fd_allocated", "UBIGINT"),
    "fd_limit": _largest("fd_limit", "fd_limit", "UBIGINT"),
    "ports_share": _largest("ports_share", "ports_share", "DOUBLE"),
    "stuck": _largest(_STUCK, "stuck", "UBIGINT"),
    "overflows_n": _added("count(time_wait_overflows)", "overflows_n", "UINTEGER"),
    "overflows_min": _smallest("time_wait_overflows", "overflows_min", "UBIGINT"),
    "overflows_max": _largest("time_wait_overflows", "overflows_max", "UBIGINT"),
    **_lasts(
        HOST_SAMPLE, ("close_wait", "time_wait", "established", "fd_allocated", "fd_limit", "cause", "ports_share")
    ),
    "last_stuck": _last(_STUCK, "last_stuck", "UBIGINT"),
}
_PROCESS: Final[dict[str, Figure]] = {
    **_times(),
    **_moments("all_", "true", "samples"),
    **_line("", "close_wait"),
    **_time_wait(),
    "established": _largest("established", "established", "UINTEGER"),
    "stuck": _largest("stuck", "stuck", "UINTEGER"),
    "ports_share": _largest("ports_share", "ports_share", "DOUBLE"),
    **_line("fd_", "fd_open"),
    "fd_limit_min": _smallest("fd_limit", "fd_limit_min", "UBIGINT"),
    "fd_limit": _largest("fd_limit", "fd_limit", "UBIGINT"),
    # CLOSE_WAIT where the open descriptors are known: its share of their growth.
    "fd_close_wait_n": _added(
        "count(CASE WHEN fd_open IS NOT NULL THEN close_wait END)", "fd_close_wait_n", "UINTEGER"
    ),
    **_product("fd_close_wait_", "close_wait", "fd_open IS NOT NULL"),
    **_lasts(
        PROCESS_SAMPLE,
        (
            *("close_wait", "time_wait", "established", "sockets", "fd_open", "fd_limit", "fd_limit_hard", "stuck"),
            *("cause", "age_p50_seconds", "age_p99_seconds", "age_max_seconds", "ports_share"),
        ),
    ),
}

FIGURES: Final[dict[Kind, dict[str, Figure]]] = {"host": _HOST, "process": _PROCESS}
# What names a series. A process that calls itself otherwise is another one: applications are told apart by that.
KEYS: Final[dict[Kind, dict[str, str]]] = {
    "host": {"host_key": "UBIGINT"},
    "process": {"host_key": "UBIGINT", "pid": "UINTEGER", "start_time": "BIGINT", "identity_key": "UBIGINT"},
}


def columns(kind: Kind) -> dict[str, str]:
    """The columns of a rollup and their SQL types."""
    return {"bucket": "BIGINT", **KEYS[kind], **{name: figure.sql_type for name, figure in FIGURES[kind].items()}}


def from_samples(kind: Kind, level: Level, source: str, where: str) -> str:
    """The relation of the rollup rows of samples: those of `source` of which a condition holds."""
    bucket = f"ts - ts % {level.width}"
    keys = ", ".join(KEYS[kind])
    figures = ", ".join(
        f"CAST({figure.of_samples} AS {figure.sql_type}) AS {name}" for name, figure in FIGURES[kind].items()
    )
    return (
        f"SELECT {bucket} AS bucket, {keys}, {figures} "
        f"FROM (SELECT *, {_T.format(bucket=f'({bucket})')} AS t FROM {source} WHERE {where}) AS samples "
        f"GROUP BY {bucket}, {keys}"
    )


def from_rollups(kind: Kind, level: Level, source: str, where: str) -> str:
    """The relation of the rollup rows of finer ones, or of several of the same level."""
    target = f"bucket - bucket % {level.width}"
    keys = ", ".join(KEYS[kind])
    figures = ", ".join(
        f"CAST({figure.of_rollups} AS {figure.sql_type}) AS {name}" for name, figure in FIGURES[kind].items()
    )
    return (
        f"SELECT target AS bucket, {keys}, {figures} FROM (SELECT *, {target} AS target, "
        f"CAST(bucket % {level.width} AS DOUBLE) AS d FROM {source} WHERE {where}) AS finer GROUP BY target, {keys}"
    )


def line_sums(prefix: str = "", y: str = "close_wait", origin: str = "$now") -> str:
    """The sums that a line needs, over rollup rows, with t in seconds since an origin in milliseconds.

    They have the names that the sums over samples have in rankings, with `prefix` before them.
    """
    n, st, stt, sy, sty, syy = (f"{prefix}{name}" for name in ("n", "st", "stt", "sy", "sty", "syy"))
    d = f"CAST(bucket - {origin} AS DOUBLE)"
    return f"""
        sum({n}) AS {n}, sum({st} + {n} * {d}) / 1e3 AS {st},
        sum({stt} + 2 * {d} * {st} + {n} * {d} * {d}) / 1e6 AS {stt},
        sum({sy}) AS {sy}, sum({sty} + {d} * {sy}) / 1e3 AS {sty}, sum({syy}) AS {syy},
        min({prefix}y_min) AS {prefix}y_min, max({y}) AS {prefix}y_max"""


CREATE: Final = (
    # `rolled_until` is the mark of a rollup; before `forgotten_until`, rows are gone by retention. NULL: not yet.
    "CREATE TABLE level (name VARCHAR, rolled_until BIGINT, forgotten_until BIGINT)",
    *(f"INSERT INTO level (name) VALUES ('{level.name}')" for level in LEVELS),
    *(
        f"CREATE TABLE {level.table(kind)} ({', '.join(f'{name} {sql}' for name, sql in columns(kind).items())})"
        for level in ROLLUPS
        for kind in KINDS
    ),
    # The sealed files: of which table and span, the times of their first and last rows, and which identities they
    # have, as to look them up in the files takes long.
    "CREATE TABLE sealed (file VARCHAR, table_name VARCHAR, span BIGINT, first_time BIGINT, last_time BIGINT, "
    "row_count BIGINT, byte_count BIGINT, sealed_at BIGINT, version INTEGER, identities UBIGINT[])",
)
