"""Time as the aggregator reckons with it: whole milliseconds since the epoch. Tests give a clock of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

Clock = Callable[[], int]

# By how much a clock may be set without a word.
_TOLERATED_STEP_MS: Final = 2_000


def system_clock() -> int:
    """Reads the system's clock."""
    return time.time_ns() // 1_000_000


def boot_clock() -> int:
    """Reads the milliseconds since this machine started, suspension included: a clock that never steps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Steps:
    """Tells by how much a clock was set, by one that never steps. Slewing moves both alike, and is no step."""

    def __init__(self, clock: Clock, steady_clock: Clock = boot_clock) -> None:
        """Takes both, and what is between them now."""
        self._clock, self._steady_clock = clock, steady_clock
        self.offset = clock() - steady_clock()

    def latest(self) -> int:
        """By how many milliseconds it was set since the last step that was told; little is 0, but adds up."""
        step = self._clock() - self._steady_clock() - self.offset
        if not is_step(step):
            return 0
        self.offset += step
        return step


def is_step(difference: int) -> bool:
    """Whether a clock was set by more than is tolerated, in milliseconds."""
    return abs(difference) > _TOLERATED_STEP_MS


def from_timestamp(stamp: Timestamp) -> int:
    """Converts a protobuf timestamp."""
    return stamp.seconds * 1_000 + stamp.nanos // 1_000_000


def to_timestamp(milliseconds: int) -> Timestamp:
    """Converts to a protobuf timestamp."""
    seconds, rest = divmod(milliseconds, 1_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000_000)


def from_duration(duration: Duration) -> int:
    """Converts a protobuf duration to milliseconds."""
    return duration.seconds * 1_000 + duration.nanos // 1_000_000


def to_duration(milliseconds: int) -> Duration:
    """Converts milliseconds to a protobuf duration."""
    duration = Duration()
    duration.FromMilliseconds(milliseconds)  # both its parts are negative, or neither
    return duration
