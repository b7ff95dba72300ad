"""How long sockets have been in CLOSE_WAIT, as a histogram, or as the range that samples carry."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from loiter.v1 import sample_pb2
from loiter_aggregator.output import cells

# Bounds that people think in, in seconds. From a minute on, sockets are stuck.
_BOUNDS: Final = (10, 60, 300, 900, 3_600, 4 * 3_600, 86_400, math.inf)
RANGE_WIDTH: Final = 600
_RANGE_SECONDS: Final = (1.0, 7 * 86_400.0)
_TICKS: Final = (1, 10, 60, 600, 3_600, 6 * 3_600, 86_400, 7 * 86_400)


@dataclass(frozen=True, slots=True)
class Bin:
    """So many sockets are of an age; `share` is of the fullest bin, from 0 to 1."""

    label: str
    count: int
    share: float


def histogram(ages_seconds: Collection[float], younger: int = 0) -> tuple[Bin, ...]:
    """Counts ages, up to the oldest that there is.

    `younger` is how many there are besides, all younger than these: they are one bin, since no more is known of them.
    """
    youngest = min(ages_seconds, default=0.0) if younger else 0.0
    bounds = [0.0, *([youngest] if youngest > 0 else []), *(bound for bound in _BOUNDS if bound > youngest)]
    counts = [0] * (len(bounds) - 1)
    for age in ages_seconds:
        counts[bisect_right(bounds, max(0.0, age)) - 1] += 1
    counts[0] += younger
    last = max((i for i, count in enumerate(counts) if count), default=-1)
    return tuple(Bin(_label(bounds[i], bounds[i + 1]), counts[i], counts[i] / max(counts)) for i in range(last + 1))


def _label(low: float, high: float) -> str:
    if math.isinf(high):
        return f"{cells.duration(low)} and longer"
    return f"under {cells.duration(high)}" if not low else f"{cells.duration(low)} to {cells.duration(high)}"


@dataclass(frozen=True, slots=True)
class AgeRange:
    """Where the median, the 99th percentile and the oldest lie on a logarithmic axis of RANGE_WIDTH, with its ticks."""

    p50: float
    p99: float
    oldest: float
    ticks: tuple[tuple[float, str], ...]
    words: str


def age_range(ages: sample_pb2.SocketAges) -> AgeRange:
    """Places what a sample carries of the ages of a process's sockets."""
    return AgeRange(
        _place(ages.p50_seconds),
        _place(ages.p99_seconds),
        _place(ages.max_seconds),
        tuple((_place(tick), cells.duration(tick)) for tick in _TICKS),
        f"Half have been so for {cells.duration(ages.p50_seconds)} or longer, one in a hundred for "
        f"{cells.duration(ages.p99_seconds)} or longer, the oldest for {cells.duration(ages.max_seconds)}.",
    )


def _place(seconds: float) -> float:
    least, most = _RANGE_SECONDS
    return round(RANGE_WIDTH * math.log(min(max(seconds, least), most) / least) / math.log(most / least), 1)
