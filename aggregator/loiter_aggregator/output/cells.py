"""Writes single values for the cells of a table. Everything that came from a process is made safe to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from loiter.durations import format_duration
from loiter.text import printable

_BARS: Final = "▁▂▃▄▅▆▇█"
UNKNOWN: Final = "-"
_UNLIMITED: Final = 2**63
_YEAR_SECONDS: Final = 366 * 86_400.0


def text(value: object) -> str:
    """A text of anybody's making."""
    return UNKNOWN if value in (None, "") else printable(str(value))


def labels(pairs: Mapping[str, str]) -> str:
    """The labels of a host."""
    return ", ".join(f"{text(key)}={text(value)}" for key, value in sorted(pairs.items())) or UNKNOWN


def count(value: float | None) -> str:
    """A count, or a mean of counts, as a whole number with separators; from ten million on in millions or more."""
    return UNKNOWN if value is None else _short(value)


def limit(value: int | None) -> str:
    """A resource limit; RLIM_INFINITY of getrlimit(2) is none."""
    return "none" if value is not None and value >= _UNLIMITED else count(value)


def growth(value: float | None) -> str:
    """A slope, with its sign; tenths only where it is small."""
    if value is None:
        return UNKNOWN
    rounded = f"{value:+.1f}" if abs(value) < 10 else ("+" if value > 0 else "") + _short(value)
    return "0" if rounded in ("+0.0", "-0.0") else rounded


def _short(value: float) -> str:
    if abs(value) >= 1e16:
        return f"{value:.0e}"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= 10 * size:
            return f"{value / size:,.0f}{unit}"
    return f"{value:,.0f}"


def rate(value: float | None) -> str:
    """A number of events a second; tenths where there are few."""
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if value < 10 else _short(value)


def fit(value: float | None) -> str:
    """A coefficient of determination."""
    return UNKNOWN if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A share."""
    return UNKNOWN if value is None else f"{100 * value:.1f}"


def size(value: float | None) -> str:
    """A number of bytes, in powers of ten."""
    if value is None:
        return UNKNOWN
    for unit_size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit_size:
            return f"{value / unit_size:,.1f} {unit}"
    return f"{value:,.0f} B"


def duration(seconds: float | None) -> str:
    """A time that something takes, in its largest unit; beyond a year nobody plans by it."""
    if seconds is None:
        return UNKNOWN
    if not seconds:
        return "0s"
    return format_duration(seconds) if seconds < _YEAR_SECONDS else ">1y"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """A trend as bars from 0 to its maximum; a blank where there was no sample."""
    per_bar = max(1, len(values) // width)
    parts = [
        max((value for value in values[at : at + per_bar] if value is not None), default=None)
        for at in range(0, len(values), per_bar)
    ]
    top = max((part for part in parts if part is not None), default=0.0)
    return "".join(" " if part is None else _BARS[round((len(_BARS) - 1) * part / top) if top else 0] for part in parts)
