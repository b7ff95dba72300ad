"""Numbers that look drawn by chance and are computed: the same parts give the same number, in any process.

The mixing function is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_MASK: Final = (1 << 64) - 1
_GAMMA: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB


def draw(*parts: int) -> int:
    """A number of 64 bits."""
    state = 0
    for part in parts:
        state = _mix((state ^ (part & _MASK)) + _GAMMA & _MASK)
    return state


def share(*parts: int) -> float:
    """A number from 0 up to but not including 1."""
    return (draw(*parts) >> 11) / (1 << 53)


def between(low: float, high: float, *parts: int) -> float:
    """A number from `low` up to `high`, any of them as likely as another."""
    return low + (high - low) * share(*parts)


def log_between(low: float, high: float, *parts: int) -> float:
    """A number from `low` up to `high`, small ones as likely as large ones."""
    return low * math.exp(share(*parts) * math.log(high / low))


def whole(low: int, high: int, *parts: int) -> int:
    """A whole number from `low` up to and including `high`."""
    return low + draw(*parts) % (high - low + 1)


def grid(key: int, rows: Array, columns: int) -> Array:
    """A number of 64 bits for each row (numbers from 0 on) and each column, of a key's own."""
    cells = (rows.astype(np.uint64)[:, None] << np.uint64(16)) + np.arange(columns, dtype=np.uint64)[None, :]
    state = (cells * np.uint64(_GAMMA)) ^ np.uint64(key & _MASK)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    mixed: Array = state ^ (state >> np.uint64(31))
    return mixed


def lanes(cells: Array) -> tuple[Array, Array, Array, Array]:
    """Four numbers from 0 up to 1 for each of a grid, of 16 bits each."""
    low = np.uint64(0xFFFF)
    parts = ((cells >> np.uint64(shift)) & low for shift in (0, 16, 32, 48))
    first, second, third, fourth = (part.astype(np.float64) / 65_536.0 for part in parts)
    return first, second, third, fourth


def _mix(state: int) -> int:
    state = (state ^ (state >> 30)) * _FIRST & _MASK
    state = (state ^ (state >> 27)) * _SECOND & _MASK
    return state ^ (state >> 31)
