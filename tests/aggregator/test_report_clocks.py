"""Clocks that are set, and clocks of zones that are put forward and back: no report is lost by that, or doubled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.metrics.of_fleet import _reports
from loiter_aggregator.output.reports import schedules_page
from loiter_aggregator.reports.cron import parse_cron
from loiter_aggregator.reports.deliveries import _wait_ms
from loiter_aggregator.reports.delivery.failure import DeliveryError, wait_seconds
from loiter_aggregator.reports.due import Timing, plan
from loiter_aggregator.reports.listing import list_runs
from loiter_aggregator.reports.state import Delivery, ReportState, Run
from loiter_aggregator.reports.uptime import Uptime, uptime
from loiter_aggregator.web.pages.reports import _runs
from support.reports import HOUR, MINUTE, NOW, SECOND, stamp

DAY = 24 * HOUR
HOURLY = Timing(parse_cron("0 * * * *"), ZoneInfo("UTC"))  # NOW is such a time
DAILY = Timing(parse_cron("0 8 * * *"), ZoneInfo("UTC"))  # and of this one


_BUSY = DeliveryError("answered 503")


def _named(run: Run) -> tuple[int, int]:
    """How many hours from NOW a report was due, and which edition it is."""
    return (run.due - NOW) // HOUR, run.edition


@dataclass
class _Machine:
    """A machine whose clock can be set while time passes, with an aggregator that builds at once.

    Whoever it sends to takes it at once, too, or `answers` otherwise: nothing for long, or that it is busy.
    """

    folder: Path
    timing: Timing
    wall: int = NOW - HOUR // 2
    up: int = 0
    boot: str = "first"
    grace: int = DAY
    answers: Literal["taken", "busy", "nothing"] = "taken"

    def __post_init__(self) -> None:
        self.state = self._open()
        self.sent: list[tuple[int, int]] = []
        self.arrived: list[tuple[int, int]] = []
        self.tried: list[tuple[tuple[int, int], int]] = []

    def _open(self) -> ReportState:
        return ReportState(self.folder, lambda: Uptime(self.boot, self.up))

    def passes(self, until: int, step: int = 5 * MINUTE) -> None:
        """Time passes until the clock says that; the aggregator looks now and then, and right then."""
        while self.wall < until:
            moved = min(step, until - self.wall)
            self.wall += moved
            self.up += moved
            self.look()

    def set(self, wall: int) -> None:
        """The clock is set, and seen."""
        self.wall = wall
        self.look()

    def restart(self) -> None:
        """The machine starts anew; how long that takes nobody knows."""
        self.state.close()
        self.boot, self.up = f"after {self.boot}", 0
        self.state = self._open()

    def look(self) -> None:
        state, now = self.state, self.wall
        state.note_due("r", "t", now, lambda looked: plan(self.timing, looked, now, self.grace, 21))
        for run in state.runs_to_build(now):
            state.built(run.id, now, "said", b"%d" % now, ("webhook x",))
            self.sent.append(_named(run))
        for delivery, run in state.open_deliveries():
            if _wait_ms(delivery, run, now) == 0:
                began = state.sending(delivery.id, now)
                self.tried.append((_named(run), now - NOW))
                if self.answers == "taken":
                    state.delivered(delivery.id, now)
                    self.arrived.append(_named(run))
                elif self.answers == "busy":
                    self.fails(delivery, began)

    def fails(self, delivery: Delivery, began: int, error: DeliveryError = _BUSY) -> None:
        """What is being sent comes to nothing, and is tried again."""
        wait = wait_seconds(delivery.attempts + 1, (self.wall - began) / 1_000, error)
        next_try = None if wait is None else self.wall + round(wait * 1_000)
        self.state.not_delivered(delivery.id, str(error), next_try)

    def listed(self) -> list[tuple[int, str]]:
        """The runs, latest first: how many hours from NOW each was due, and what became of it."""
        return [((run.due - NOW) // HOUR, run.state) for run in self.state.latest_runs(100, self.wall)]


@pytest.fixture
def hourly(tmp_path: Path) -> Iterator[_Machine]:
    """One that reports every hour, since half an hour before NOW."""
    one = _Machine(tmp_path, HOURLY)
    one.look()
    yield one
    one.state.close()


@pytest.fixture
def daily(tmp_path: Path) -> Iterator[_Machine]:
    """One that reports every day."""
    one = _Machine(tmp_path, DAILY)
    one.look()
    yield one
    one.state.close()


def test_a_report_that_was_built_before_its_time_by_a_clock_that_was_ahead_is_built_again(hourly: _Machine) -> None:
    """When that time comes by the clock that was put right; and the first of the two says so."""
    hourly.passes(NOW + 5 * MINUTE)
    hourly.set(NOW + HOUR + 5 * MINUTE)
    hourly.passes(NOW + HOUR + 10 * MINUTE)
    hourly.set(NOW + 10 * MINUTE)
    assert hourly.sent == [(0, 0), (1, 0)]
    hourly.passes(NOW + HOUR - SECOND)
    assert hourly.sent == [(0, 0), (1, 0)]
    hourly.passes(NOW + 3 * HOUR)
    assert hourly.sent == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0)]
    early = hourly.state.latest_runs(9, hourly.wall)[3]
    assert (early.due, early.edition) == (NOW + HOUR, 0)
    assert early.error == "built 55m before its time, by a clock that was ahead; built again when that had come"


def test_it_compares_with_the_last_that_was_sent_at_its_time(hourly: _Machine) -> None:
    """That is kept, though another one was sent since."""
    hourly.passes(NOW)
    hourly.set(NOW + HOUR + MINUTE)
    hourly.set(NOW + MINUTE)
    assert hourly.state.last_delivered("r", hourly.wall) == b"%d" % NOW
    hourly.passes(NOW + HOUR)
    again = hourly.state.latest_runs(1, hourly.wall)[0]
    assert (again.due, again.edition) == (NOW + HOUR, 1)
    assert hourly.state.last_delivered("r", hourly.wall, again) == b"%d" % NOW


def test_what_is_still_to_be_sent_of_the_early_one_is_given_up(hourly: _Machine) -> None:
    """The one that takes its place is sent instead."""
    hourly.passes(NOW)
    hourly.set(NOW + HOUR + MINUTE)
    early = hourly.state.latest_runs(1, hourly.wall)[0]
    (delivery,) = hourly.state.deliveries(early.id)
    hourly.state.sending(delivery.id, hourly.wall)
    hourly.state.not_delivered(delivery.id, "answered 503", hourly.wall + MINUTE)
    hourly.set(NOW + MINUTE)
    assert hourly.state.open_deliveries()  # it may be that the clock is set ahead again
    hourly.arrived.clear()
    hourly.passes(NOW + HOUR)
    assert hourly.arrived == [(1, 1)]
    assert not hourly.state.open_deliveries()
    (given_up,) = hourly.state.deliveries(early.id)
    assert (given_up.state, given_up.error.partition(":")[0]) == ("failed", "not sent any more")


@pytest.mark.parametrize("restarts", [False, True])
def test_what_of_the_early_one_is_being_sent_is_given_up_when_that_fails(hourly: _Machine, restarts: bool) -> None:
    """Or when the program ends before: by then the one that takes its place has arrived."""
    hourly.passes(NOW)
    hourly.answers = "nothing"
    hourly.set(NOW + HOUR + MINUTE)
    hourly.set(NOW + MINUTE)
    (early,) = hourly.state.deliveries(hourly.state.latest_runs(1, hourly.wall)[0].id)
    assert early.state == "sending"
    hourly.answers = "taken"
    hourly.passes(NOW + HOUR)
    if restarts:
        hourly.restart()
    else:
        hourly.fails(early, NOW + HOUR - SECOND)
    assert not hourly.state.open_deliveries()
    hourly.passes(NOW + HOUR + 20 * MINUTE)
    assert hourly.arrived == [(0, 0), (1, 1)]
    (given_up,) = hourly.state.deliveries(early.run)
    assert (given_up.state, given_up.error.partition(":")[0]) == ("failed", "not sent any more")


def test_a_try_that_a_clock_that_was_ahead_noted_does_not_wait_for_it(hourly: _Machine) -> None:
    """It is made as the clock is put right. From then on the tries are further and further apart, as ever."""
    hourly.answers = "busy"
    hourly.set(NOW + 50 * MINUTE)
    hourly.set(NOW + MINUTE)
    hourly.passes(NOW + 30 * MINUTE, step=MINUTE)
    assert [time // MINUTE for _, time in hourly.tried] == [50, 1, 2, 7, 22]


def test_an_early_report_is_noted_and_has_not_failed(hourly: _Machine) -> None:
    """In the list, on the page and in the metrics, before its time comes and after."""
    hourly.passes(NOW)
    hourly.set(NOW + HOUR + MINUTE)
    hourly.set(NOW + MINUTE)
    notices = ["built before its time, by a clock that was ahead"]
    for until in (NOW + 2 * MINUTE, NOW + HOUR):
        hourly.passes(until)
        runs = list_runs(hourly.state, 9, hourly.wall)
        answer = pb.ListReportsResponse(schedules=[pb.ReportSchedule(name="r")], runs=runs)
        assert [run.notice for run in runs if run.notice] == notices[-1:]
        assert not any(run.error for run in runs)
        assert not any(row["failed"] for row in _runs(runs))
        (failed,) = (one for one in _reports(answer) if one.name == "loiter_report_builds_failed")
        assert [one.value for one in failed.samples] == [0]
        console = Console(width=200, file=StringIO())
        console.print(schedules_page(answer))
        assert isinstance(console.file, StringIO)
        assert f"r 2027-01-15 09:00: {notices[-1]}\n" in console.file.getvalue()
        assert "not built" not in console.file.getvalue()
        notices.append("built 59m before its time, by a clock that was ahead; built again when that had come")


@pytest.mark.parametrize("back", [2 * SECOND, 50 * SECOND])
def test_a_clock_that_is_put_right_by_seconds_doubles_nothing(hourly: _Machine, back: int) -> None:
    """As by a time server: who reads a report of nine does not mind half a minute."""
    hourly.passes(NOW + SECOND)
    hourly.set(NOW + SECOND - back)
    hourly.passes(NOW + HOUR)
    assert hourly.sent == [(0, 0), (1, 0)]


def test_what_was_sent_at_its_time_is_not_sent_again_by_a_clock_that_was_back_for_a_while(daily: _Machine) -> None:
    """As on a machine whose clock has no battery, and that starts with a time of long ago; nor is anything missed."""
    daily.passes(NOW + DAY + MINUTE)
    assert daily.sent == [(0, 0), (24, 0)]
    for restarts in (False, True):
        right = daily.wall + 10 * SECOND
        if restarts:
            daily.restart()
        daily.set(right - 40 * 60 * MINUTE)
        daily.up += 10 * SECOND
        daily.set(right)
        assert daily.sent == [(0, 0), (24, 0)]
        assert daily.listed() == [(24, "built"), (0, "built")]
    daily.passes(NOW + 2 * DAY)
    assert daily.sent == [(0, 0), (24, 0), (48, 0)]


def test_what_was_passed_over_while_the_clock_was_ahead_is_late_and_not_missed(daily: _Machine) -> None:
    """Today's is built as the clock is put right; those of the days to come when they come."""
    daily.set(NOW + 3 * DAY + HOUR)
    assert daily.listed() == [(72, "built"), (48, "missed"), (24, "missed"), (0, "missed")]
    daily.set(NOW + HOUR)
    assert daily.sent == [(72, 0), (0, 0)]
    # Its place is when it was built. Of what is to come nothing has been missed.
    assert daily.listed() == [(72, "built"), (0, "built")]
    daily.passes(NOW + DAY)
    assert daily.listed() == [(24, "built"), (72, "built"), (0, "built")]
    daily.passes(NOW + 4 * DAY, step=HOUR)
    assert daily.sent == [(72, 0), (0, 0), (24, 0), (48, 0), (72, 1), (96, 0)]
    assert daily.listed() == [(96, "built"), (72, "built"), (48, "built"), (24, "built"), (72, "built"), (0, "built")]


