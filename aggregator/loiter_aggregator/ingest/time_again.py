"""Time that comes a second time, as the clock was set back: what came last stands for it, and what was there gives way.

No sample is stored as of later than it was received. So what lies ahead was stored before the clock was set back. It is
not asked for, as rankings end with the present; but when the present comes to where it lies, it would stand among what
is new, and no line through both would be of anything. So it is deleted a minute before then, and no earlier: a clock
that is set back by mistake, and right again soon, costs the time that came twice, and that minute. What a clock that
is set forward again passes over stays: what needs lines that are right ends them where the clock was set.
"""

from __future__ import annotations

from typing import Final

from loiter_aggregator.store.duckdb_store import DuckDbStore

# What is deleted at once.
_AHEAD_MS: Final = 60_000


class TimeAgain:
    """Makes room in the store for what comes next. Times are in milliseconds."""

    def __init__(self, store: DuckDbStore) -> None:
        """Takes the store, and reads nothing yet."""
        self._store = store
        # Up to when something may lie ahead; None while that is not known. It is not there up to when room is made.
        self._lies_until: int | None = None
        self._room_until = 0

    def follow(self, step: int, now: int) -> None:
        """Takes note that the clock was set by `step`, and shows `now`: hosts are heard of when they were.

        Raises StoreError.
        """
        self._store.follow_clock(step, now)
        if self._lies_until is not None:
            self._lies_until = max(self._lies_until, now - step)
        self._room_until = now

    def make_room(self, first: int, last: int) -> None:
        """Is called before what was received from `first` to `last` is written. Raises StoreError."""
        if self._lies_until is None:  # the clock may have been set while the aggregator was down
            newest = self._store.newest_sample() or 0
            if newest > last:
                self._store.follow_clock(0, last)
            self._lies_until, self._room_until = newest, first
        if self._room_until >= self._lies_until or self._room_until > last:
            return
        until = last + _AHEAD_MS
        self._store.forget_between(self._room_until, until)
        self._room_until = until
