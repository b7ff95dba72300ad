"""The runs of scheduled reports: records them when they are due, and builds them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from pathlib import Path
from typing import Final

from loiter.logs import fields
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import Clock
from loiter_aggregator.fleet.errors import Overloaded, TookTooLong
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.links import Links
from loiter_aggregator.reports.building import Order, build, shortened
from loiter_aggregator.reports.deliveries import GONE, Deliveries
from loiter_aggregator.reports.delivery.targets import targets_of
from loiter_aggregator.reports.difference import Before, before_of
from loiter_aggregator.reports.due import latest_dues, next_due, plan
from loiter_aggregator.reports.file import ReportFile, Schedule
from loiter_aggregator.reports.rendering import view
from loiter_aggregator.reports.state import ReportState, Run
from loiter_aggregator.store.duckdb_store import StoreError

# Of what was missed, the latest so many are shown, and the first.
_MISSED: Final = 20
_BUILD_AGAIN_MS: Final = 60_000
BUILT_AGAIN: Final = (
    "This report takes the place of one of the same time that was built too early, by a clock that was ahead."
)
_DAY_MS: Final = 86_400_000

_log = logging.getLogger(__name__)


class Runs:
    """What is done about the schedules. All of it is recorded before it is done, so that it can be stopped anywhere."""

    def __init__(
        self,
        file: ReportFile,
        state: ReportState,
        fleet: Fleet,
        links: Links,
        data_dir: Path,
        clock: Clock,
        settle_seconds: float,
    ) -> None:
        """Takes what is scheduled, where to record, whom to ask, where links lead, where to cache, and the clock.

        Nothing is built within so many seconds from now on, until the agents have reported again.
        """
        self.state = state
        self.deliveries = Deliveries(file, state, data_dir / "cache" / "matplotlib", clock)
        self._file, self._fleet, self._links, self._clock = file, fleet, links, clock
        self._settled_at = time.monotonic() + settle_seconds

    async def stop(self) -> None:
        """Waits a while for what is being sent, and closes the record."""
        await self.deliveries.stop()
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

    async def build_due(self) -> float:
        """Builds what is recorded and not built. Raises sqlite3.Error.

        Returns:
            In how many seconds the agents will have reported again; until then every host would be silent in it.
        """
        unsettled = self._settled_at - time.monotonic()
        if unsettled > 0:
            return unsettled
        now = self._clock()
        for run in await asyncio.to_thread(self.state.runs_to_build, now):
            # What is further away was noted by a clock that was ahead.
            if not now < run.next_try <= now + _BUILD_AGAIN_MS:
                await self._build(run)
        return float("inf")

    async def _build(self, run: Run) -> None:
        schedule = self._file.schedule(run.schedule)
        if schedule is None:
            _log.warning("report %s is not built: %s", run.schedule, GONE, extra=fields(report=run.schedule))
            await asyncio.to_thread(self.state.not_built, run.id, GONE, None)
            return
        try:
            last = await asyncio.to_thread(self.state.last_delivered, schedule.name, self._clock(), run)
            report = await self._report(schedule, run.due, last)
            if run.edition:
                report.notice = BUILT_AGAIN
            said, content = await asyncio.to_thread(_written, report)
        except sqlite3.Error:
            raise
        except (StoreError, TookTooLong, Overloaded) as error:
            await self._not_built(run, schedule, str(error))
        except Exception as error:  # a report is no reason to end the aggregator
            _log.exception("report %s can not be built", run.schedule, extra=fields(report=run.schedule))
            await self._not_built(run, schedule, f"{type(error).__name__}: {error}", said=True)
        else:
            heading = f"{view.title(report)}: {said}"
            await asyncio.to_thread(self.state.built, run.id, self._clock(), heading, content, targets_of(schedule))
            _log.info("report %s is built: %s", run.schedule, said, extra=fields(report=run.schedule))

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
        now = self._clock()
        last = await asyncio.to_thread(self.state.last_delivered, schedule.name, now)
        return shortened(await self._report(schedule, now, last))

    async def _report(self, schedule: Schedule, due: int, last: bytes | None) -> pb.FleetReport:
        order, before = await asyncio.to_thread(_order, schedule, due, last, self._clock())
        return await build(self._fleet, self._links, order, before)


def _order(schedule: Schedule, due: int, last: bytes | None, now: int) -> tuple[Order, Before | None]:
    """What report to build, and what the last one says to compare it with."""
    before = None if last is None else before_of(pb.FleetReport.FromString(last))
    order = Order(
        title=schedule.title,
        start=_start(schedule, due, before, now),
        end=now,
        labels=dict(schedule.labels),
        limit=schedule.limit,
        next_due=next_due(schedule.timing, max(now, due)),
    )
    return order, before


def _written(report: pb.FleetReport) -> tuple[str, bytes]:
    """What is in a report in a few words, and all of it."""
    return view.headline(shortened(report)), report.SerializeToString()


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
