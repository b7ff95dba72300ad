"""Lays an answer out in lines of a width, the way `loiter top` prints it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from loiter_aggregator.live.pages import Content
from loiter_aggregator.live.viewport import Extent
from loiter_aggregator.output.rows import Row
from loiter_aggregator.output.tables import Column, table

Line = Sequence[Segment]

# What every table has room enough in.
_TABLE_COLUMNS: Final = 80
# Of the wide form: when it breaks and how many stay are worth more than whose it is.
_WORTH_MOST: Final = ("FD-ETA", "STUCK", "PORTS%")
# When it breaks is worth more than how it came about.
_GIVES_WAY: Final = "TREND"
# What says nothing without another.
_GROWTH, _FIT = "GROWTH/h", "r²"


@dataclass(frozen=True, slots=True)
class Sheet:
    """An answer in lines: those at its `head` stay in sight, those of its `body` scroll."""

    head: Sequence[Line] = ()
    body: Sequence[Line] = ()
    extent: Extent = Extent()


def lay_out(content: Content, width: int, wide: bool) -> Sheet:
    """Lays out an answer. A table that needs more than `width` is made as wide as it has to be.

    Columns of the wide form are shown where there is room for them, and all of them with `wide`.
    """
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="standard", highlight=False, markup=False
    )
    above, below = _texts(console, content.above, width), _texts(console, content.below, width)
    rows: list[Line] = []
    if content.rows:
        columns = content.columns if wide else fitting(content.columns, content.rows, width)
        shown = [column for column in columns if wide or not column.wide_only]
        least = sum((_width if wide else _least)(column, content.rows) for column in shown)
        rows = _lines(console, table(shown, content.rows, wide), max(width, least))
    titles, rows = rows[:1], rows[1:]
    head, body = ([*above, *titles], rows) if content.pinned else ([], [*above, *titles, *rows])
    first = len(body) - len(rows)
    body = [*body, *below]
    widest = max((sum(segment.cell_length for segment in line) for line in (*head, *body)), default=0)
    return Sheet(head, body, Extent(len(body), first, content.keys, widest))


def fitting(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[Column]:
    """The columns with those of the wide form that there is room for: what is worth most first, then from the left.

    Where there is none for FD-ETA, TREND gives way to it.
    """
    columns = _with_eta(columns, rows, width)
    room = width - sum(_width(column, rows) for column in columns if not column.wide_only)
    offered = [column for column in columns if column.wide_only]
    offered.sort(
        key=lambda column: _WORTH_MOST.index(column.title) if column.title in _WORTH_MOST else len(_WORTH_MOST)
    )
    shown = {column.title for column in columns if not column.wide_only}
    for column in offered:
        if column.title == _FIT and _GROWTH not in shown:
            continue
        if (needed := _width(column, rows)) <= room:
            room -= needed
            shown.add(column.title)
    return [replace(column, wide_only=False) if column.title in shown else column for column in columns]


def _with_eta(columns: Sequence[Column], rows: Sequence[Row], width: int) -> Sequence[Column]:
    """The columns with FD-ETA in the place of TREND, where there is room for one alone."""
    narrow = [column for column in columns if not column.wide_only]
    eta = next((column for column in columns if column.title == _WORTH_MOST[0] and column.wide_only), None)
    trend = next((column for column in narrow if column.title == _GIVES_WAY), None)
    if eta is None or trend is None:
        return columns
    with_trend = sum(_width(column, rows) for column in narrow)
    without = sum(_least(column, rows) for column in narrow) - _width(trend, rows)
    if with_trend + _width(eta, rows) <= width or without + _width(eta, rows) > width:
        return columns
    turned = {eta.title: False, trend.title: True}
    return [replace(column, wide_only=turned.get(column.title, column.wide_only)) for column in columns]


def two_sides(left: str, right: str, width: int) -> Text:
    """A line with a text at either end. Where there is no room for both, the left one is cut."""
    right = right[:width]
    room = width - cell_len(right) - 1
    if room <= 0:
        return Text(right, no_wrap=True)
    if cell_len(left) > room:
        left = set_cell_size(left, room - 1) + "…"
    return Text.assemble((set_cell_size(left, room), "bold"), " ", right, no_wrap=True)


def _width(column: Column, rows: Sequence[Row]) -> int:
    """What a column takes with the gap after it."""
    return 1 + max(cell_len(column.title), *(cell_len(column.write(row[column.key])) for row in rows))


def _least(column: Column, rows: Sequence[Row]) -> int:
    """What is left to a column where there is no room, with the gap after it: texts are cut, figures never."""
    if column.right or column.fixed:
        return _width(column, rows)
    return 1 + min(_width(column, rows), max(cell_len(column.title), column.min_width or 1))


def _texts(console: Console, parts: Sequence[RenderableType], width: int) -> list[Line]:
    """What stands around the rows: texts, broken where the screen ends, and tables, which may go on to the right."""
    lines: list[Line] = []
    for part in parts:
        needed = max(width, _TABLE_COLUMNS) if isinstance(part, Table) else width
        lines += _lines(console, part, needed)
    return lines


def _lines(console: Console, part: RenderableType, width: int) -> list[Line]:
    options = console.options.update(width=width, max_width=width, height=None)
    return list(console.render_lines(part, options, pad=False))
