"""Bounds on how much comes in how fast. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

_HOUR_MS: Final = 3_600_000


class TokenBucket:
    """So many a second, and a few at once."""

    __slots__ = ("_burst", "_rate", "_time", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """Starts full. `now` is in seconds, as in the other calls."""
        self._rate, self._burst = rate, burst
        self._tokens, self._time = burst, now

    def take(self, now: float) -> float:
        """Takes one, and returns for how many seconds to wait before it is used."""
        self._fill(now)
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def take_if_there(self, now: float) -> bool:
        """Takes one, unless that would mean to wait for it."""
        self._fill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def is_full(self, now: float) -> bool:
        """Whether it is as if it was new."""
        self._fill(now)
        return self._tokens >= self._burst

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._time) * self._rate)
        self._time = now


class HourlyBudget:
    """So many for each host or caller in each hour of the clock. Remembers those of this hour alone."""

    def __init__(self, limit: int) -> None:
        """Takes how many."""
        self.limit = limit
        self._hour = 0
        self._used: dict[Hashable, int] = {}

    def take(self, whose: Hashable, now: int, limit: int | None = None) -> bool:
        """Takes one, at a time in milliseconds, where this one may have another limit. False: there is none left."""
        used = self._used_by(whose, now)
        self._used[whose] = used + 1
        return used < (self.limit if limit is None else limit)

    def is_first_refusal(self, whose: Hashable) -> bool:
        """Whether the `take` before was the first of the hour that was refused."""
        return self._used.get(whose) == self.limit + 1

    def _used_by(self, whose: Hashable, now: int) -> int:
        hour = now // _HOUR_MS
        if hour != self._hour:
            self._hour = hour
            self._used.clear()
        return self._used.get(whose, 0)
