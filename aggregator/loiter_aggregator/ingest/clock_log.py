"""Says of hosts whose clocks are wrong, once for each change."""

from __future__ import annotations

import logging
from typing import Final

from loiter.durations import format_duration
from loiter.logs import fields
from loiter.text import printable

_log = logging.getLogger(__name__)

# A change that is worth a line: more than so much, and than a tenth of what was said.
_CHANGE_MS: Final = 5_000
_MAX_HOSTS: Final = 10_000


class ClockLog:
    """Remembers what was said of which host; of hosts whose clocks are right, nothing."""

    def __init__(self) -> None:
        """Has said nothing yet."""
        self._said: dict[int, int] = {}

    def note(self, host_key: int, hostname: str, skew: int) -> None:
        """Takes in how far a host's clock is behind ours, in milliseconds, 0 if it is right, and says what is new."""
        said = self._said.get(host_key, 0)
        if skew == said:
            return
        if not skew:
            del self._said[host_key]
            _log.info("the clock of %s is right again", printable(hostname), extra=fields(host=hostname))
        elif abs(skew - said) > max(_CHANGE_MS, abs(said) // 10) or not said:
            if len(self._said) >= _MAX_HOSTS:
                del self._said[next(iter(self._said))]
            self._said[host_key] = skew
            size, way = format_duration(abs(skew) / 1_000), "slow" if skew > 0 else "fast"
            _log.warning(
                "the clock of %s is %s %s; its samples are set right",
                printable(hostname),
                size,
                way,
                extra=fields(host=hostname, seconds=skew / 1_000),
            )
