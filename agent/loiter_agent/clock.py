"""The clocks of the host: the one that never steps, and when the other one does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# A clock that is slewed (adjtimex(2)) gains half a millisecond a second at most, in an hour less than two seconds.
_LEAST_STEP_SECONDS: Final = 2.0
# The two clocks are read one after the other: again, where the agent was kept from running in between.
_READ_WITHIN_SECONDS: Final = 0.1
_ATTEMPTS: Final = 10


def since_boot() -> float:
    """Reads CLOCK_BOOTTIME in seconds: it never steps, and goes on while the host is suspended (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class StepWatch:
    """Notices when the wall clock is set: its distance from the clock since boot changes."""

    def __init__(self, wall: Callable[[], float] = time.time, boot: Callable[[], float] = since_boot) -> None:
        """Takes the clocks, in seconds."""
        self._wall = wall
        self._boot = boot
        self._distance = self._read()

    def stepped(self) -> float:
        """Returns by how many seconds the wall clock was set since it was asked last, back being negative; 0 for not.

        Asked at least once an hour, it does not take a clock that is slewed for one that was set.
        """
        before, self._distance = self._distance, self._read()
        step = self._distance - before
        return step if abs(step) >= _LEAST_STEP_SECONDS else 0.0

    def _read(self) -> float:
        for _ in range(_ATTEMPTS):
            before = self._boot()
            wall = self._wall()
            if self._boot() - before < _READ_WITHIN_SECONDS:
                break
        return wall - before
