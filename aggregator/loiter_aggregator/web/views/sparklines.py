"""Small trends beside figures, as lines of an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loiter_aggregator.output import cells

WIDTH: Final = 84
HEIGHT: Final = 20
_EDGE: Final = 2


@dataclass(frozen=True, slots=True)
class Sparkline:
    """The points of each line, as the attribute of a polyline takes them, and what the picture says in words."""

    lines: tuple[str, ...]
    words: str


def sparkline(values: Sequence[float | None]) -> Sparkline:
    """Draws a trend from 0 to its maximum. A part of the window without samples is a gap."""
    known = [value for value in values if value is not None]
    if not known:
        return Sparkline((), "no samples")
    top = max(known) or 1.0
    step = (WIDTH - 2 * _EDGE) / max(1, len(values) - 1)
    lines: list[list[str]] = [[]]
    for position, value in enumerate(values):
        if value is None:
            lines.append([])
            continue
        height = _EDGE + (HEIGHT - 2 * _EDGE) * (1 - max(0.0, value) / top)
        lines[-1].append(f"{_EDGE + position * step:.1f},{height:.1f}")
    # A line of one point is not drawn: it is made as long as a step.
    drawn = [points if len(points) > 1 else [points[0], _beside(points[0], step)] for points in lines if points]
    words = f"from {cells.count(known[0])} to {cells.count(known[-1])}, at most {cells.count(max(known))}"
    return Sparkline(tuple(" ".join(points) for points in drawn), words)


def _beside(point: str, step: float) -> str:
    across, height = point.split(",")
    return f"{max(0.0, float(across) - step / 2):.1f},{height}"
