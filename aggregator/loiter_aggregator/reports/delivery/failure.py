"""Why a report did not arrive, and what becomes of it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import accumulate
from typing import Final

_MINUTE: Final = 60.0
_HOUR: Final = 3_600.0
_DAY: Final = 86_400.0
# How long to wait after the first try, the second, and so on: a day in all.
_WAITS: Final = (
    _MINUTE,
    5 * _MINUTE,
    15 * _MINUTE,
    _HOUR,
    2 * _HOUR,
    4 * _HOUR,
    8 * _HOUR,
    8 * _HOUR,
)
# A server that says itself when to come back may say so again and again: each time it is at least twice as long.
_LONGEST_DOUBLED: Final = _HOUR
# More than fit into a day: only while the clock is set back do they come to that.
_MAX_ATTEMPTS: Final = 100
# Answers of a web server that another try may change (RFC 9110, RFC 6585, RFC 8470); so may every 5xx.
_TRY_AGAIN: Final = (408, 425, 429)


class DeliveryError(Exception):
    """A try failed. The message is for a person, and without secrets.

    `final` tells that another try would fail, too; `retry_after`, in seconds, when the other end wants the next.
    """

    def __init__(self, message: str, *, final: bool = False, retry_after: float | None = None) -> None:
        """Takes what is to be said."""
        super().__init__(message)
        self.final = final
        self.retry_after = retry_after


def wait_seconds(attempts: int, passed: float, error: DeliveryError) -> float | None:
    """How long to wait for the next try; None where it is given up.

    Args:
        attempts: How often it was tried.
        passed: How many seconds ago it was tried first.
        error: Why the last try failed.
    """
    # By time, however often it was tried at the wish of the other end; but a clock that was set ahead is no time.
    turn = min(attempts - 1, sum(passed >= reached for reached in accumulate(_WAITS)))
    if error.final or turn >= len(_WAITS) or attempts >= _MAX_ATTEMPTS:
        return None
    if error.retry_after is None:
        return _WAITS[turn]
    doubled = min(2.0 ** (attempts - 1), _LONGEST_DOUBLED)
    return min(max(error.retry_after, doubled), _DAY)


def is_final(status: int) -> bool:
    """Whether an answer of a web server will be the same next time."""
    return not (status >= 500 or status in _TRY_AGAIN)


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """Reads the header Retry-After (RFC 9110, 10.2.3): seconds, or a date. None where it says neither."""
    if header is None or len(header) > 64:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
