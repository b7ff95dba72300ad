"""Tables for people: which columns each ranking shows, in 80 columns and wide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import Row, value

_TABLE_COLUMNS: Final = 80
_WIDE_COLUMNS: Final = 300


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, the key of its value, how that is written, and on which side it stands.

    A column on the left may be cut where there is no room, but to no less than its minimum, unless it is `fixed`; one
    that is `whole` goes on in the next line instead.
    """

    title: str
    key: str
    write: Callable[[Any], str]
    right: bool = True
    min_width: int | None = None
    wide_only: bool = False
    fixed: bool = False
    whole: bool = False


def _bars(width: int) -> Callable[[Any], str]:
    return lambda values: cells.sparkline(values, width)


def _age(percentile: str) -> Callable[[Any], str]:
    return lambda ages: cells.duration(ages and ages[percentile])


_RANK: Final = Column("#", "rank", cells.count)
_HOST: Final = Column("HOST", "host", cells.text, right=False, min_width=8)
_CLOSE_WAIT: Final = (
    Column("CLOSE_WAIT", "close_wait", cells.count),
    Column("GROWTH/h", "close_wait_growth_per_hour", cells.growth),
    Column("r²", "close_wait_growth_fit", cells.fit),
    Column("TREND", "close_wait_trend", _bars(5), right=False, fixed=True),
    Column("MAX", "close_wait_max", cells.count, wide_only=True),
)
_FD_SHARE: Final = Column("FD%", "fd_share", cells.percent)
_ESTABLISHED: Final = Column("ESTAB", "established", cells.count, wide_only=True)
_TIME_WAIT: Final = (
    Column("TIME_WAIT", "time_wait", cells.count, wide_only=True),
    Column("TW-MEAN", "time_wait_mean", cells.count),
    Column("TW-MAX", "time_wait_max", cells.count),
)

_CAUSE: Final = Column("CAUSE", "cause", cells.text, right=False, fixed=True)
_STUCK: Final = Column("STUCK", "stuck", cells.count, wide_only=True)
_FORECAST: Final = (
    Column("FD-ETA", "fd_eta_seconds", cells.duration, wide_only=True),
    Column("ETA-MIN", "fd_eta_earliest_seconds", cells.duration, wide_only=True),
    Column("ETA-MAX", "fd_eta_latest_seconds", cells.duration, wide_only=True),
    Column("FDS+/h", "fd_growth_per_hour", cells.growth, wide_only=True),
)
_PORTS: Final = Column("PORTS%", "ports_share", cells.percent, wide_only=True)

HOSTS: Final = (
    _RANK,
    _HOST,
    *_CLOSE_WAIT,
    _CAUSE,
    _STUCK,
    *_TIME_WAIT,
    _ESTABLISHED,
    Column("FDS", "fd_allocated", cells.count, wide_only=True),
    Column("LIMIT", "fd_limit", cells.count, wide_only=True),
    _FD_SHARE,
    *_FORECAST,
    _PORTS,
    Column("LAST REPORT", "last_report", cells.text, right=False, wide_only=True),
    Column("LABELS", "labels", cells.labels, right=False, wide_only=True),
)
PROCESSES: Final = (
    _RANK,
    _HOST,
    Column("PID", "pid", str),
    # The app says more than the name, which for a script is that of its interpreter.
    Column("APP", "app", cells.text, right=False, min_width=8),
    Column("NAME", "name", cells.text, right=False, wide_only=True),
    Column("USER", "user", cells.text, right=False, wide_only=True),
    *_CLOSE_WAIT,
    _CAUSE,
    _STUCK,
    Column("AGE-P50", "close_wait_age_seconds", _age("p50"), wide_only=True),
    Column("AGE-P99", "close_wait_age_seconds", _age("p99"), wide_only=True),
    *(Column(one.title, one.key, one.write, wide_only=True) for one in _TIME_WAIT),
    _ESTABLISHED,
    Column("FDS", "fd_open", cells.count, wide_only=True),
    Column("LIMIT", "fd_limit", cells.limit, wide_only=True),
    Column("HARD", "fd_limit_hard", cells.limit, wide_only=True),
    _FD_SHARE,
    *_FORECAST,
    _PORTS,
    Column("STARTED", "start_time", cells.text, right=False, wide_only=True),
)
# Beneath a host, whose name is in the heading.
HOST_PROCESSES: Final = tuple(column for column in PROCESSES if column is not _HOST)
APPS: Final = (
    _RANK,
    Column("APP", "app", cells.text, right=False, min_width=8),
    Column("HOSTS", "hosts", cells.count),
    Column("PROCS", "processes", cells.count),
    *_CLOSE_WAIT,
    _CAUSE,
    _STUCK,
    *(Column(one.title, one.key, one.write, wide_only=True) for one in _TIME_WAIT),
    _ESTABLISHED,
    _FD_SHARE,
    *_FORECAST,
    _PORTS,
)
GROUPS: Final = (
    _RANK,
    Column("GROUP", "group", cells.text, right=False, min_width=8),
    Column("HOSTS", "hosts", cells.count),
    Column("SILENT", "silent_hosts", cells.count),
    *_CLOSE_WAIT,
    _CAUSE,
    _STUCK,
    *(Column(one.title, one.key, one.write, wide_only=True) for one in _TIME_WAIT),
    _ESTABLISHED,
    _FD_SHARE,
    *_FORECAST,
    _PORTS,
)


