"""Rankings as tables of a page: the columns of the command line, so that both say the same, and where each leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loiter_aggregator import links
from loiter_aggregator.output.rows import Row
from loiter_aggregator.output.tables import APPS, GROUPS, HOST_PROCESSES, HOSTS, PROCESSES, Column
from loiter_aggregator.web.address import Span
from loiter_aggregator.web.views.tags import row_id

# What a page has room for besides what the command line shows in 80 columns.
_ROOM_FOR: Final = frozenset({"STUCK", "FD-ETA", "LABELS"})
# Whose TIME_WAIT sockets were is seldom known, and ports are of hosts.
_ROOM_FOR_OF_HOSTS: Final = _ROOM_FOR | {"TW-MEAN", "PORTS%"}
# What explains a measure, and is shown in a ranking by it.
_BESIDE: Final[Mapping[str, Sequence[str]]] = {
    "time-wait": ("TIME_WAIT", "TW-MAX"),
    "time-wait-max": ("TIME_WAIT", "TW-MEAN"),
    "stuck": ("AGE-P50", "AGE-P99"),
    "fd-eta": ("ETA-MIN", "ETA-MAX", "FDS", "LIMIT"),
    "ports": ("TIME_WAIT",),
}
_NOT_SHOWN: Final = frozenset({"TW-MAX"})
# The measure that each heading ranks by.
SORTS: Final[Mapping[str, str]] = {
    "CLOSE_WAIT": "close-wait",
    "GROWTH/h": "close-wait-growth",
    "STUCK": "stuck",
    "TW-MEAN": "time-wait",
    "TW-MAX": "time-wait-max",
    "FD%": "fd-share",
    "FD-ETA": "fd-eta",
    "PORTS%": "ports",
}
# What a ranking is by, for people; an address has the names of the command line.
MEASURE_WORDS: Final[Mapping[str, str]] = {
    "close-wait-growth": "CLOSE_WAIT growth",
    "close-wait": "CLOSE_WAIT now",
    "time-wait": "TIME_WAIT, mean",
    "time-wait-max": "TIME_WAIT, maximum",
    "fd-share": "descriptors in use",
    "stuck": "stuck sockets",
    "fd-eta": "time until descriptors run out",
    "ports": "ephemeral ports in use",
}
# Those of the default alert rules: from here on somebody has to act.
_SOON_SECONDS: Final = 4 * 3_600
_NEARLY_FULL: Final = 0.8


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: how it is to be drawn, its text or value, where it leads, and whether it is what the row is about.

    A cell is `urgent` where what it says has to be seen to before long.
    """

    kind: str
    text: str
    value: Any = None
    href: str = ""
    main: bool = False
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A row: its name in the page, its cells, and whether its figures are old."""

    id: str
    cells: tuple[Cell, ...]
    silent: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A ranking: `by` is the measure that it is by."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    by: str


def ranking_table(
    what: str, rows: Sequence[Row], by: str, span: Span, *, wide: bool = False, here: str = "", less: Sequence[str] = ()
) -> Table:
    """Lays out a ranking of `hosts`, `processes`, `apps` or `groups`, or of the processes of one host: `of-host`.

    `here` is the label whose values the groups are, `less` the columns that there is no room for.
    """
    columns = tuple(
        column for column in _COLUMNS[what] if wide or (_is_shown(column, what, by) and column.title not in less)
    )
    lines = tuple(
        Line(_id_of(what, row), tuple(_cell(column, row, span, here) for column in columns), _is_old(row))
        for row in rows
    )
    return Table(columns, lines, by)


_COLUMNS: Final[Mapping[str, Sequence[Column]]] = {
    "hosts": HOSTS,
    "processes": PROCESSES,
    "of-host": HOST_PROCESSES,
    "apps": APPS,
    "groups": GROUPS,
}


def _is_shown(column: Column, what: str, by: str) -> bool:
    if SORTS.get(column.title) == by or column.title in _BESIDE.get(by, ()):
        return True
    of_hosts = what in ("hosts", "groups")
    if column.title in _NOT_SHOWN or (column.title == "TW-MEAN" and not of_hosts):
        return False
    return not column.wide_only or column.title in (_ROOM_FOR_OF_HOSTS if of_hosts else _ROOM_FOR)


def measure_words(name: str) -> str:
    """What a ranking is by, in words."""
    return MEASURE_WORDS.get(name, name)


def _is_old(row: Row) -> bool:
    return bool(row.get("silent"))


def _id_of(what: str, row: Row) -> str:
    names = ("host_id", "pid", "start_time", "app") if "pid" in row else ("host_id", "app", "group")
    return row_id(what, *(row.get(name) for name in names))


def _cell(column: Column, row: Row, span: Span, here: str) -> Cell:
    found = row[column.key]
    text = column.write(found)
    match column.title:
        case "HOST":
            return Cell("name", text, href=links.host_page(row["host"], **span.parameters), main="pid" not in row)
        case "PID":
            return Cell("name", text, href=links.process_page(row["host"], row["pid"], **span.parameters), main=True)
        case "APP":
            return Cell(
                "name", text, href=links.app_page(found, **span.parameters) if found else "", main="pid" not in row
            )
        case "GROUP":
            of = {"label": f"{here}={found}"} if found is not None else {}
            return Cell("name", text, href=links.top_page("hosts", **of, **span.parameters) if of else "", main=True)
        case "TREND":
            return Cell("trend", "", found)
        case "CAUSE":
            return Cell("cause", text, found)
        case "LABELS":
            return Cell("labels", text)
        case "FD%" | "PORTS%":
            return Cell("share", text, found, urgent=found is not None and found >= _NEARLY_FULL)
        case "FD-ETA":
            return Cell("figure", text, urgent=found is not None and found < _SOON_SECONDS)
        case _:
            return Cell("figure" if column.right else "text", text)
