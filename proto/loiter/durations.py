"""Durations as people type them: `500ms`, `10s`, `5m`, `1h`, `7d`."""

from __future__ import annotations

import re
from typing import Final

_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")


def parse_duration(text: str) -> float:
    """Returns the seconds that `text` stands for. Raises ValueError, fit for a person, where it is no duration."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write it as 500ms, 10s, 5m, 1h or 7d")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def format_duration(seconds: float) -> str:
    """Writes seconds in the largest unit that leaves two figures or more: `45s`, `12m`, `3h 20m`, `5d 2h`."""
    if round(seconds, 3) < 1:
        return f"{seconds * 1_000:.0f}ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    for size, unit, smaller, smaller_unit in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            head, tail = divmod(whole, size)
            rest = tail // smaller
            return f"{head}{unit} {rest}{smaller_unit}" if rest and head < 10 else f"{head}{unit}"
    raise AssertionError("unreachable: every duration of a minute or more has a unit")
