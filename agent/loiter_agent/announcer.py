"""Tells systemd, and whoever reads `status.json`, how the agent is."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from loiter import restart_pause, sd_notify
from loiter.version import version
from loiter_agent.beat import Beat
from loiter_agent.budget import Budget
from loiter_agent.sample import Degradation
from loiter_agent.spool import Spool
from loiter_agent.status import Status, headline, status_file, timestamp
from loiter_agent.uplink import Uplink

_log = logging.getLogger(__name__)

# Without a tick for so many intervals, systemd is to start the agent anew, if it is to watch it at all.
_WATCHDOG_INTERVALS: Final = 4
# A first tick that takes longer hangs.
_FIRST_TICK_SECONDS: Final = 600.0


class Announcer:
    """What others hear of the agent."""

    def __init__(
        self, environment: Mapping[str, str], beat: Beat, budget: Budget, spool: Spool, uplink: Uplink
    ) -> None:
        """Takes what says who listens, and the parts that are told of."""
        self._environment = environment
        self._notifier = sd_notify.from_environment(environment)
        self._file = status_file(environment)
        self._file_fails = False
        self._beat = beat
        self._budget = budget
        self._spool = spool
        self._uplink = uplink
        self._last_tick_at: float | None = None
        self.ticks = 0

    @property
    def is_awaited(self) -> bool:
        """Whether systemd waits for the first tick."""
        return self._notifier.is_heard

    def tick(self) -> AbstractContextManager[None]:
        """A tick lasts as long as the block: the first of a large host may take longer than a start is given."""
        return nullcontext() if self.ticks else self._notifier.extending_timeout(_FIRST_TICK_SECONDS)

    def tick_completed(self) -> None:
        """Says that a sample is in the spool. Nothing else feeds the watchdog."""
        self.ticks += 1
        self._last_tick_at = time.time()
        if self.ticks == 1:
            self._notifier.ready()
            restart_pause.forget(self._environment)
            self.interval_changed()
        self._notifier.feed_watchdog()
        self.tell()

    def interval_changed(self) -> None:
        """Has the watchdog wait for some ticks of the interval that it is now."""
        if self.ticks:
            self._notifier.allow_watchdog(_WATCHDOG_INTERVALS * self._beat.interval)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The settings are read anew within the block."""
        if not self.ticks:  # nobody was told yet that we are ready
            yield
            return
        self._notifier.reloading()
        yield
        self._notifier.ready()

    def stopping(self) -> None:
        """Says that the agent is about to end."""
        self._notifier.stopping()

    def tell(self) -> None:
        """Says how things are now."""
        if self._file is None and not self._notifier.is_heard:
            return
        status = self._status()
        self._notifier.status(headline(status))
        if self._file is None:
            return
        try:
            status.write(self._file)
        except OSError as error:  # the folder is gone or full, and may not be so at the next tick
            if not self._file_fails:
                _log.warning("%s can not be written: %s; it is tried again", self._file, error.strerror)
            self._file_fails = True
        else:
            self._file_fails = False

    def _status(self) -> Status:
        delivery = self._uplink.delivery
        return Status(
            version=version(),
            pid=os.getpid(),
            updated_at=timestamp(time.time()),
            interval_seconds=self._beat.interval,
            ticks=self.ticks,
            last_tick_at=_timestamp(self._last_tick_at),
            server=delivery.server,
            connected=delivery.connected,
            error=delivery.error,
            acknowledged_reports=delivery.acknowledged,
            last_acknowledged_at=_timestamp(delivery.last_acknowledged),
            waiting_reports=len(self._spool),
            lost_reports=self._spool.dropped,
            left_out=None if self._budget.step == Degradation.NONE else self._budget.step.name.lower(),
        )


def _timestamp(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)
