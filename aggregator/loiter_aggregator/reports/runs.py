"""The runs of scheduled reports: records them when they are due, builds them, and delivers them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec

from loiter.durations import format_duration
from loiter.logs import fields
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import Clock
from loiter_aggregator.fleet.errors import Overloaded, TookTooLong
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.links import Links
from loiter_aggregator.reports.building import Order, build
from loiter_aggregator.reports.delivery.failure import DeliveryError, wait_seconds
from loiter_aggregator.reports.delivery.outgoing import Outgoing, delivery_id
from loiter_aggregator.reports.delivery.targets import deliver, forms_for, targets_of
from loiter_aggregator.reports.difference import Before, before_of
from loiter_aggregator.reports.due import latest_dues, next_due, plan
from loiter_aggregator.reports.file import ReportFile, Schedule
from loiter_aggregator.reports.rendering import view
from loiter_aggregator.reports.rendering.worker import RenderError, render_apart
from loiter_aggregator.reports.state import Delivery, ReportState, Run
from loiter_aggregator.store.duckdb_store import StoreError

# Of what was missed, so many are shown.
_MISSED: Final = 20
_BUILD_AGAIN_MS: Final = 60_000
_RECORD_AGAIN_SECONDS: Final = 10.0
_SETTLE_SECONDS: Final = 120.0
# What is to be tried again later than that was noted while the clock was ahead.
_FURTHEST_TRY_MS: Final = 86_400_000 + 60_000
_AT_ONCE: Final = 4
_DAY_MS: Final = 86_400_000
_GONE: Final = "it is not in the file of reports any more"

_log = logging.getLogger(__name__)

Values = ParamSpec("Values")


class Runs:
    """What is done about the schedules. All of it is recorded before it is done, so that it can be stopped anywhere."""

    def __init__(
        self, file: ReportFile, state: ReportState, fleet: Fleet, links: Links, data_dir: Path, clock: Clock
    ) -> None:
        """Takes what is scheduled, where to record, whom to ask, where links lead, where to cache, and the clock."""
        self.state = state
        self.settle_seconds = _SETTLE_SECONDS
        self._file, self._fleet, self._links, self._clock = file, fleet, links, clock
        self._cache = data_dir / "cache" / "matplotlib"
        self._in_hand: dict[int, asyncio.Task[None]] = {}
        self._started, self._started_at = clock(), time.monotonic()

    async def stop(self) -> None:
        """Ends what is being sent. It is sent again when the program starts anew."""
        tasks = list(self._in_hand.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self.state.close)

    async def note_due(self) -> None:
        """Records what was due. Raises sqlite3.Error."""
        for schedule in self._file.reports:
            await asyncio.to_thread(self._note_due, schedule)

    def _note_due(self, schedule: Schedule) -> None:
        now = self._clock()
        timing = f"{schedule.cron.text} {schedule.time_zone.key}"
        grace_ms = round(schedule.misfire_grace * 1_000)
        self.state.note_due(
            schedule.name, timing, now, lambda looked: plan(schedule.timing, looked, now, grace_ms, _MISSED + 1)
        )

    async def build_due(self) -> None:
        """Builds what is recorded and not built. Raises sqlite3.Error."""
        now = self._clock()
        for run in await asyncio.to_thread(self.state.runs_to_build):
            if _is_time(run.next_try, now) and not self._is_settling(run):
                await self._build(run)

    def _is_settling(self, run: Run) -> bool:
        """What was due before the start waits until the agents have reported again, or all hosts would be silent."""
        return run.due < self._started and time.monotonic() - self._started_at < self.settle_seconds

    async def _build(self, run: Run) -> None:
        schedule = self._file.schedule(run.schedule)
        if schedule is None:
            await asyncio.to_thread(self.state.not_built, run.id, _GONE, None)
            return
        try:
            last = await asyncio.to_thread(self.state.last_delivered, schedule.name, run.id)
            report = await self._report(schedule, run.due, last)
        except (StoreError, TookTooLong, Overloaded) as error:
            await self._not_built(run, schedule, str(error))
        except Exception as error:  # a report is no reason to end the aggregator
            _log.exception("report %s can not be built", run.schedule, extra=fields(report=run.schedule))
            await self._not_built(run, schedule, f"{type(error).__name__}: {error}", said=True)
        else:
            heading = f"{view.title(report)}: {view.headline(report)}"
            await asyncio.to_thread(
                self.state.built,
                run.id,
                self._clock(),
                heading,
                report.SerializeToString(),
                targets_of(schedule),
            )
            _log.info("report %s is built: %s", run.schedule, view.headline(report), extra=fields(report=run.schedule))

    async def _not_built(self, run: Run, schedule: Schedule, error: str, said: bool = False) -> None:
        now = self._clock()
        late = now - run.due > schedule.misfire_grace * 1_000
        if not said and not run.error:
            _log.warning(
                "report %s can not be built: %s%s",
                run.schedule,
                error,
                "" if late else "; tried again every minute",
                extra=fields(report=run.schedule, reason=error),
            )
        await asyncio.to_thread(self.state.not_built, run.id, error, None if late else now + _BUILD_AGAIN_MS)

    async def build_now(self, schedule: Schedule) -> pb.FleetReport:
        """Builds a report as it would be sent now. Raises as the methods of Fleet do, and sqlite3.Error."""
        last = await asyncio.to_thread(self.state.last_delivered, schedule.name)
        return await self._report(schedule, self._clock(), last)

    async def _report(self, schedule: Schedule, due: int, last: bytes | None) -> pb.FleetReport:
        before = None if last is None else before_of(pb.FleetReport.FromString(last))
        now = self._clock()
        order = Order(
            title=schedule.title,
            start=_start(schedule, due, before, now),
            end=now,
            labels=dict(schedule.labels),
            limit=schedule.limit,
            next_due=next_due(schedule.timing, max(now, due)),
        )
        return await build(self._fleet, self._links, order, before)

    async def deliver_due(self, wake: Callable[[], None]) -> float:
        """Begins what is to be delivered now; `wake` is called when one has ended. Raises sqlite3.Error.

        Returns:
            In how many seconds the next is to be tried; infinite where there is none.
        """
        now = self._clock()
        seconds = float("inf")
        for delivery, run in await asyncio.to_thread(self.state.open_deliveries):
            if delivery.id in self._in_hand:
                continue
            if not _is_time(delivery.next_try, now):
                seconds = min(seconds, (delivery.next_try - now) / 1_000)
            elif len(self._in_hand) < _AT_ONCE:
                task = asyncio.create_task(self._deliver(delivery, run))
                self._in_hand[delivery.id] = task
                task.add_done_callback(partial(self._ended, delivery.id, wake))
        return max(0.1, seconds)

    def _ended(self, delivery: int, wake: Callable[[], None], task: asyncio.Task[None]) -> None:
        del self._in_hand[delivery]
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        wake()

    async def _deliver(self, delivery: Delivery, run: Run) -> None:
        schedule = self._file.schedule(run.schedule)
        if schedule is None or delivery.target not in targets_of(schedule):
            await self._record(self.state.not_delivered, delivery.id, _GONE, None)
            return
        await self._record(self.state.sending, delivery.id, self._clock())
        try:
            await deliver(await self._outgoing(delivery, run, schedule), delivery.target, schedule, self._file)
        except DeliveryError as error:
            await self._not_delivered(delivery, run, error)
        except Exception as error:  # nor is a delivery
            _log.exception("report %s can not be delivered", run.schedule, extra=fields(report=run.schedule))
            await self._not_delivered(delivery, run, DeliveryError(f"{type(error).__name__}: {error}"))
        else:
            await self._record(self.state.delivered, delivery.id, self._clock())
            _log.info(
                "report %s is delivered: %s",
                run.schedule,
                delivery.target,
                extra=fields(report=run.schedule, target=delivery.target),
            )

    async def _outgoing(self, delivery: Delivery, run: Run, schedule: Schedule) -> Outgoing:
        content = await asyncio.to_thread(self.state.report, run.id)
        if content is None:
            raise DeliveryError("what it says is not kept any more", final=True)
        report = pb.FleetReport.FromString(content)
        forms = forms_for(delivery.target, schedule)
        try:
            files = await render_apart(report, forms, self._cache) if forms else {}
        except RenderError as error:
            raise DeliveryError(str(error)) from None
        identity = delivery_id(self.state.installation, run.schedule, run.due, delivery.target)
        return Outgoing(report, files, run.schedule, run.due, identity)

    async def _not_delivered(self, delivery: Delivery, run: Run, error: DeliveryError) -> None:
        attempts = delivery.attempts + 1
        wait = wait_seconds(attempts, error)
        facts = fields(report=run.schedule, target=delivery.target, reason=error)
        what = f"report {run.schedule} is not delivered: {delivery.target}: {error}"
        if wait is None:
            _log.error("%s; given up after %d tries", what, attempts, extra=facts)
        elif attempts == 1:
            _log.warning("%s; tried again in %s, and for a day", what, format_duration(wait), extra=facts)
        next_try = None if wait is None else self._clock() + round(wait * 1_000)
        await self._record(self.state.not_delivered, delivery.id, str(error), next_try)

    async def _record(self, method: Callable[Values, None], *values: Values.args, **named: Values.kwargs) -> None:
        """Records, however often that takes: what was sent and is not recorded would be sent again."""
        said = False
        while True:
            try:
                return await asyncio.to_thread(method, *values, **named)
            except sqlite3.Error as error:
                if not said:
                    _log.error("what became of a report can not be recorded: %s", error, extra=fields(reason=error))
                said = True
                await asyncio.sleep(_RECORD_AGAIN_SECONDS)


def _is_time(next_try: int, now: int) -> bool:
    """Also where it was noted by a clock that was ahead."""
    return next_try <= now or next_try > now + _FURTHEST_TRY_MS


def _start(schedule: Schedule, due: int, before: Before | None, now: int) -> int:
    """When the period of a report begins: where the last one ended, or else when one was due before."""
    if schedule.period is not None:
        return now - round(schedule.period * 1_000)
    if before is not None and before.time < now:
        return before.time
    # Two, since `due` itself is one of them where a run is built.
    dues = latest_dues(schedule.timing, due - 366 * _DAY_MS, due, 2)
    earlier = [one for one in dues if one < due]
    return min(earlier[-1] if earlier else now - _DAY_MS, now - 1)
