"""When to sample: at a steady beat of the clock since boot, whatever becomes of the wall clock.

APScheduler goes by the wall clock. An IntervalTrigger would be silent for hours when that is set back by hours, and
would list every run that it missed when it is set forward: by decades, on a machine without a battery-backed clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta

from apscheduler.triggers.base import BaseTrigger

from loiter_agent.clock import since_boot


class Beat(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires every `interval` seconds from a moment on. What was missed is passed over."""

    def __init__(self, interval: float, first: float, clock: Callable[[], float] = since_boot) -> None:
        """Takes the interval, the moment of the first beat, and the clock since boot, in seconds."""
        self.interval = interval
        self._next = first
        self._clock = clock

    def change(self, interval: float, last: float) -> None:
        """Beats at another interval, the next time one interval after the last beat."""
        self.interval = interval
        self._next = last + interval

    def left(self) -> float:
        """Seconds until the next beat; 0 where that should have been."""
        return max(0.0, self._next - self._clock())

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:  # noqa: ARG002
        """Returns the time of the beat after this one, on the wall clock as it is now. The scheduler asks as it fires.

        Its timers may be early by a little: a beat that comes within half an interval is this one. So a tick that is
        late is not followed by another at once, either.
        """
        beats = math.floor((self._clock() - self._next) / self.interval + 0.5) + 1
        self._next += max(0, beats) * self.interval
        return now + timedelta(seconds=self.left())
