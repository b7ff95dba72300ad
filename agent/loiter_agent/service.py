"""Runs the agent: samples on a schedule, reports, and heeds SIGTERM, SIGINT and SIGHUP."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.events import EVENT_JOB_MISSED, EVENT_JOB_SUBMITTED, JobSubmissionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from loiter.settings import SettingsError
from loiter.version import version
from loiter_agent.config import AgentSettings
from loiter_agent.encode import encode_host, encode_sample
from loiter_agent.host import identify_host
from loiter_agent.procfs import Procfs
from loiter_agent.sample import HostIdentity
from loiter_agent.sampler import Bounds, Sampler
from loiter_agent.spool import Spool
from loiter_agent.uplink import Uplink

_log = logging.getLogger(__name__)

_DRAIN_SECONDS: Final = 3.0
_LONGEST_FIRST_DELAY_SECONDS: Final = 10.0
_JOB: Final = "tick"


class Agent:
    """The agent of one host."""

    def __init__(self, settings: AgentSettings, reload: Callable[[], AgentSettings]) -> None:
        """Takes the settings, and how to read them anew. Raises OSError where the host id can not be kept."""
        self._settings = settings
        self._reload = reload
        self._procfs = Procfs()
        identity = self._identify(settings)
        assert identity.host_id is not None, "with a state directory there is always an id"
        self._spool = Spool(identity.host_id, identity.boot_id, settings.spool.reports)
        self._uplink = Uplink(self._spool)
        self._uplink.configure(settings.server, encode_host(identity, version()), settings.interval)
        self._sampler = Sampler(
            self._procfs,
            _bounds(settings),
            settings.interval,
            arguments=settings.processes.arguments,
            trace_closes=settings.trace_closes,
        )
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._late_ticks = 0
        self._last_scheduled: datetime | None = None
        self._last_failure: type[Exception] | None = None
        self._tick_running = asyncio.Lock()

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT; then sends what is waiting, for a few seconds at most, and returns."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._schedule()
        self._scheduler.start()
        uplink = asyncio.create_task(self._uplink.run())
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait((uplink, stopping), return_when=asyncio.FIRST_COMPLETED)
        if uplink in done:
            uplink.result()  # the uplink never returns: raise what ended it
        _log.info("stopping")
        self._scheduler.pause()
        async with self._tick_running:  # a tick under way is let finish: shutting down would cancel it
            self._scheduler.shutdown(wait=False)
            self._sampler.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._spool.drained()
        while not uplink.done():
            uplink.cancel()
            await asyncio.wait((uplink,), timeout=1.0)
        if waiting := len(self._spool):
            _log.warning("%d reports were not acknowledged and are lost", waiting)

    def _schedule(self) -> None:
        interval = self._settings.interval
        # The first tick comes at a random moment of the interval, so that a fleet that starts at once does not report
        # at once. A tick that could not start in its own interval is skipped and counted.
        delay = random.uniform(0, min(interval, _LONGEST_FIRST_DELAY_SECONDS))  # noqa: S311 - spreads load, no secret
        self._scheduler.add_job(
            self._tick,
            IntervalTrigger(seconds=interval, timezone=UTC),
            id=_JOB,
            next_run_time=datetime.now(UTC) + timedelta(seconds=delay),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=max(1, int(interval)),
        )
        self._scheduler.add_listener(self._on_submitted, EVENT_JOB_SUBMITTED)
        self._scheduler.add_listener(lambda _: self._count_late(1), EVENT_JOB_MISSED)

    async def _tick(self) -> None:
        async with self._tick_running:
            settings = self._settings
            try:
                self._sampler.configure(_bounds(settings), settings.interval, settings.processes.arguments)
                sample = await asyncio.to_thread(self._sampler.sample)
                self._spool.append(encode_sample(sample, self._late_ticks, self._spool.dropped))
            except Exception as error:  # a mistake of ours: the next tick may fare better, and it must be heard of
                if type(error) is not self._last_failure:
                    self._last_failure = type(error)
                    _log.exception("a tick failed, and this host was not sampled; the like is not said again")
            else:
                self._last_failure = None

    def _on_submitted(self, event: JobSubmissionEvent) -> None:
        """Counts the ticks between this one and the last: the previous tick took too long, or the host was stopped.

        APScheduler passes over such ticks in silence where they are coalesced.
        """
        scheduled = event.scheduled_run_times[-1]
        if self._last_scheduled is not None:
            gap = (scheduled - self._last_scheduled).total_seconds()
            self._count_late(round(gap / self._settings.interval) - 1)
        self._last_scheduled = scheduled

    def _count_late(self, ticks: int) -> None:
        if ticks <= 0:
            return
        if self._late_ticks == 0:
            _log.warning("a tick did not run at its time; this is counted in each report and not said again")
        self._late_ticks += ticks

    def _on_hangup(self) -> None:
        try:
            settings = self._reload()
            identity = self._identify(settings)
        except (SettingsError, OSError) as error:
            _log.error("settings not reloaded, the old ones stay in force: %s", error)
            return
        if identity.host_id != self._spool.host_id:
            _log.warning("a change of host_id takes effect at the next start")
            identity = replace(identity, host_id=self._spool.host_id)
        if settings.trace_closes != self._settings.trace_closes:
            _log.warning("a change of trace_closes takes effect at the next start")
        self._spool.limit = settings.spool.reports
        if settings.interval != self._settings.interval:
            trigger = IntervalTrigger(seconds=settings.interval, timezone=UTC)
            self._last_scheduled = None
            self._scheduler.reschedule_job(_JOB, trigger=trigger)
            self._scheduler.modify_job(_JOB, misfire_grace_time=max(1, int(settings.interval)))
        logging.getLogger().setLevel(settings.log_level.upper())
        self._settings = settings
        self._uplink.configure(settings.server, encode_host(identity, version()), settings.interval)
        _log.info("settings reloaded")

    def _identify(self, settings: AgentSettings) -> HostIdentity:
        return identify_host(
            self._procfs, settings.host_id, settings.hostname, settings.labels, state_dir=settings.state_dir
        )


def _bounds(settings: AgentSettings) -> Bounds:
    return Bounds(settings.processes.top, settings.processes.limit)
