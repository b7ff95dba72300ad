"""Deletes what the store has kept for long enough, by a clock that has proved itself."""

from __future__ import annotations

from typing import Final

from loiter_aggregator.clock import Clock, Steps, boot_clock
from loiter_aggregator.store.duckdb_store import DuckDbStore

_PROVED_MS: Final = 3_600_000


class Retention:
    """Keeps what was taken in the last so many milliseconds, and nothing else.

    By a clock that is ahead, all is old. So nothing is deleted until the clock has gone on without a step for an hour
    since it was set, or since the start; and no longer than what is kept, as by then the rest is old by any clock.
    """

    def __init__(self, store: DuckDbStore, kept: int, clock: Clock, steady_clock: Clock = boot_clock) -> None:
        """Takes the store, how long samples are kept, the clock, and one that never steps."""
        self._store, self._kept = store, kept
        self._clock, self._steady_clock = clock, steady_clock
        self._steps = Steps(clock, steady_clock)
        self._set = steady_clock()

    def forget(self) -> None:
        """Deletes what is older, unless the clock was set of late. Raises StoreError."""
        if self._steps.latest():
            self._set = self._steady_clock()
        if self._steady_clock() - self._set >= min(_PROVED_MS, self._kept):
            self._store.forget_before(self._clock() - self._kept)