@pytest.mark.parametrize("days", [1, 20, 22, 400])
def test_however_far_the_clock_was_ahead_nothing_is_lost(daily: _Machine, days: int) -> None:
    """Though of what was passed over not all is listed."""
    daily.set(NOW + days * DAY + HOUR)
    daily.set(NOW + HOUR)
    assert daily.sent == [(24 * days, 0), (0, 0)]
    daily.passes(NOW + 2 * DAY, step=HOUR)
    assert daily.sent[2:] == ([(24, 1)] if days == 1 else [(24, 0)]) + [(48, 0)]


def test_an_hourly_report_is_not_lost_to_a_clock_that_was_a_day_ahead(hourly: _Machine) -> None:
    """There are more of them than are listed as missed."""
    hourly.set(NOW + DAY)
    hourly.set(NOW + MINUTE)
    hourly.passes(NOW + 2 * HOUR)
    assert hourly.sent == [(24, 0), (0, 0), (1, 0), (2, 0)]


def test_a_clock_that_is_ahead_again_and_again_loses_nothing(daily: _Machine) -> None:
    """Though what was passed over is before a report that the clock had built early the last time."""
    daily.set(NOW + 3 * DAY + HOUR)
    daily.set(NOW + HOUR)
    for day in (1, 2, 3):
        daily.passes(NOW + day * DAY - HOUR, step=HOUR)
        daily.set(NOW + 30 * DAY)
        daily.set(NOW + day * DAY + HOUR)
    # The first of 72 was too early, and the others were late.
    assert daily.sent == [(72, 0), (0, 0), (720, 0), (24, 0), (720, 1), (48, 0), (720, 2), (72, 1)]


