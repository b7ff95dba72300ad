"""Logs who was turned away, without letting those who come again and again fill the log."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from time import monotonic as _monotonic
from typing import Final

from loiter.logs import unlimited

_EVERY_SECONDS: Final = 60.0
# Different refusals that are told apart; and how many lines a minute they may take all together.
_MAX_KEYS: Final = 1_000
_MAX_LINES: Final = 100


class RefusalLog:
    """Logs the like of a refusal once a minute, with the number of those in between; and 100 lines a minute at most."""

    def __init__(self, log: logging.Logger, monotonic: Callable[[], float] = _monotonic) -> None:
        """Takes the log to write to."""
        self._log = log
        self._monotonic = monotonic
        # When a line of each kind was written last, and how many of the kind came since; the oldest line first.
        self._said: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()
        self._minute = monotonic()
        self._lines = 0
        self._unsaid = 0

    def say(self, key: Hashable, message: str, **facts: object) -> None:
        """Logs a refusal with its facts, or counts it where one of its key was logged within a minute."""
        now = self._monotonic()
        last, suppressed = self._said.get(key, (None, 0))
        if last is not None and now - last < _EVERY_SECONDS:
            self._said[key] = (last, suppressed + 1)
            return
        if not self._room(now):
            self._unsaid += 1
            return
        self._said[key] = (now, 0)
        self._said.move_to_end(key)
        if len(self._said) > _MAX_KEYS:
            self._said.popitem(last=False)
        again = f" ({suppressed:,} times more since this was said last)" if suppressed else ""
        self._log.warning("%s%s", message, again, extra=unlimited(**facts, suppressed=suppressed or None))

    def _room(self, now: float) -> bool:
        if now - self._minute >= _EVERY_SECONDS:
            if self._unsaid:
                self._log.warning(
                    "%s more refusals were not logged within a minute",
                    f"{self._unsaid:,}",
                    extra=unlimited(suppressed=self._unsaid),
                )
            self._minute, self._lines, self._unsaid = now, 0, 0
        self._lines += 1
        return self._lines <= _MAX_LINES
