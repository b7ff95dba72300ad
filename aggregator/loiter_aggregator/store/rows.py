"""Makes the rows of a sample, and columns of rows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, Final

import numpy as np

from loiter.v1 import ingest_service_pb2, sample_pb2
from loiter_aggregator.store.figures import PROCESS_FIGURES, Processes, reader
from loiter_aggregator.store.schema import PROCESS_SAMPLE, TCP_STATES

Column = np.ndarray[Any, np.dtype[Any]]

_tcp_states: Final = reader("tcp_states", *TCP_STATES)
_host_fds: Final = reader("host_fds", "allocated", "limit")
_coverage: Final = reader(
    "coverage",
    "sockets_attributed",
    "sockets_unattributed",
    "sockets_ownerless",
    "close_wait_uncharged",
    "processes",
    "processes_unreadable",
    "processes_vanished",
    "namespaces",
    "namespaces_unread",
    "namespaces_by_procfs",
)
_other_processes: Final = reader("other_processes", "processes", "established", "close_wait", "sockets", "fd_open")
_cost: Final = reader(
    "cost",
    "cpu_seconds",
    "wall_seconds",
    "process_cpu_seconds",
    "resident_bytes",
    "late_ticks",
    "dropped_reports",
)
_time_wait_limits: Final = reader("time_wait_limits", "overflows", "max_buckets", "reuse")
_ages: Final = attrgetter("p50_seconds", "p99_seconds", "max_seconds")
# Integers, and what a float holds without loss.
_EXACT: Final = frozenset({"i8", "u8", "u4", "u1"})
_AS_FLOATS: Final = frozenset({"f8", "u4", "?"})
_NO_AGES: Final = (None, None, None)
_CLOSE_WAIT_OF_HOST: Final = TCP_STATES.index("close_wait")
_CAUSE: Final = PROCESS_FIGURES.index("cause")
_STUCK: Final = list(PROCESS_SAMPLE).index("stuck")


def process_rows(
    host_key: int, processes: Processes, ts: int, identify: Callable[[tuple[str, str, str]], int]
) -> list[tuple[Any, ...]]:
    """The rows of process_sample for processes; `identify` gives the key of their name, app and user.

    Field by field, as this is done most often of all: a count is asked for its presence where it is 0.
    """
    rows = []
    for message, figures, (seconds, nanos) in zip(*processes, strict=True):
        _, pid, name, app, user, _, cause, established, close_wait, time_wait, sockets, *others = figures
        fd_open, fd_limit, fd_limit_hard, stuck, ports_share = others
        has = message.HasField
        if not close_wait and not has("close_wait"):
            close_wait = None
        if not stuck and not has("stuck"):
            # One without CLOSE_WAIT sockets has none that are stuck, also where the agent does not say so.
            stuck = 0 if close_wait == 0 else None
        rows.append(
            (
                ts,
                host_key,
                pid,
                1_000 * seconds + nanos // 1_000_000,
                identify((name, app, user)),
                established or (0 if has("established") else None),
                close_wait,
                time_wait or (0 if has("time_wait") else None),
                sockets or (0 if has("sockets") else None),
                fd_open or (0 if has("fd_open") else None),
                fd_limit or (0 if has("fd_limit") else None),
                fd_limit_hard or (0 if has("fd_limit_hard") else None),
                stuck,
                cause or None,
                *(_ages(message.close_wait_age) if has("close_wait_age") else _NO_AGES),
                ports_share or (0.0 if has("ports_share") else None),
            )
        )
    return rows


def host_row(
    host_key: int,
    report: ingest_service_pb2.Report,
    ts: int,
    received: int,
    skew: int,
    processes: Processes,
    own: Sequence[tuple[Any, ...]],
) -> tuple[Any, ...]:
    """The row of host_sample for a sample whose rows of process_sample are `own`."""
    sample = report.sample
    tcp_states = _tcp_states(sample)
    stuck = _stuck(own)
    if stuck is None and tcp_states[_CLOSE_WAIT_OF_HOST] == 0:
        stuck = 0
    return (
        ts,
        received,
        skew,
        host_key,
        sample.sampler,
        *tcp_states,
        *_host_fds(sample),
        *_coverage(sample),
        sample.coverage.dump_torn,
        *_other_processes(sample),
        *_cost(sample),
        *_time_wait_limits(sample),
        _cause(processes),
        stuck,
        max((share for share in map(_ports_share, sample.ports) if share is not None), default=None),
        report.spool_epoch,
        report.sequence,
        sample.degradation,
    )


def _stuck(process_rows: Sequence[tuple[Any, ...]]) -> int | None:
    """The sum over the processes of which it is known; None where it is known of none."""
    found = [row[_STUCK] for row in process_rows if row[_STUCK] is not None]
    return sum(found) if found else None


def _cause(processes: Processes) -> sample_pb2.Cause.ValueType | None:
    """The cause of the process with the most CLOSE_WAIT sockets that stay, of those that have one."""
    explained = [message for message, row in zip(*processes[:2], strict=True) if row[_CAUSE]]
    worst = max(explained, key=lambda process: (process.evidence.settled, process.close_wait), default=None)
    return worst.cause if worst is not None else None


def _ports_share(budget: sample_pb2.PortBudget) -> float | None:
    return min(1.0, budget.used / budget.available) if budget.available else None


def columns_of(rows: list[tuple[Any, ...]], types: dict[str, tuple[str, str]]) -> dict[str, Column]:
    """Turns rows into columns of those types, in which None is masked."""
    columns = zip(types.items(), zip(*rows, strict=True), strict=True)
    return {name: _column(values, numpy_type) for (name, (_, numpy_type)), values in columns}


def _column(values: tuple[Any, ...], numpy_type: str) -> Column:
    if numpy_type in _EXACT:
        with suppress(TypeError):  # of None, which no integer is
            return np.fromiter(values, numpy_type, len(values))
    if numpy_type in _AS_FLOATS:
        floats = np.fromiter(values, "f8", len(values))  # None becomes NaN, which no figure is
        absent = np.isnan(floats)
        floats[absent] = 0
        return np.ma.masked_array(floats.astype(numpy_type, copy=False), mask=absent)
    filled = [0 if value is None else value for value in values]
    return np.ma.masked_array(np.array(filled, dtype=numpy_type), mask=[value is None for value in values])
