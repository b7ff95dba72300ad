"""The charts of a report, by matplotlib: SVG for pages, PNG for e-mails.

Imports matplotlib, which takes a second and tens of megabytes: only what draws imports this. matplotlib keeps a cache
of the fonts that it finds in the folder that MPLCONFIGDIR names.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.reports.rendering import view

# Where it has no home to keep its cache in, it says so at each start.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

_WIDTH_INCHES: Final = 5.0
_HEIGHT_INCHES: Final = 2.2
_BAR_INCHES: Final = 0.34
_PNG_DPI: Final = 160


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours: of texts, of the grid, and of what is drawn."""

    ink: str
    grid: str
    first: str
    second: str
    third: str


# On white paper.
LIGHT: Final = Palette(ink="#475569", grid="#e2e8f0", first="#d9480f", second="#7c2d12", third="#1864ab")
# In a page the style sheet says which: each stands for a variable of it.
_NAMED: Final = Palette(ink="#010101", grid="#020202", first="#030303", second="#040404", third="#050505")
_VARIABLES: Final[Mapping[str, str]] = {
    _NAMED.ink: "var(--muted)",
    _NAMED.grid: "var(--line)",
    _NAMED.first: "var(--first)",
    _NAMED.second: "var(--second)",
    _NAMED.third: "var(--third)",
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: its name, its heading, what it shows in words, and how it is drawn."""

    name: str
    heading: str
    alt: str
    draw: Callable[[Axes, Palette], None]
    height: float = _HEIGHT_INCHES


def charts(report: pb.FleetReport) -> list[Chart]:
    """The charts that there are figures for."""
    found = []
    close_wait, stuck = view.series(report, "close_wait"), view.series(report, "stuck")
    if close_wait:
        found.append(
            Chart(
                "close-wait",
                "CLOSE_WAIT sockets" + (", and those that are stuck" if stuck else ""),
                _in_words("CLOSE_WAIT sockets of the fleet", close_wait),
                lambda axes, colours: _lines(
                    axes, report, colours, [(close_wait, colours.first, "all"), (stuck, colours.second, "stuck")]
                ),
            )
        )
    time_wait = view.series(report, "time_wait")
    if time_wait:
        found.append(
            Chart(
                "time-wait",
                "TIME_WAIT sockets",
                _in_words("TIME_WAIT sockets of the fleet", time_wait),
                lambda axes, colours: _lines(axes, report, colours, [(time_wait, colours.third, "")]),
            )
        )
    causes = view.causes(report)
    if causes:
        found.append(
            Chart(
                "causes",
                "Why CLOSE_WAIT sockets stay",
                ", ".join(f"{cause}: {sockets:,}" for cause, sockets, _ in causes),
                lambda axes, colours: _bars(axes, colours, [(cause, sockets) for cause, sockets, _ in causes]),
                _BAR_INCHES * max(2, len(causes)),
            )
        )
    return found


def as_svg(chart: Chart) -> str:
    """The chart as an SVG element whose colours are the page's."""
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"loiter-{chart.name}"}):
        figure = _figure(chart, _NAMED)
        FigureCanvasSVG(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _for_page(out.getvalue(), chart)


def as_png(chart: Chart) -> bytes:
    """The chart as a picture, on white."""
    out = io.BytesIO()
    figure = _figure(chart, LIGHT)
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=_PNG_DPI, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _figure(chart: Chart, colours: Palette) -> Figure:
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(_WIDTH_INCHES, chart.height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        chart.draw(axes, colours)
        axes.tick_params(colors=colours.ink, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def _lines(
    axes: Axes, report: pb.FleetReport, colours: Palette, lines: Sequence[tuple[list[float | None], str, str]]
) -> None:
    """Figures over the period; a gap where nothing is known."""
    start, step = report.history.start_time.ToMilliseconds(), report.history.step.ToMilliseconds()
    drawn = [line for line in lines if line[0]]
    for values, colour, label in drawn:
        times = [datetime.fromtimestamp((start + step * (at + 0.5)) / 1_000, UTC) for at in range(len(values))]
        heights = [float("nan") if one is None else one for one in values]
        # matplotlib's stubs take numbers alone for what it takes dates for, too.
        axes.plot(times, heights, color=colour, linewidth=1.6, label=label, solid_capstyle="round")  # type: ignore[arg-type]
        axes.fill_between(times, heights, color=colour, alpha=0.12, linewidth=0)  # type: ignore[arg-type]
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.grid(axis="y", color=colours.grid, linewidth=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=2))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    locator = AutoDateLocator(tz=UTC, maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC, show_offset=False)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    if len(drawn) > 1:
        axes.legend(loc="upper left", frameon=False, ncols=2, labelcolor=colours.ink, borderaxespad=0)


def _bars(axes: Axes, colours: Palette, counts: Sequence[tuple[str, int]]) -> None:
    """Counts by name, the largest on top."""
    names = [name for name, _ in counts][::-1]
    widths = [count for _, count in counts][::-1]
    bars = axes.barh(names, widths, color=colours.first, height=0.6)
    axes.bar_label(bars, labels=[f"{count:,}" for count in widths], padding=4, color=colours.ink)
    axes.set_xlim(right=max(widths) * 1.15)
    axes.xaxis.set_visible(False)


def _in_words(what: str, values: Sequence[float | None]) -> str:
    known = [one for one in values if one is not None]
    return f"{what}: {known[0]:,.0f} at first, {max(known):,.0f} at most, {known[-1]:,.0f} at last"


def _for_page(document: str, chart: Chart) -> str:
    """Takes the element out of a document, and has the page choose its colours. Names in it are its own."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r"<!--.*?-->", "", element, flags=re.DOTALL)
    element = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{chart.name}-", element)
    element = re.sub(r' (width|height)="[0-9.]+pt"', "", element, count=2)
    for colour, variable in _VARIABLES.items():
        element = element.replace(colour, variable)
    return element.replace("<svg ", f'<svg role="img" aria-label="{escape(chart.alt)}" ', 1)
