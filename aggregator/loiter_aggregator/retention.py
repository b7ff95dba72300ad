"""Deletes what the store has kept for long enough, by a clock that has proved itself."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from loiter_aggregator.clock import Clock, Steps, boot_clock
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.levels import ROLLUPS, Level

_PROVED_MS: Final = 3_600_000


class Retention:
    """Keeps what was taken in the last so many milliseconds, and nothing else.

    By a clock that is ahead, all is old. So nothing is deleted until the clock has gone on without a step for an hour
    since it was set, or since the start; and no longer than what is kept, as by then the rest is old by any clock.
    """

    def __init__(
        self,
        store: DuckDbStore,
        kept: int,
        clock: Clock,
        steady_clock: Clock = boot_clock,
        rollups: Mapping[Level, int] = MappingProxyType({}),
    ) -> None:
        """Takes the store, how long samples are kept, the clock, and one that never steps.

        `rollups` says how long rollups are kept, which is as long as samples where it does not, and never less.
        """
        self._store, self._kept, self._rollups = store, kept, rollups
        self._clock, self._steady_clock = clock, steady_clock
        self._steps = Steps(clock, steady_clock)
        self._set = steady_clock()

    def forget(self) -> None:
        """Deletes what is older, unless the clock was set of late. Raises StoreError."""
        if self._steps.latest():
            self._set = self._steady_clock()
        if self._steady_clock() - self._set >= min(_PROVED_MS, self._kept):
            now = self._clock()
            self._store.forget_before(now - self._kept, {level: now - kept for level, kept in self._longest().items()})

    def _longest(self) -> dict[Level, int]:
        """How long each rollup is kept: at least as long as what it is made of."""
        found, longest = {}, self._kept
        for level in ROLLUPS:
            if level in self._rollups:
                found[level] = longest = max(longest, self._rollups[level])
        return found
