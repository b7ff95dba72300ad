"""Text from other people's processes, made safe to show."""

from __future__ import annotations

import unicodedata
from typing import Final

# No script puts more marks on a letter than a few; hundreds smear over the lines around.
_MARKS_ON_A_LETTER: Final = 4


def printable(text: str) -> str:
    r"""Returns `text` with every character that a terminal would act on written as an escape, such as `\x1b`.

    Covers the C0 and C1 controls, line and paragraph separators, bidirectional overrides and lone surrogates: all
    that str.isprintable() refuses. So are combining marks, from the fifth on one letter.
    """
    if text.isprintable() and (text.isascii() or _longest_run_of_marks(text) <= _MARKS_ON_A_LETTER):
        return text
    shown = []
    marks = 0
    for char in text:
        marks = marks + 1 if _is_mark(char) else 0
        safe = char.isprintable() and marks <= _MARKS_ON_A_LETTER
        shown.append(char if safe else char.encode("unicode_escape").decode("ascii"))
    return "".join(shown)


def _longest_run_of_marks(text: str) -> int:
    longest = run = 0
    for char in text:
        run = run + 1 if _is_mark(char) else 0
        longest = max(longest, run)
    return longest


def _is_mark(char: str) -> bool:
    # Those that take no place of their own.
    return unicodedata.category(char) in ("Mn", "Me")
