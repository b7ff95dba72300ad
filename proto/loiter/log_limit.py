"""Keeps a message that comes again and again from filling the log.

The like of a message is what the same call logs, whatever is put into its words. Five of a kind are written in a
minute, the first of which begins it. The others are counted, and when the minute is over one line says how many there
were, with the last of them. Messages for debugging are all written: whoever asks for those wants to see them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from loiter.log_records import FIELDS, fields_of, message_of

# Set on a record that is not to be counted.
UNLIMITED: Final = "unlimited"

LINES: Final = 5
WINDOW_SECONDS: Final = 60.0
# Calls that log number in the hundreds; a library that puts its words together first is not to fill the memory.
_MAX_KINDS: Final = 500

_Kind = tuple[str, int, str]


@dataclass(slots=True)
class _Window:
    """A minute in which messages of a kind came."""

    end: float
    written: int = 0
    suppressed: int = 0
    last: logging.LogRecord | None = None


def _later(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True  # what it would say is said at the end, too
    timer.start()


class LogLimit(logging.Filter):
    """Lets the first few messages of a kind through, and counts the others. Any thread may use it."""

    def __init__(
        self,
        say: Callable[[logging.LogRecord], object],
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = _later,
    ) -> None:
        """Takes what writes the line with the count, a clock in seconds, and how to be called after some seconds."""
        super().__init__()
        self._say = say
        self._clock = clock
        self._later = later
        self._lock = threading.Lock()
        self._windows: dict[_Kind, _Window] = {}
        self._waiting = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be written."""
        if record.levelno <= logging.DEBUG or getattr(record, UNLIMITED, False):
            return True
        try:
            return self._passes(record)
        except Exception:  # words that can not be made, say: whoever writes it copes with that, who logs it need not
            return True

    def _passes(self, record: logging.LogRecord) -> bool:
        kind = (record.name, record.levelno, str(record.msg))
        with self._lock:
            over = self._take_over()
            window = self._windows.get(kind)
            if window is None:
                if len(self._windows) >= _MAX_KINDS:
                    over += self._take_over(count=1)
                window = self._windows[kind] = _Window(self._clock() + WINDOW_SECONDS)
            passes = window.written < LINES
            if passes:
                window.written += 1
            else:
                window.suppressed += 1
                window.last = record
            seconds = self._seconds_to_wait()
        self._wait(seconds)
        self._say_of(over)
        return passes

    def say_the_rest(self) -> None:
        """Says now what of this minute was not written."""
        with self._lock:
            over = self._take_over(count=len(self._windows))
        self._say_of(over)

    def _wake(self) -> None:
        with self._lock:
            self._waiting = False
            over = self._take_over()
            seconds = self._seconds_to_wait()
        self._wait(seconds)
        self._say_of(over)

    def _wait(self, seconds: float | None) -> None:
        if seconds is None:
            return
        try:
            self._later(seconds, self._wake)
        except RuntimeError:  # no thread can be started now: the next message tries again
            with self._lock:
                self._waiting = False

    def _take_over(self, count: int = 0) -> list[_Window]:
        """Takes out the minutes that are over, and the oldest `count`. All last equally long: the oldest come first."""
        now = self._clock()
        over: list[_Window] = []
        for kind, window in list(self._windows.items()):
            if window.end > now and len(over) >= count:
                break
            over.append(self._windows.pop(kind))
        return over

    def _seconds_to_wait(self) -> float | None:
        """After what time to look again, where something was suppressed and nobody waits yet."""
        ends = [window.end for window in self._windows.values() if window.suppressed]
        if not ends or self._waiting:
            return None
        self._waiting = True
        return max(0.0, min(ends) - self._clock())

    def _say_of(self, windows: list[_Window]) -> None:
        for window in windows:
            if window.last is not None:
                self._say(_summary(window.last, window.suppressed))


def _summary(last: logging.LogRecord, suppressed: int) -> logging.LogRecord:
    try:
        words = message_of(last)
    except Exception as error:  # of what was to be put into them, which is anybody's code
        words = f"{last.msg} ({type(error).__name__}: its words can not be made)"
    record = logging.LogRecord(
        last.name,
        last.levelno,
        last.pathname,
        last.lineno,
        "%s more within a minute, the last: %s",
        (f"{suppressed:,}", words),
        None,
    )
    setattr(record, FIELDS, {**fields_of(last), "suppressed": suppressed})
    setattr(record, UNLIMITED, True)
    return record