# What stands in the place of growth and descriptors in a narrow table that is by another measure.
_SHOWN_BY: Final[Mapping[str, Sequence[str]]] = {
    "time-wait": ("TIME_WAIT", "TW-MEAN", "TW-MAX"),
    "time-wait-max": ("TIME_WAIT", "TW-MEAN", "TW-MAX"),
    "stuck": ("STUCK", "AGE-P50", "AGE-P99"),
    "fd-eta": ("FDS", "FD%", "FD-ETA"),
    "ports": ("PORTS%", "TIME_WAIT"),
}
_ALWAYS: Final = ("#", "HOST", "PID", "APP", "GROUP", "HOSTS", "SILENT", "PROCS", "CLOSE_WAIT", "CAUSE")


def by_measure(columns: Sequence[Column], by: str) -> tuple[Column, ...]:
    """The columns of a ranking by a measure: its figures take the place of the growth of CLOSE_WAIT."""
    if by not in _SHOWN_BY:
        return tuple(columns)
    narrow = (*_ALWAYS, *_SHOWN_BY[by])
    return tuple(replace(column, wide_only=column.title not in narrow) for column in columns)


def console(wide: bool, live: bool = False) -> Console:
    """What tables are written to: as wide as the terminal, but never less than they need.

    A line that a terminal has no room for goes on in the next; only a `live` screen is held to its width.
    """
    out = Console(highlight=False)
    if live and out.is_terminal:
        return out
    return Console(highlight=False, width=max(out.width, _WIDE_COLUMNS if wide else _TABLE_COLUMNS))


def table(columns: Sequence[Column], rows: Sequence[Row], wide: bool) -> Table:
    """Lays out rows."""
    shown = [column for column in columns if wide or not column.wide_only]
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    written = [[column.write(row[column.key]) for column in shown] for row in rows]
    for position, column in enumerate(shown):
        longest = max((len(cells_of_row[position]) for cells_of_row in written), default=0)
        whole = column.right or column.fixed
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            # Where there is no room for all, texts are made narrower and cut. Numbers never are.
            no_wrap=whole,
            min_width=max(longest, len(column.title)) if whole else column.min_width,
        )
    for row, cells_of_row in zip(rows, written, strict=True):
        style = "dim" if row.get("silent") else ""
        grid.add_row(*(_cell(text, style, one.whole) for text, one in zip(cells_of_row, shown, strict=True)))
    return grid


def _cell(text: str, style: str, whole: bool) -> Text:
    # Text, not str: rich would take square brackets in a name for markup.
    return Text(text, style=style, no_wrap=not whole, overflow="fold" if whole else "ellipsis")


def coverage_line(coverage: pb.FleetCoverage) -> str:
    """Says in a sentence what an answer rests on."""
    owned: int | None = None
    if coverage.HasField("sockets_attributed"):  # hosts that do not know what is left over are named below
        owned = coverage.sockets_attributed + coverage.sockets_unattributed
    parts = [
        f"{coverage.hosts_reporting:,} of {coverage.hosts:,} hosts reporting",
        f"{cells.count(value(coverage, 'sockets_attributed'))} of {cells.count(owned)} sockets charged",
    ]
    # Named only where there are any.
    gaps = (
        (coverage.close_wait_uncharged, "CLOSE_WAIT charged to nobody"),
        (coverage.processes_unreadable, "processes unreadable"),
        (coverage.namespaces_unread, "namespaces unread"),
        (coverage.namespaces_by_procfs, "namespaces read by procfs"),
        (coverage.hosts_unknown, "hosts with gaps unknown"),
        (coverage.hosts_losing, "hosts that lost samples"),
        (coverage.hosts_skewed, "hosts with a wrong clock"),
        (coverage.hosts_degraded, "hosts over their budget"),
    )
    return "; ".join(parts + [f"{what}: {number:,}" for number, what in gaps if number])
