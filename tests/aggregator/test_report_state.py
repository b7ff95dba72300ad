"""What becomes of reports is recorded before it is done: a program that ends anywhere loses and doubles none."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from loiter_aggregator.reports.cron import parse_cron
from loiter_aggregator.reports.due import Timing, plan
from loiter_aggregator.reports.state import FILE, ReportState, Run
from support.reports import HOUR, NOW, SECOND

DAY = 24 * HOUR
DAILY = Timing(parse_cron("0 8 * * *"), ZoneInfo("UTC"))  # NOW is such a time
_EVER = NOW + 1_000 * DAY


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ReportState]:
    one = ReportState(tmp_path)
    yield one
    one.close()


def _look(state: ReportState, now: int, timing: str = "0 8 * * * UTC", grace: int = DAY) -> bool:
    """Looks. Returns whether there is more to be built than before."""
    before = state.runs_to_build(_EVER)
    state.note_due("daily", timing, now, lambda looked: plan(DAILY, looked, now, grace, 21))
    return state.runs_to_build(_EVER) != before


def _runs(state: ReportState, now: int = NOW + 30 * DAY) -> list[tuple[int, str]]:
    """How many days from NOW each was due, and what became of it."""
    return [((run.due - NOW) // DAY, run.state) for run in reversed(state.latest_runs(100, now))]


def test_a_schedule_begins_when_it_is_first_seen(state: ReportState) -> None:
    """What would have been due before was not; nor where its timing was changed."""
    assert not _look(state, NOW + SECOND)
    assert _look(state, NOW + DAY + SECOND)
    assert _runs(state) == [(1, "due")]
    # And put right by a second.
    for now in (NOW + 3 * DAY + SECOND, NOW + 3 * DAY):
        assert not _look(state, now, "0 9 * * * UTC")
    assert _runs(state) == [(1, "due")]


def test_a_run_is_recorded_once(state: ReportState, tmp_path: Path) -> None:
    """However often it is looked, also by a program that started anew."""
    _look(state, NOW - HOUR)
    assert _look(state, NOW)
    assert not _look(state, NOW)
    assert not _look(state, NOW + 2 * SECOND)
    state.close()
    other = ReportState(tmp_path)
    assert not _look(other, NOW + 2 * SECOND)
    assert [(run.schedule, run.due, run.state) for run in other.runs_to_build(NOW)] == [("daily", NOW, "due")]
    other.close()


def test_of_what_was_missed_the_latest_is_built_and_the_others_are_shown(state: ReportState) -> None:
    """As after three days of standstill."""
    _look(state, NOW - HOUR)
    assert _look(state, NOW + 3 * DAY + HOUR)
    assert _runs(state) == [(0, "missed"), (1, "missed"), (2, "missed"), (3, "due")]


def test_what_is_too_late_is_missed(state: ReportState) -> None:
    """It is recorded, and not built."""
    _look(state, NOW - HOUR)
    assert not _look(state, NOW + 2 * HOUR, grace=HOUR)
    assert _runs(state) == [(0, "missed")]
    assert not state.runs_to_build(NOW + DAY)


def test_a_clock_that_is_set_back_doubles_nothing_and_loses_nothing(state: ReportState) -> None:
    """By seconds, as by a time server; and by days."""
    _look(state, NOW - HOUR)
    assert _look(state, NOW + SECOND)
    assert not _look(state, NOW - SECOND)
    assert not _look(state, NOW + SECOND)
    assert not _look(state, NOW - 5 * DAY)
    assert _look(state, NOW - 4 * DAY)
    assert _look(state, NOW - 3 * DAY)
    assert _runs(state) == [(-4, "due"), (-3, "due"), (0, "due")]


def test_nothing_is_written_where_nothing_is_due(state: ReportState, tmp_path: Path) -> None:
    """A look every half a minute costs no disk."""
    _look(state, NOW - HOUR)
    log = tmp_path / f"{FILE}-wal"
    before = log.stat().st_size
    for seconds in range(0, 1_800, 30):
        _look(state, NOW - HOUR + seconds * SECOND)
    assert log.stat().st_size == before


def _built(state: ReportState, due: int = NOW, *targets: str) -> Run:
    state.note_due("daily", "t", due - HOUR, lambda looked: plan(DAILY, looked, due - HOUR, DAY, 2))
    state.note_due("daily", "t", due, lambda looked: plan(DAILY, looked, due, DAY, 2))
    (run,) = state.runs_to_build(due)
    state.built(run.id, due, "1 new", b"report of %d" % due, targets or ("folder /x", "webhook y"))
    return run


def test_what_was_being_sent_when_the_program_ended_is_sent_again(state: ReportState, tmp_path: Path) -> None:
    """What had arrived is not."""
    run = _built(state)
    (folder, _), (webhook, _) = state.open_deliveries()
    state.sending(folder.id, NOW)
    state.delivered(folder.id, NOW)
    state.sending(webhook.id, NOW)
    assert state.open_deliveries() == []
    state.close()  # the row says "sending", as after a kill
    other = ReportState(tmp_path)
    ((again, of_run),) = other.open_deliveries()
    assert (again.target, again.attempts, of_run.due) == ("webhook y", 1, NOW)
    assert other.report(run.id) == b"report of %d" % NOW
    assert other.installation == state.installation
    other.close()


def test_every_try_is_recorded_with_why_it_failed(state: ReportState) -> None:
    """The last says nothing: it went well."""
    _built(state, NOW, "webhook y")
    ((delivery, _),) = state.open_deliveries()
    assert state.sending(delivery.id, NOW) == NOW
    state.not_delivered(delivery.id, "answered 503", NOW + SECOND)
    assert state.sending(delivery.id, NOW + SECOND) == NOW  # when it was tried first
    state.delivered(delivery.id, NOW + SECOND)
    assert state.attempts(delivery.id) == [(NOW, "answered 503"), (NOW + SECOND, None)]
    (done,) = state.deliveries(delivery.run)
    assert (done.state, done.attempts, done.delivered, done.error) == ("delivered", 2, NOW + SECOND, "")


def test_a_report_compares_with_the_last_that_arrived(state: ReportState) -> None:
    """Not with one that was built and never seen by anybody; and not with itself."""
    first = _built(state, NOW, "folder /x")
    assert state.last_delivered("daily", NOW) is None
    ((delivery, _),) = state.open_deliveries()
    state.delivered(delivery.id, NOW)
    second = _built(state, NOW + DAY, "folder /x")
    assert state.last_delivered("daily", NOW + DAY, first) is None
    assert state.last_delivered("daily", NOW + DAY, second) == b"report of %d" % NOW
    ((late, _),) = state.open_deliveries()
    state.not_delivered(late.id, "full", None)
    third = _built(state, NOW + 2 * DAY, "folder /x")
    assert state.last_delivered("daily", NOW + 2 * DAY, third) == b"report of %d" % NOW


def test_what_reports_said_is_forgotten_once_nobody_needs_it(state: ReportState) -> None:
    """Of the last that arrived, and of those on their way, it is kept."""
    runs = []
    for day in range(4):
        runs.append(_built(state, NOW + day * DAY, "folder /x"))
        if day != 1:
            for delivery in state.deliveries(runs[-1].id):
                state.delivered(delivery.id, NOW)
    _built(state, NOW + 4 * DAY, "folder /x")
    assert [state.report(run.id) is not None for run in runs] == [False, True, False, True]


def _kept(state: ReportState, runs: list[Run]) -> list[bool]:
    return [state.report(run.id) is not None for run in runs]


def test_what_no_target_ever_took_is_not_kept(state: ReportState) -> None:
    """Once it is given up; what arrived last is, to be compared with."""
    runs = [_built(state, NOW, "folder /x")]
    state.delivered(state.deliveries(runs[0].id)[0].id, NOW)
    for day in range(1, 4):
        runs.append(_built(state, NOW + day * DAY, "webhook y"))
        state.not_delivered(state.deliveries(runs[-1].id)[0].id, "answered 503", None)
    _built(state, NOW + 4 * DAY, "webhook y")
    assert _kept(state, runs) == [True, False, False, False]


def test_what_is_on_its_way_is_not_forgotten_before_it_is_given_up(
    state: ReportState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many reports are due within a day; beyond all bounds, the oldest are. The last that arrived is kept."""
    monkeypatch.setattr("loiter_aggregator.reports.noting._KEPT_RUNS", 3)
    monkeypatch.setattr("loiter_aggregator.reports.noting._MOST_RUNS", 6)
    first = _built(state, NOW, "folder /x")
    state.delivered(state.deliveries(first.id)[0].id, NOW)
    runs = [_built(state, NOW + day * DAY, "webhook y") for day in range(1, 6)]
    assert [run.due for _, run in state.open_deliveries()] == [run.due for run in runs]
    runs += [_built(state, NOW + day * DAY, "webhook y") for day in range(6, 10)]
    assert [run.due for _, run in state.open_deliveries()] == [run.due for run in runs[-6:]]
    assert state.last_delivered("daily", NOW + 10 * DAY) == b"report of %d" % NOW
    for delivery, _ in state.open_deliveries():
        state.not_delivered(delivery.id, "answered 503", None)
    last = _built(state, NOW + 10 * DAY, "webhook y")
    assert [run.id for run in state.latest_runs(9, NOW + 10 * DAY)] == [last.id, runs[-1].id, runs[-2].id, first.id]


def test_the_database_is_for_its_owner_alone(state: ReportState, tmp_path: Path) -> None:
    """It says who talks to whom."""
    _look(state, NOW)
    for file in tmp_path.glob(f"{FILE}*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
