"""Which rows of which levels come to what the samples of a window do. Pure.

The middle of a window is of rollups, the coarsest that fit; its edges, and what is not rolled yet, are of finer ones,
down to the samples. As marks are of whole buckets, and all that was taken before a mark is in its level, no sample is
left out or counted twice. Where retention has taken the finer ones, an edge is moved out to the bounds of a bucket: it
says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from loiter_aggregator.store.levels import HOUR, LEVELS, Kind, Level


class Kept(NamedTuple):
    """What there is of a level, in milliseconds: what is not rolled yet is not there, and older rows may be gone."""

    rolled_until: int | None = None
    forgotten_until: int | None = None


class Range(NamedTuple):
    """Rows of a level: from `since` to before `until`, in milliseconds, by the time of a sample or a bucket's start."""

    level: Level
    since: int
    until: int

    def table(self, kind: Kind) -> str:
        """The table that has them."""
        return self.level.table(kind)

    @property
    def where(self) -> str:
        """A condition on the rows of the table."""
        return f"{self.level.time} >= {self.since} AND {self.level.time} < {self.until}"


@dataclass(frozen=True, slots=True)
class Ranges:
    """What to read, oldest first; together it is of all that was taken from `since` to before `until`."""

    parts: tuple[Range, ...]
    since: int
    until: int
    exact: bool


def ranges(since: int, until: int, kept: Mapping[Level, Kept], coarsest: Level = HOUR) -> Ranges:
    """What to read for the samples from one time up to and including another, in milliseconds.

    Nothing coarser than `coarsest` is read, unless there is nothing else.
    """
    end = until + 1
    left = _finest(since, since, kept)
    first = left.floor(since) if _reaches(left, left.floor(since), kept) else left.ceil(kept[left].forgotten_until or 0)
    most = max(coarsest, left, key=LEVELS.index)
    # What is finer begins where the last bucket of the coarsest ends.
    right = _finest(end, max(first, most.floor(end)), kept)
    last = max(first, right.ceil(end))
    parts = tuple(_cover(first, last, max(LEVELS.index(most), LEVELS.index(right)), kept))
    return Ranges(parts, first, last, exact=(first, last) == (since, end))


def _cover(start: int, end: int, index: int, kept: Mapping[Level, Kept]) -> list[Range]:
    if start >= end:
        return []
    level = LEVELS[index]
    if not index:
        return [Range(level, start, end)]
    first, last = level.ceil(start), level.floor(min(end, kept[level].rolled_until or 0))
    if first >= last:
        return _cover(start, end, index - 1, kept)
    return [
        *_cover(start, first, index - 1, kept),
        Range(level, first, last),
        *_cover(last, end, index - 1, kept),
    ]


def _finest(time: int, back_to: int, kept: Mapping[Level, Kept]) -> Level:
    """The finest level that has the bucket of a time and all back to another; the coarsest where none has."""
    return next((one for one in LEVELS if _reaches(one, min(one.floor(time), back_to), kept)), LEVELS[-1])


def _reaches(level: Level, time: int, kept: Mapping[Level, Kept]) -> bool:
    return (kept[level].forgotten_until or 0) <= time
