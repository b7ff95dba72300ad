"""Which part of a page is in sight, and which row is chosen. Knows of lines and rows, not of terminals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

_HALF: Final = 2


@dataclass(frozen=True, slots=True)
class Extent:
    """How large a page is: its `lines` that scroll, the `first` of them that is a row, who each row is, its width."""

    lines: int = 0
    first: int = 0
    keys: Sequence[Hashable] = ()
    width: int = 0


class Viewport:
    """A window onto a page of a certain size.

    A row that was chosen stays chosen wherever it moves to. As long as none was, the first one is marked.
    """

    def __init__(self) -> None:
        """Begins at the top."""
        self.top = 0
        self.left = 0
        self.index = 0
        self._key: Hashable = None
        self._chosen = False
        self._extent = Extent()
        self._height = 1
        self._width = 1

    def show(self, extent: Extent, width: int, height: int) -> None:
        """Takes a new answer, or another size of the terminal. What was in sight stays, if it is there."""
        seen = self._in_sight()
        self._extent, self._width, self._height = extent, max(1, width), max(1, height)
        if self._chosen and self._key in extent.keys:
            self.index = list(extent.keys).index(self._key)
        self.index = max(0, min(self.index, len(extent.keys) - 1))
        self.left = max(0, min(self.left, extent.width - self._width))
        if seen and self._chosen:
            self._bring_in_sight()
        self._clamp()

    def move(self, lines: int) -> None:
        """Chooses a row further down, or up where `lines` is negative.

        Scrolls where there is none, or the one that is marked is not in sight yet.
        """
        line, last = self._line(), len(self._extent.keys) - 1
        beyond = last < 0 or (self.index == last if lines > 0 else self.index == 0)
        far = line >= self.top + self._height if lines > 0 else line < self.top
        if beyond or far:
            self.top += lines
            self._clamp()
            return
        self.index = max(0, min(last, self.index + lines))
        self._choose()
        self._bring_in_sight()
        self._clamp()

    def page(self, pages: int) -> None:
        """Moves by what fits the screen."""
        self.move(pages * max(1, self._height - 1))

    def home(self) -> None:
        """Back to the first line; the first row is marked, whoever that is."""
        self.top = self.left = self.index = 0
        self._chosen = False

    def end(self) -> None:
        """To the last line and row."""
        self.index = max(0, len(self._extent.keys) - 1)
        self.top = self._extent.lines
        self._choose()
        self._clamp()

    def sideways(self, way: int) -> None:
        """Shows what is to the right, or to the left where `way` is negative, by half a screen."""
        self.left += way * max(1, self._width // _HALF)
        self.left = max(0, min(self.left, self._extent.width - self._width))

    def marked(self) -> int | None:
        """The line that is marked, of those that scroll; None where there is no row."""
        return self._line() if self._extent.keys else None

    def below(self) -> int:
        """How many lines there are beneath those in sight."""
        return max(0, self._extent.lines - self.top - self._height)

    def _line(self) -> int:
        return self._extent.first + self.index

    def _in_sight(self) -> bool:
        return self.top <= self._line() < self.top + self._height

    def _choose(self) -> None:
        if self._extent.keys:
            self._key, self._chosen = self._extent.keys[self.index], True

    def _bring_in_sight(self) -> None:
        line = self._line()
        if line < self.top:
            self.top = line
        elif line >= self.top + self._height:
            self.top = line - self._height + 1

    def _clamp(self) -> None:
        self.top = max(0, min(self.top, self._extent.lines - self._height))
