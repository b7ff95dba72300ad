"""Text from other people's processes, made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Returns `text` with every character that a terminal would act on written as an escape, such as `\x1b`.

    Covers the C0 and C1 controls, line and paragraph separators, bidirectional overrides and lone surrogates: all
    that str.isprintable() refuses.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
