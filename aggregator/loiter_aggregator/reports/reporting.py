"""Builds reports when they are due or asked for, and sees to it that they arrive."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from loiter.durations import format_duration
from loiter.limits import MAX_WINDOW_SECONDS
from loiter.logs import fields
from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import Clock, from_duration
from loiter_aggregator.fleet.errors import InvalidRequest, NotFound, Unavailable
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.fleet.requests import read_labels
from loiter_aggregator.links import Links
from loiter_aggregator.reports.building import Order, build_unscheduled, shortened
from loiter_aggregator.reports.file import ReportFile
from loiter_aggregator.reports.listing import list_runs, list_schedules
from loiter_aggregator.reports.runs import Runs
from loiter_aggregator.reports.state import FILE, ReportState
from loiter_aggregator.reports.timetable import LOOK_SECONDS, Timetable

_DEFAULT_PERIOD_MS: Final = 86_400_000
_MIN_PERIOD_MS: Final = 60_000
_ROWS: Final = 10
_DEFAULT_RUNS: Final = 20
_MAX_RUNS: Final = 1_000
_SETTLE_SECONDS: Final = 120.0

_log = logging.getLogger(__name__)


class Reporting:
    """The reports of a fleet."""

    def __init__(
        self,
        file: ReportFile,
        fleet: Fleet,
        links: Links,
        data_dir: Path,
        clock: Clock,
        settle_seconds: float = _SETTLE_SECONDS,
    ) -> None:
        """Takes what is scheduled, whom to ask, where links lead, the folder to keep the state in, and the clock.

        After the start, reports that are due wait for so many seconds until the agents have reported again.
        """
        self._settle_seconds = settle_seconds
        self._file, self._fleet, self._links, self._data_dir, self._clock = file, fleet, links, data_dir, clock
        self._opening = asyncio.Lock()
        self._runs: Runs | None = None
        self._woken = asyncio.Event()
        self._troubled = False

    async def run(self) -> None:
        """Builds what is due and delivers it, until it is cancelled. Then what is being sent is waited for a while."""
        if not self._file.reports and not (self._data_dir / FILE).exists():
            await asyncio.Event().wait()  # nothing is scheduled, nor is anything of before on its way
        timetable = Timetable(self._file.reports, self._woken.set)
        timetable.start()
        try:
            while True:
                self._woken.clear()
                seconds = await self._look()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), seconds)
                timetable.put_right()
        finally:
            timetable.stop()
            if self._runs is not None:
                await self._runs.stop()
                self._runs = None  # it may be run again

    async def _look(self) -> float:
        """Does what is to be done now. Returns after how many seconds to look again, at the latest."""
        try:
            runs = await self._opened()
            await runs.note_due()
            seconds = min(await runs.build_due(), await runs.deliveries.begin_due(self._woken.set))
        except (sqlite3.Error, OSError) as error:
            if not self._troubled:
                _log.error(
                    "what became of reports can not be recorded, so none is sent: %s", error, extra=fields(reason=error)
                )
            self._troubled = True
            return LOOK_SECONDS
        if self._troubled:
            _log.info("what becomes of reports is recorded again")
        self._troubled = False
        return min(LOOK_SECONDS, seconds)

    async def get_report(self, request: pb.GetReportRequest) -> pb.GetReportResponse:
        """Builds a report as it would be sent now. Raises as the methods of Fleet do."""
        if not request.schedule:
            return pb.GetReportResponse(report=await self._unscheduled(request))
        schedule = self._file.schedule(request.schedule)
        if schedule is None:
            names = ", ".join(one.name for one in self._file.reports)
            there_are = f"there are {names}" if names else "none is scheduled (reports.file of the aggregator)"
            raise NotFound(f"no report is called {printable(request.schedule)[:80]!r}; {there_are}")
        try:
            return pb.GetReportResponse(report=await (await self._opened()).build_now(schedule))
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"what became of earlier reports can not be read: {error}") from None

    async def _unscheduled(self, request: pb.GetReportRequest) -> pb.FleetReport:
        period = from_duration(request.period) or _DEFAULT_PERIOD_MS
        if not _MIN_PERIOD_MS <= period <= MAX_WINDOW_SECONDS * 1_000:
            raise InvalidRequest(
                f"period is not between {format_duration(_MIN_PERIOD_MS / 1_000)} and "
                f"{format_duration(MAX_WINDOW_SECONDS)}"
            )
        labels = read_labels(request.labels, "labels")
        now = self._clock()
        order = Order("Fleet report", now - period, now, labels, _ROWS)
        return shortened(await build_unscheduled(self._fleet, self._links, order))

    async def list_reports(self, request: pb.ListReportsRequest) -> pb.ListReportsResponse:
        """Lists what is scheduled, and the latest runs. Raises InvalidRequest."""
        if request.limit > _MAX_RUNS:
            raise InvalidRequest(f"limit is over {_MAX_RUNS:,} runs")
        schedules = await asyncio.to_thread(list_schedules, self._file, self._clock())
        if not self._file.reports:
            return pb.ListReportsResponse()
        try:
            state = (await self._opened()).state
            runs = await asyncio.to_thread(list_runs, state, request.limit or _DEFAULT_RUNS, self._clock())
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"what became of the reports can not be read: {error}") from None
        return pb.ListReportsResponse(schedules=schedules, runs=runs)

    async def _opened(self) -> Runs:
        async with self._opening:
            if self._runs is None:
                state = await asyncio.to_thread(ReportState, self._data_dir)
                self._runs = Runs(
                    self._file, state, self._fleet, self._links, self._data_dir, self._clock, self._settle_seconds
                )
            return self._runs
