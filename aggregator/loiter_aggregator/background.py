"""Keeps parts going that the program can do without: what goes wrong in one ends neither it nor the program."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from loiter.logs import fields

_log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
# A part that ran for so long ended by something new: it is started again as soon as the first time.
_WELL_SECONDS: Final = 600.0
# A mistake that shows itself differently each time shall not fill the log either.
_MAX_KINDS: Final = 100

# The type of an error, and the file and line that it came from.
_Kind = tuple[str, str, int]


class Mistakes:
    """Logs errors that nobody foresaw: each kind with its traceback once, and in a line from then on."""

    def __init__(self) -> None:
        """Begins without any."""
        self._seen: set[_Kind] = set()

    def note(self, what: str, error: Exception) -> None:
        """Logs what went wrong, such as "the reports ended", by which error."""
        kind = _kind(error)
        is_new = kind not in self._seen and len(self._seen) < _MAX_KINDS
        if is_new:
            self._seen.add(kind)
        said = f"{type(error).__name__}: {error}"
        _log.error("%s by a mistake: %s", what, said, exc_info=error if is_new else None, extra=fields(reason=said))


async def keep_running(
    name: str,
    make: Callable[[], Awaitable[object]],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Runs a part until it is cancelled. Where it ends by itself, that is logged, and it is started again.

    Args:
        name: What to call it in the log.
        make: Begins to run it.
        sleep: Waits for so many seconds: 1, 2, 4 and so on up to 60 before it is started again.
        clock: A steady clock, in seconds.
    """
    mistakes = Mistakes()
    failures = 0
    while True:
        began = clock()
        try:
            await make()
        except Exception as error:
            mistakes.note(f"{name} ended", error)
        else:
            _log.error("%s ended, though nobody had asked for it", name)
        if clock() - began >= _WELL_SECONDS:
            failures = 0
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures, 10))
        failures += 1
        _log.info("%s: to be started again in %.0f s", name, pause)
        await sleep(pause)


def _kind(error: Exception) -> _Kind:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = ("", 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return type(error).__qualname__, *where
