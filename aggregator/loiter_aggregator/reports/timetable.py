"""Wakes when a report is due, by APScheduler.

When that is, its jobs take from the wall clock, which may be set: so they are looked at again every few seconds by a
clock that never steps, and put right. A job does no more than wake: what was due since the last look, and which of it
is to be built, is decided where it is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from loiter_aggregator.reports.due import Timing, next_due
from loiter_aggregator.reports.file import Schedule

LOOK_SECONDS: Final = 5.0


class DueTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires when a report is due, once for however many times have passed."""

    def __init__(self, timing: Timing) -> None:
        """Takes when that is."""
        self._timing = timing

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The next time after now, and after the one before."""
        after = now if previous_fire_time is None else max(now, previous_fire_time)
        due = next_due(self._timing, int(after.timestamp() * 1_000))
        return None if due is None else datetime.fromtimestamp(due / 1_000, UTC)


class Timetable:
    """The schedules, and when they are due next by the system's clock."""

    def __init__(self, schedules: Iterable[Schedule], wake: Callable[[], Any]) -> None:
        """Takes what to call in the event loop when one is due."""
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._triggers = {schedule.name: DueTrigger(schedule.timing) for schedule in schedules}
        for schedule in schedules:
            self._scheduler.add_job(
                _call,
                self._triggers[schedule.name],
                args=(wake,),
                id=schedule.name,
                misfire_grace_time=round(schedule.misfire_grace),
                coalesce=True,
                max_instances=1,
            )

    def start(self) -> None:
        """Starts."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stops."""
        self._scheduler.shutdown(wait=False)

    def put_right(self) -> None:
        """Puts the jobs right whose next time is not what the clock says now, as after it was set."""
        now = datetime.now(UTC)
        for name, trigger in self._triggers.items():
            due = trigger.get_next_fire_time(None, now)
            job = self._scheduler.get_job(name)
            if job is not None and due is not None and job.next_run_time > due:
                job.modify(next_run_time=due)


async def _call(wake: Callable[[], Any]) -> None:
    """In the event loop: APScheduler runs what is no coroutine in a thread."""
    await asyncio.sleep(0)
    wake()
