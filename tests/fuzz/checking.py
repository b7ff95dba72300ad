"""Runs a target on one input, and tells when it takes too long."""

from __future__ import annotations

import time
from typing import Final

from fuzz.targets import Target

# Of processor time, for an input of some kilobytes; the longest that is right takes some milliseconds.
MOST_SECONDS: Final = 2.0


class TooSlow(AssertionError):
    """An input takes longer than any input of its size should."""


def check(target: Target, data: bytes, most_seconds: float = MOST_SECONDS) -> None:
    """Runs a target. Raises what is wrong with it."""
    started = time.thread_time()
    target(data)
    taken = time.thread_time() - started
    if taken > most_seconds:
        raise TooSlow(f"{len(data)} bytes took {taken:.1f} s")