def test_what_is_recorded_and_not_built_waits_for_its_time(daily: _Machine) -> None:
    """Where the clock is set back before it is built, as while the agents have yet to connect again."""
    daily.state.note_due("r", "t", NOW + DAY, lambda looked: plan(DAILY, looked, NOW + DAY, DAY, 21))
    daily.set(NOW + HOUR)
    assert daily.sent == [(0, 0)]
    daily.passes(NOW + DAY)
    assert daily.sent == [(0, 0), (24, 0)]


def test_after_a_restart_of_the_machine_what_was_sent_is_taken_to_have_been_right(hourly: _Machine) -> None:
    """Nobody can tell how its clock was set meanwhile."""
    hourly.passes(NOW)
    hourly.set(NOW + HOUR + MINUTE)
    hourly.set(NOW + MINUTE)
    hourly.restart()
    hourly.passes(NOW + 2 * HOUR)
    assert hourly.sent == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize(("begins", "apart"), [("2027-03-27T12:00", 23.5), ("2027-10-30T12:00", 25)])
def test_daylight_saving_neither_loses_nor_doubles_a_report(tmp_path: Path, begins: str, apart: float) -> None:
    """02:30 every day in Berlin, on the day that has none and on the one that has two; and every hour that passes."""
    start = round(datetime.fromisoformat(f"{begins}+00:00").timestamp() * 1_000)
    for cron, number in (("30 2 * * *", 2), ("15 * * * *", 48)):
        folder = tmp_path / str(number)
        folder.mkdir()
        machine = _Machine(folder, Timing(parse_cron(cron), ZoneInfo("Europe/Berlin")), wall=start)
        machine.look()
        machine.passes(start + 2 * DAY, step=20 * MINUTE)
        assert len(machine.sent) == number
        dues = sorted({run.due for run in machine.state.latest_runs(100, machine.wall)})
        assert {later - due for due, later in pairwise(dues)} == {round((apart if number == 2 else 1) * HOUR)}
        machine.state.close()


def test_the_clock_that_is_never_set_goes_on() -> None:
    """It is the kernel's, since the machine was started."""
    first, second = uptime(), uptime()
    assert first.boot == second.boot
    assert second.milliseconds >= first.milliseconds > 0


def test_a_report_that_was_built_again_has_a_row_of_its_own_on_the_page() -> None:
    """By a name that stays as others come: it is by that that the page is brought up to date."""
    again, first = (pb.ReportRun(schedule="r", due_time=stamp(NOW), title=title) for title in ("again", "first"))
    later = pb.ReportRun(schedule="r", due_time=stamp(NOW + HOUR))
    before, after = _runs([again, first]), _runs([later, again, first])
    assert len({str(row["id"]) for row in after}) == 3
    assert [row["id"] for row in after[1:]] == [row["id"] for row in before]
    assert _runs([first])[0]["id"] == before[1]["id"]
