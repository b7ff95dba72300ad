"""Runs the agent: samples on a schedule, reports, and heeds SIGTERM, SIGINT and SIGHUP."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from loiter import logs
from loiter.durations import format_duration
from loiter.limits import MAX_INTERVAL_SECONDS
from loiter.logs import fields
from loiter.settings import SettingsError
from loiter.version import version
from loiter_agent.announcer import Announcer
from loiter_agent.beat import Beat
from loiter_agent.budget import Budget, CpuMeter, stretch
from loiter_agent.clock import StepWatch, since_boot
from loiter_agent.config import AgentSettings
from loiter_agent.encode import AgentStatus, encode_host, encode_sample
from loiter_agent.host import identify_host
from loiter_agent.labels import Labels
from loiter_agent.lean import trim
from loiter_agent.procfs import Procfs
from loiter_agent.sample import HostIdentity
from loiter_agent.sampler import Bounds, Sampler
from loiter_agent.security import Security
from loiter_agent.socket_answers import SocketAnswers
from loiter_agent.spool import Spool
from loiter_agent.uplink import Uplink

_log = logging.getLogger(__name__)

# In the log.
PROGRAM: Final = "loiter-agent"

_DRAIN_SECONDS: Final = 3.0
# A tick that takes longer once we are to stop hangs; and whatever hangs is left behind in the end.
_TICK_END_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 15.0
_LONGEST_FIRST_DELAY_SECONDS: Final = 10.0
# How often to look whether the clock was set: at least twice an interval, so that no tick is more than half one late.
_LONGEST_CLOCK_CHECK_SECONDS: Final = 5.0
# By then all that is done once has been done.
_TRIM_AFTER_TICKS: Final = 3
_JOB: Final = "tick"


class Agent:
    """The agent of one host."""

    def __init__(self, settings: AgentSettings, reload: Callable[[], AgentSettings]) -> None:
        """Takes the settings, and how to read them anew.

        Raises OSError where the host id can not be kept, or another agent has the state directory, and SettingsError
        where there is something wrong with the labels.
        """
        self._settings = settings
        self._reload = reload
        self._procfs = Procfs()
        self._labels = Labels(settings)
        identity = self._identify(settings)
        assert identity.host_id is not None, "with a state directory there is always an id"
        self._spool = Spool(
            identity.host_id,
            identity.boot_id,
            directory=settings.state_dir,
            max_bytes=settings.spool.max_bytes,
            max_age=settings.spool.max_age,
        )
        self._uplink = Uplink(self._spool)
        self._sampler = Sampler(
            self._procfs,
            _bounds(settings),
            settings.interval,
            arguments=settings.processes.arguments,
            trace_closes=settings.trace_closes,
        )
        self._budget = Budget(settings.cpu_budget)
        self._cpu = CpuMeter()
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._beat = Beat(settings.interval, since_boot() + _first_delay(settings.interval))
        self._announcer = Announcer(os.environ, self._beat, self._budget, self._spool, self._uplink)
        self._uplink.on_change = self._announcer.tell
        self._late_ticks = 0
        self._last_tick: float | None = None
        self._last_failure: type[Exception] | None = None
        self._tick_running = asyncio.Lock()
        self._socket_answers = SocketAnswers(self._sampler.list_sockets, self._tick_running, self._cpu.leave_out)
        self._configure_uplink(identity)

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT; then sends what is waiting, for a few seconds at most, and returns."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._schedule()
        tasks = (
            asyncio.create_task(self._deliver()),
            asyncio.create_task(self._watch_clock()),
            asyncio.create_task(self._labels.run(self._relabel)),
        )
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait((*tasks, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()  # these never return: raise what ended it
        _log.info("stopping")
        self._announcer.stopping()
        # What still hangs by then: where it does is written to standard error, and the process ends.
        faulthandler.dump_traceback_later(_STOP_SECONDS, exit=True)
        self._scheduler.pause()
        tick_ended = await self._end_of_tick()  # it is let finish: shutting down would cancel it
        if tick_ended:
            self._scheduler.shutdown(wait=False)
            self._sampler.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._spool.drained()
        for task in tasks:
            while not task.done():
                task.cancel()
                await asyncio.wait((task,), timeout=1.0)
        await self._close_spool()
        if not tick_ended:  # Python would wait for its thread
            faulthandler.dump_traceback()
            logging.shutdown()
            os._exit(1)

    async def _end_of_tick(self) -> bool:
        """Waits for the tick under way, if any, and keeps another from beginning. False where it hangs."""
        self._socket_answers.tick_is_due = True  # whatever reads sockets is to end
        try:
            async with asyncio.timeout(_TICK_END_SECONDS):
                await self._tick_running.acquire()
        except TimeoutError:
            _log.error("a tick hangs, and is given up; where it does follows", extra=fields(seconds=_TICK_END_SECONDS))
            return False
        return True

    async def _close_spool(self) -> None:
        status = self._spool.status()
        waiting = status.waiting_reports
        if waiting and status.in_memory:
            _log.warning("%d reports were not acknowledged and are lost", waiting, extra=fields(lost=waiting))
        elif waiting:
            _log.info(
                "%d reports stay in the spool and are sent at the next start", waiting, extra=fields(waiting=waiting)
            )
        await self._spool.close()

    def _schedule(self) -> None:
        # Where somebody waits for us to be ready, that is after the first tick, this one comes at once. The others come
        # when the beat has them, which begins at its random moment all the same.
        first = 0.0 if self._announcer.is_awaited else self._beat.left()
        self._scheduler.add_job(
            self._tick,
            self._beat,
            id=_JOB,
            next_run_time=_in(first),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,  # late is better than never, and it is counted
        )
        self._scheduler.start()

    def _reschedule(self) -> None:
        """Has the next tick come at the next beat: of another interval, or by a clock that was set."""
        self._scheduler.modify_job(_JOB, next_run_time=_in(self._beat.left()))

    async def _watch_clock(self) -> None:
        watch = StepWatch()
        while True:
            await asyncio.sleep(min(self._beat.interval / 2, _LONGEST_CLOCK_CHECK_SECONDS))
            if step := watch.stepped():
                direction = "forward" if step > 0 else "back"
                _log.warning(
                    "the clock was set %s by %s; ticks go on as they did",
                    direction,
                    format_duration(abs(step)),
                    extra=fields(seconds=round(step, 3)),
                )
                self._reschedule()

    async def _tick(self) -> None:
        self._socket_answers.tick_is_due = True
        async with self._tick_running:
            self._socket_answers.tick_is_due = False
            try:
                with self._announcer.tick():
                    await self._sample()
            except Exception as error:  # a mistake of ours: the next tick may fare better, and it must be heard of
                if type(error) is not self._last_failure:
                    self._last_failure = type(error)
                    _log.exception("a tick failed, and this host was not sampled; the like is not said again")
            else:
                self._last_failure = None
                self._announcer.tick_completed()
                if self._announcer.ticks == 1 and self._announcer.is_awaited:
                    self._last_tick = None  # it came before its time, and the next one is not late for that

    async def _sample(self) -> None:
        settings = self._settings
        self._sampler.configure(_bounds(settings), self._beat.interval, settings.processes.arguments)
        sample = await asyncio.to_thread(self._sampler.sample, self._budget.step)
        self._count_late(sample.since_boot)
        cpu_share = self._keep_to_budget()
        status = AgentStatus(
            interval=self._beat.interval,
            cpu_budget=self._budget.share,
            cpu_share=cpu_share,
            late_ticks=self._late_ticks,
            dropped_reports=self._spool.dropped,
            spool=self._spool.status(),
        )
        await self._spool.append(encode_sample(sample, status), sample.since_boot)
        if self._announcer.ticks + 1 == _TRIM_AFTER_TICKS:
            await asyncio.to_thread(trim)

    def _keep_to_budget(self) -> float | None:
        """Leaves out more or less from now on, as it takes. Returns the share of a processor that was used of late."""
        usage = self._cpu.lap()
        if usage is None:
            return None
        if change := self._budget.spend(usage):
            facts = fields(
                step=change.after.name.lower(), share=round(change.share, 6), budget=change.budget, ticks=change.ticks
            )
            _log.log(logging.WARNING if change.after > change.before else logging.INFO, "%s", change, extra=facts)
            self._set_interval()
        return usage.share

    def _set_interval(self) -> None:
        """Beats as the settings and the budget will have it, from the last tick on."""
        interval = self._settings.interval
        stretched = min(interval * stretch(self._budget.step), max(interval, MAX_INTERVAL_SECONDS))
        if stretched != self._beat.interval:
            self._beat.change(stretched, since_boot() if self._last_tick is None else self._last_tick)
            self._reschedule()
            self._announcer.interval_changed()

    def _count_late(self, now: float) -> None:
        """Counts the ticks that should have been between this one and the last.

        The last one took too long, or the agent was stopped, or the host suspended. A clock that was set is no reason.
        """
        before, self._last_tick = self._last_tick, now
        missed = round((now - before) / self._beat.interval) - 1 if before is not None else 0
        if missed <= 0:
            return
        if self._late_ticks == 0:
            _log.warning("a tick did not run at its time; this is counted in each report and not said again")
        self._late_ticks += missed

    def _on_hangup(self) -> None:
        with self._announcer.reloading():
            self._reload_settings()

    def _reload_settings(self) -> None:
        try:
            settings = self._reload()
            identity = self._identify(settings)
            self._labels.configure(settings)
        except (SettingsError, OSError) as error:
            facts = fields(reason=error)
            _log.error("settings not reloaded, the old ones stay in force: %s", error, extra=facts)
            return
        if identity.host_id != self._spool.host_id:
            _log.warning("a change of host_id takes effect at the next start")
            identity = replace(identity, host_id=self._spool.host_id)
        for name in ("trace_closes", "state_dir"):
            if getattr(settings, name) != getattr(self._settings, name):
                _log.warning("a change of %s takes effect at the next start", name)
        self._settings = settings
        self._spool.configure(settings.spool.max_bytes, settings.spool.max_age)
        left_out = self._budget.step
        self._budget.configure(settings.cpu_budget)
        if self._budget.step != left_out:
            _log.info("cpu_budget is larger now: nothing is left out any more")
        self._last_tick = None  # how long it was ago says nothing of ticks at another interval
        self._set_interval()
        logs.configure(PROGRAM, settings.log_format, settings.log_level)
        self._configure_uplink(identity)
        _log.info("settings reloaded")

    async def _deliver(self) -> None:
        await self._labels.answered()  # a host that starts again is not to be without labels for a moment
        await self._uplink.run()

    def _relabel(self) -> None:
        self._configure_uplink(self._identity)

    def _configure_uplink(self, identity: HostIdentity) -> None:
        """Reports to whom the settings say, as this host, with the labels that it has now."""
        self._identity = identity
        settings = self._settings
        security = Security(
            ca=settings.tls.ca,
            certificate=settings.tls.certificate,
            key=settings.tls.key,
            token_file=settings.token_file,
            insecure=settings.insecure,
        )
        host = encode_host(replace(identity, labels=self._labels.current), version())
        self._socket_answers.cpu_share = settings.cpu_budget
        answer = self._socket_answers.answer if settings.answer_sockets else None
        self._uplink.configure(settings.server, host, settings.interval, security, answer)

    def _identify(self, settings: AgentSettings) -> HostIdentity:
        return identify_host(self._procfs, settings.host_id, settings.hostname, state_dir=settings.state_dir)


def _first_delay(interval: float) -> float:
    """A random part of the interval, so that a fleet that starts at once does not report at once."""
    return random.uniform(0, min(interval, _LONGEST_FIRST_DELAY_SECONDS))  # noqa: S311 - no secret


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _bounds(settings: AgentSettings) -> Bounds:
    return Bounds(settings.processes.top, settings.processes.limit)
