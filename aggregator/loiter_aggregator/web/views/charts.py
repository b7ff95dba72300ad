"""Histories as charts: the points that a script draws, and the same as a table for those who do not see them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import from_duration, from_timestamp
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import value
from loiter_aggregator.web.address import moment

# A table of more rows is not read.
_TABLE_ROWS: Final = 24

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """What one figure of a history is called, and how it is written."""

    name: str
    title: str
    unit: str = "count"

    def write(self, one: float | None) -> str:
        """Writes a value."""
        if self.unit == "share" and one is not None:
            return f"{cells.percent(one)} %"
        return cells.count(one)


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure over a window. `data` is what the script takes."""

    figure: Figure
    data: str
    now: float | None

    @property
    def shown(self) -> str:
        """The latest value."""
        return self.figure.write(self.now)


@dataclass(frozen=True, slots=True)
class Charts:
    """Several figures over one window: `rows` of the table are a time and a value of each."""

    charts: tuple[Chart, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def times_of(history: pb.GetHistoryResponse) -> list[int]:
    """When each part of a history begins, in milliseconds since the epoch."""
    start, step = from_timestamp(history.start_time), from_duration(history.step)
    parts = max((len(series.values) for series in history.series), default=0)
    return [start + part * step for part in range(parts)]


def values_of(history: pb.GetHistoryResponse, name: str) -> list[float | None]:
    """The values of a figure; nothing where the history does not have it."""
    series = next((one for one in history.series if one.name == name), None)
    return [] if series is None else [value(one, "value") for one in series.values]


def charts_of(history: pb.GetHistoryResponse, figures: Sequence[Figure]) -> Charts:
    """Draws those figures of a history of which anything is known."""
    times = times_of(history)
    found = {figure: values_of(history, figure.name) for figure in figures}
    known = {figure: values for figure, values in found.items() if any(one is not None for one in values)}
    charts = tuple(
        Chart(figure, data_of(times, {figure.title: values}, figure.unit), last_known(values))
        for figure, values in known.items()
    )
    return Charts(charts, _rows(times, known))


def data_of(
    times: Sequence[int], lines: Mapping[str, Values], unit: str, styles: Sequence[str] = (), band: Sequence[int] = ()
) -> str:
    """What the script draws: seconds since the epoch, lines with their styles, and a band between two of them."""
    return json.dumps(
        {
            "unit": unit,
            "times": [time / 1_000 for time in times],
            "lines": [
                {"label": label, "values": list(values), "style": style}
                for (label, values), style in zip(lines.items(), styles or ["line"] * len(lines), strict=True)
            ],
            "band": list(band),
        },
        separators=(",", ":"),
    )


def last_known(values: Values) -> float | None:
    """The latest value that there is. The last part of a window has only begun, and may have none yet."""
    return next((one for one in reversed(values[-3:]) if one is not None), None)


def _rows(times: Sequence[int], known: Mapping[Figure, Values]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The most of each figure in as many parts as a table has room for, latest first."""
    each = max(1, -(-len(times) // _TABLE_ROWS))
    rows = []
    for begin in range(0, len(times), each):
        most = (
            max((one for one in values[begin : begin + each] if one is not None), default=None)
            for values in known.values()
        )
        rows.append((moment(times[begin]), tuple(figure.write(one) for figure, one in zip(known, most, strict=True))))
    return tuple(reversed(rows))
