"""Markdown, as it is generated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A `|` in a cell is escaped: in a table, code does not protect it."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """A word of code."""
    return f"`{text}`"


def clause(text: str) -> str:
    """A sentence as it stands in a cell: without its full stop, and beginning in lower case unless by a name."""
    text = text.strip().removesuffix(".")
    first, rest = text[:1], text[1:]
    named = first.isupper() and (rest[:1].isupper() or "_" in text.split(" ", 1)[0])
    return text if named else first.lower() + rest
