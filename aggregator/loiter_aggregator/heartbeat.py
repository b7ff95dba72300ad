"""Tells systemd that the aggregator gets its work done, and in a line how much of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from loiter.sd_notify import Notifier
from loiter_aggregator.ingest.batcher import Batcher

# Rounds come every second; the manager need not hear of each.
_EVERY_SECONDS: Final = 10.0
_OF_WATCHDOG: Final = 0.25
_UNITS: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Heartbeat:
    """Feeds the watchdog as often as it takes. Beats with the committing loop, and never by itself."""

    def __init__(
        self,
        notifier: Notifier,
        batcher: Batcher,
        store_file: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes whom to tell, whose counters to tell of, the file of the store, and a clock in seconds."""
        self._notifier = notifier
        self._batcher = batcher
        self._store_file = store_file
        self._clock = clock
        watchdog = notifier.watchdog_seconds
        self._every = _EVERY_SECONDS if watchdog is None else min(_EVERY_SECONDS, _OF_WATCHDOG * watchdog)
        self._last: float | None = None
        self._counted = (clock(), batcher.counters.stored)

    def beat(self) -> None:
        """Takes note that a round is over. Any thread may call it."""
        now = self._clock()
        if not self._notifier.is_heard or (self._last is not None and now - self._last < self._every):
            return
        self._last = now
        self._notifier.feed_watchdog()
        self._notifier.status(self._status(now))

    def _status(self, now: float) -> str:
        counters, (before, stored) = self._batcher.counters, self._counted
        self._counted = now, counters.stored
        rate = (counters.stored - stored) / (now - before) if now > before else 0.0
        what = [f"{counters.streams:,} agents connected", f"{rate:,.0f} reports a second"]
        if (size := _size(self._store_file)) is not None:
            what.append(f"store {_bytes(size)}")
        if self._batcher.failure is not None:
            what.insert(0, f"nothing is stored: {self._batcher.failure}")
        return ", ".join(what)


def _size(file: Path) -> int | None:
    """The bytes of the file and of its write-ahead log; None where they can not be seen."""
    sizes = []
    for one in (file, file.with_name(file.name + ".wal")):
        try:
            sizes.append(one.stat().st_size)
        except OSError:
            continue
    return sum(sizes) if sizes else None


def _bytes(size: int) -> str:
    unit, name = next(((unit, name) for unit, name in _UNITS if size >= unit), (1.0, "bytes"))
    return f"{size:,} bytes" if name == "bytes" else f"{size / unit:,.1f} {name}"
