"""The levels of the store: samples as they came, and rollups of a minute, five minutes and an hour.

A rollup row is one series within one bucket: a host, or a process as it was called. All of its figures are additive:
several rows of one series and bucket come to the same as one row of all of them, which is what late samples become.
`rolled_until` of a level is a mark: every stored sample that was taken before it is in that level.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Kind = Literal["host", "process"]

KINDS: Final[tuple[Kind, ...]] = ("host", "process")
_MINUTE: Final = 60_000
_HOUR: Final = 60 * _MINUTE


class Level(NamedTuple):
    """A level. `width` of its buckets and `span` of a sealed file are in milliseconds; samples have no buckets."""

    name: str
    width: int
    span: int

    def table(self, kind: Kind) -> str:
        """The name of its table of hosts or of processes."""
        return f"{kind}_{self.name}"

    @property
    def time(self) -> str:
        """The column that says when: of a rollup, the start of its bucket."""
        return "bucket" if self.width else "ts"

    def floor(self, time: int) -> int:
        """The start of the bucket that a time is in."""
        return time - time % self.width if self.width else time

    def ceil(self, time: int) -> int:
        """The end of the last bucket that has something before a time."""
        return -self.floor(-time)

    def span_of(self, time: int) -> int:
        """The start of the span of a sealed file that a time is in."""
        return time - time % self.span


SAMPLE: Final = Level("sample", 0, _HOUR)
MINUTE: Final = Level("minute", _MINUTE, _HOUR)
FIVE_MINUTES: Final = Level("five_minutes", 5 * _MINUTE, 6 * _HOUR)
HOUR: Final = Level("hour", _HOUR, 24 * _HOUR)

# Finest first; each is rolled from the one before it. The width of each is a multiple of that.
ROLLUPS: Final = (MINUTE, FIVE_MINUTES, HOUR)
LEVELS: Final = (SAMPLE, *ROLLUPS)
SOURCE: Final = dict(zip(ROLLUPS, LEVELS, strict=False))
TABLES: Final = {level.table(kind): (level, kind) for level in LEVELS for kind in KINDS}
