"""Reports of a real store, built when they are due and asked for, and delivered to a folder and a web server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.fleet.errors import InvalidRequest, NotFound
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.links import Links
from loiter_aggregator.reports.file import load_reports
from loiter_aggregator.reports.reporting import Reporting
from loiter_aggregator.reports.runs import Runs
from loiter_aggregator.reports.state import ReportState
from loiter_aggregator.reports.uptime import Uptime
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, store_samples
from support.fleet_reports import HOSTILE
from support.reports import HOUR, MINUTE, NOW, SECOND, explained, lasting, process, sample
from support.webhooks import receiver

STEP = 60 * SECOND


def _store_leak(store: DuckDbStore, host: str, app: str, since: int, until: int, per_step: int) -> None:
    """A process that leaks so many sockets in each step, and has descriptors for some more hours."""
    steps = range(since, until + 1, STEP)
    counts = [per_step * number for number in range(1, len(steps) + 1)]
    store_samples(
        store,
        host,
        [
            sample(
                at,
                count,
                processes=[explained(process(100, count, app=app, fd_open=500 + count, fd_limit=4_000))],
            )
            for at, count in zip(steps, counts, strict=True)
        ],
        interval_ms=STEP,
    )


def _fleet(store: DuckDbStore, clock: FakeClock) -> Fleet:
    return Fleet(store, clock, Counters(started=NOW))


def _reporting(store: DuckDbStore, clock: FakeClock, folder: Path, text: str = "") -> Reporting:
    file = folder / "reports.toml"
    file.write_text(text)
    return Reporting(load_reports(file), _fleet(store, clock), Links("https://loiter.example"), folder, clock, 0.0)


def _unscheduled(reporting: Reporting, period: int = HOUR) -> pb.FleetReport:
    request = pb.GetReportRequest(period=lasting(period))
    return asyncio.run(reporting.get_report(request)).report


def _said(report: pb.FleetReport) -> set[tuple[str, str, str]]:
    return {
        (
            pb.FindingKind.Name(one.kind).removeprefix("FINDING_KIND_"),
            pb.FindingChange.Name(one.change).removeprefix("FINDING_CHANGE_"),
            one.app or one.hostnames[0],
        )
        for one in report.findings
    }


def test_a_report_names_what_leaks_and_what_runs_out(store: DuckDbStore, clock: FakeClock, tmp_path: Path) -> None:
    """With the worst, why, and a link to each; by its name, whatever that is."""
    _store_leak(store, "web-1", HOSTILE, NOW - HOUR, NOW, 10)
    store_samples(store, "gone", [sample(NOW - 30 * MINUTE, 3)])
    report = _unscheduled(_reporting(store, clock, tmp_path))
    assert _said(report) == {
        ("CLOSE_WAIT_GROWTH", "UNSPECIFIED", HOSTILE),
        ("STUCK", "UNSPECIFIED", HOSTILE),
        ("FD_ETA", "UNSPECIFIED", HOSTILE),
        ("SILENT", "UNSPECIFIED", "gone"),
    }
    growth = next(one for one in report.findings if one.kind == pb.FINDING_KIND_CLOSE_WAIT_GROWTH)
    assert round(growth.figure) == 600
    assert list(growth.hostnames) == ["web-1"]
    assert growth.url.startswith("https://loiter.example/app?name=%3Cscript%3E")
    assert "window=1h" in growth.url
    assert not report.HasField("compared_time")
    assert report.apps[0].app == HOSTILE
    assert [one.hostname for one in report.hosts][:1] == ["web-1"]
    assert [(one.close_wait, one.processes) for one in report.causes] == [(610, 1)]
    assert (report.coverage.hosts, report.coverage.hosts_silent) == (2, 1)


class _MovingClock(FakeClock):
    """A clock that moves between any two looks at it, as all clocks do."""

    def __call__(self) -> int:
        """Reads it, a millisecond later."""
        self.now += 1
        return self.now


def test_a_report_is_of_now_though_the_clock_moves_while_it_is_built(store: DuckDbStore, tmp_path: Path) -> None:
    """The end of its period is past by then, and is not to be taken for a time of long ago, as of which is asked
    otherwise: a host whose samples come late has been heard of, and is not silent."""
    late = [sample(at - 5 * MINUTE, 1) for at in _hour()]
    for one in late:
        one.ports.add(source="10.0.0.1", destination="10.0.0.2:443", used=90, available=100)
    store_samples(store, "late", late, interval_ms=STEP, late_ms=5 * MINUTE)
    store_samples(store, "gone", [sample(at - 3 * HOUR, 1) for at in _hour()], interval_ms=STEP)
    reports = []
    for clock in (FakeClock(), _MovingClock()):
        report = _unscheduled(_reporting(store, clock, tmp_path))
        reports.append((_said(report), report.coverage, [one.hostname for one in report.hosts]))
    assert reports[0] == reports[1]
    assert reports[1][0] == {("SILENT", "UNSPECIFIED", "gone"), ("PORTS", "UNSPECIFIED", "late")}
    assert (reports[1][1].hosts, reports[1][1].hosts_silent) == (2, 1)


def test_an_empty_fleet_has_an_empty_report(store: DuckDbStore, clock: FakeClock, tmp_path: Path) -> None:
    """That is no error."""
    report = _unscheduled(_reporting(store, clock, tmp_path))
    assert not report.findings
    assert report.coverage.hosts == 0


def test_a_report_compares_with_the_period_before(store: DuckDbStore, clock: FakeClock, tmp_path: Path) -> None:
    """Where the store reaches back so far."""
    _store_leak(store, "web-1", "old.service", NOW - 2 * HOUR, NOW - HOUR - STEP, 10)
    store_samples(
        store,
        "web-1",
        [sample(at, 0, processes=[process(100, 0, app="old.service")]) for at in _hour()],
        interval_ms=STEP,
    )
    _store_leak(store, "web-2", "new.service", NOW - HOUR, NOW, 10)
    report = _unscheduled(_reporting(store, clock, tmp_path))
    assert report.HasField("compared_time")
    assert ("CLOSE_WAIT_GROWTH", "NEW", "new.service") in _said(report)
    assert ("CLOSE_WAIT_GROWTH", "RESOLVED", "old.service") in _said(report)


def _hour() -> range:
    return range(NOW - HOUR, NOW + 1, STEP)


def test_what_can_not_be_reported_is_said(store: DuckDbStore, clock: FakeClock, tmp_path: Path) -> None:
    """A schedule that is not there, a period that is too short, a limit that is too high."""
    reporting = _reporting(store, clock, tmp_path, DAILY.replace("FOLDER", str(tmp_path)))
    with pytest.raises(NotFound, match="no report is called 'weekly'; there are daily"):
        asyncio.run(reporting.get_report(pb.GetReportRequest(schedule="weekly")))
    with pytest.raises(InvalidRequest, match="period is not between 1m and 366d"):
        asyncio.run(reporting.get_report(pb.GetReportRequest(period=lasting(SECOND))))
    with pytest.raises(InvalidRequest, match="limit is over"):
        asyncio.run(reporting.list_reports(pb.ListReportsRequest(limit=5_000)))


DAILY = """
[[report]]
name = "daily"
cron = "0 8 * * *"
period = "1h"
formats = ["json"]
folder = "FOLDER/out"
"""


def test_reports_that_are_due_at_once_are_all_built_and_sent(
    store: DuckDbStore, clock: FakeClock, tmp_path: Path
) -> None:
    """Each once, under its own name."""
    text = "".join(DAILY.replace("daily", name).replace("FOLDER", str(tmp_path)) for name in ("one", "other", "third"))
    reporting = _reporting(store, clock, tmp_path, text)

    async def due() -> list[pb.ReportRun]:
        runs = await reporting._opened()
        for clock.now in (NOW - MINUTE, NOW, NOW + SECOND):
            await _round(runs)
        listed = await reporting.list_reports(pb.ListReportsRequest())
        await runs.stop()
        return list(listed.runs)

    listed = asyncio.run(due())
    assert sorted((run.schedule, run.deliveries[0].attempts) for run in listed) == [
        ("one", 1),
        ("other", 1),
        ("third", 1),
    ]
    assert sorted(file.name.partition("-")[0] for file in (tmp_path / "out").iterdir()) == ["one", "other", "third"]


def test_a_report_that_is_built_again_says_so_and_is_no_repetition(
    store: DuckDbStore, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers drop what they have had; this one is about another period, up to when it was due."""
    up = 0
    monkeypatch.setattr("loiter_aggregator.reports.state.uptime", lambda: Uptime("boot", up))
    _store_leak(store, "web-1", "api", NOW - 2 * HOUR, NOW, 10)
    with receiver() as hook:
        text = DAILY.replace('folder = "FOLDER/out"', 'webhooks = ["hook"]').replace("0 8 * * *", "0 * * * *")
        reporting = _reporting(store, clock, tmp_path, f'{text}\n[[webhook]]\nname = "hook"\nurl = "{hook.url}"\n')

        async def set_ahead_and_right() -> list[pb.ReportRun]:
            nonlocal up
            runs = await reporting._opened()
            # An hour before NOW comes at its time. Then the clock is half an hour ahead, until it is put right.
            for passed, clock.now in (
                (0, NOW - HOUR - MINUTE),
                (MINUTE, NOW - HOUR),
                (29 * MINUTE, NOW),
                (MINUTE, NOW - 29 * MINUTE),
                (29 * MINUTE, NOW),
            ):
                up += passed
                await _round(runs)
                if clock.now == NOW - 29 * MINUTE:
                    early, _ = (await reporting.list_reports(pb.ListReportsRequest())).runs
                    assert early.notice == "built before its time, by a clock that was ahead"
            listed = await reporting.list_reports(pb.ListReportsRequest())
            await runs.stop()
            return list(listed.runs)

        listed = asyncio.run(set_ahead_and_right())
    sent = [json.loads(one.body)["data"] for one in hook.came]
    assert len({one.headers["webhook-id"] for one in hook.came}) == len(sent) == 3
    assert [one["notice"] is None for one in sent] == [True, True, False]
    assert sent[2]["notice"].startswith("This report takes the place of one of the same time that was built too early")
    assert sent[2]["compared_time"] == sent[0]["end_time"]
    again, early, first = listed
    assert [one.due_time.ToMilliseconds() for one in listed] == [NOW, NOW, NOW - HOUR]
    assert early.notice == "built 30m before its time, by a clock that was ahead; built again when that had come"
    assert (again.notice, first.notice, *(one.error for one in listed)) == ("", "", "", "", "")


async def _round(runs: Runs) -> float:
    """Does what is due, to its end."""
    await runs.note_due()
    await runs.build_due()
    seconds = await runs.deliveries.begin_due(lambda: None)
    await runs.deliveries.ended()
    return seconds


def test_a_scheduled_report_is_built_once_and_compares_with_the_last(
    store: DuckDbStore, clock: FakeClock, tmp_path: Path
) -> None:
    """It lies in the folder under its due time; the next names what became of it."""
    file = tmp_path / "reports.toml"
    file.write_text(DAILY.replace("FOLDER", str(tmp_path)))
    _store_leak(store, "web-1", "api", NOW - HOUR, NOW, 10)

    async def days() -> None:
        runs = Runs(load_reports(file), ReportState(tmp_path), _fleet(store, clock), Links(), tmp_path, clock, 0.0)
        clock.now = NOW - MINUTE
        await _round(runs)
        clock.now = NOW
        await _round(runs)
        await _round(runs)
        clock.now = NOW + 24 * HOUR
        await _round(runs)
        await runs.stop()

    asyncio.run(days())
    files = sorted((tmp_path / "out").iterdir())
    assert [one.name for one in files] == ["daily-20270115T080000Z.json", "daily-20270116T080000Z.json"]
    first, second = (json.loads(one.read_text()) for one in files)
    assert {one["change"] for one in first["findings"]} == {None}
    assert first["next_time"] == "2027-01-16T08:00:00.000Z"
    assert second["compared_time"] == first["end_time"]
    # The host has been silent since: whether it leaks is not known.
    assert {(one["kind"], one["change"]) for one in second["findings"]} == {
        ("silent", "new"),
        ("close_wait_growth", "not_known"),
        ("stuck", "not_known"),
        ("fd_eta", "not_known"),
    }


def test_what_is_due_by_the_start_or_soon_after_it_waits_for_the_agents(
    store: DuckDbStore, clock: FakeClock, tmp_path: Path
) -> None:
    """Or every host would be silent in it: the agents have yet to connect again."""
    file = tmp_path / "reports.toml"
    file.write_text(DAILY.replace("FOLDER", str(tmp_path)))

    async def starts() -> list[str]:
        states = []
        day = 24 * HOUR
        # While it runs, while it is down, and right after a start.
        for nows, settle in (
            ((NOW - MINUTE,), 120.0),
            ((NOW + HOUR,), 120.0),
            ((NOW + HOUR,), 0.0),
            ((NOW + day - SECOND, NOW + day + SECOND), 120.0),
            ((NOW + day + MINUTE,), 0.0),
        ):
            clock.now = nows[0]
            state = ReportState(tmp_path)
            runs = Runs(load_reports(file), state, _fleet(store, clock), Links(), tmp_path, clock, settle)
            for clock.now in nows:
                await _round(runs)
            states.append(",".join(run.state for run in state.latest_runs(9, clock.now)))
            await runs.stop()
        return states

    assert asyncio.run(starts()) == ["", "due", "built", "due,built", "built,built"]


def test_a_delivery_that_fails_is_tried_again_and_shown(
    store: DuckDbStore, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When the other end wants it, under the same id; and it is said once, without the address."""
    caplog.set_level("DEBUG")
    busy = (503, {"retry-after": "7"})
    with receiver([busy, busy]) as hook:
        text = DAILY.replace('folder = "FOLDER/out"', 'webhooks = ["hook"]')
        file = tmp_path / "reports.toml"
        file.write_text(f'{text}\n[[webhook]]\nname = "hook"\nurl = "{hook.url}/hook/s3cret"\n')
        reporting = _reporting(store, clock, tmp_path, file.read_text())

        async def tries() -> list[pb.ReportRun]:
            clock.now = NOW - MINUTE
            runs = await reporting._opened()
            await _round(runs)
            shown = []
            for seconds in (0, 6, 7, 14):
                clock.now = NOW + seconds * SECOND
                await _round(runs)
                shown.append((await reporting.list_reports(pb.ListReportsRequest())).runs[0])
            await runs.stop()
            return shown

        first, same, second, last = asyncio.run(tries())
    assert first == same
    assert first.title == "Fleet report: nothing found"
    (delivery,) = first.deliveries
    assert (delivery.target, delivery.state, delivery.attempts) == ("webhook hook", pb.DELIVERY_STATE_WAITING, 1)
    assert delivery.error == "answered 503 Service Unavailable"
    assert delivery.next_attempt_time.ToMilliseconds() == NOW + 7 * SECOND
    assert second.deliveries[0].attempts == 2
    assert (last.deliveries[0].state, last.deliveries[0].error) == (pb.DELIVERY_STATE_DELIVERED, "")
    assert last.deliveries[0].delivered_time.ToMilliseconds() == NOW + 14 * SECOND
    assert len(hook.came) == 3
    assert len({one.headers["webhook-id"] for one in hook.came}) == 1
    assert caplog.text.count("is not delivered") == 1
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("ahead", [0, 10 * HOUR])
def test_a_report_that_can_not_be_summed_up_is_tried_again_in_a_minute(
    store: DuckDbStore, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Whatever goes wrong ends neither the others nor the aggregator. A clock that was ahead is not waited for."""
    reporting = _reporting(store, clock, tmp_path, DAILY.replace("FOLDER", str(tmp_path)))

    async def tries() -> list[tuple[str, str]]:
        clock.now = NOW - MINUTE
        runs = await reporting._opened()
        await _round(runs)
        clock.now = NOW + ahead
        shown: list[tuple[str, str]] = []
        with monkeypatch.context() as patched:
            patched.setattr("loiter_aggregator.reports.rendering.view.headline", _fails)
            await _round(runs)
            shown += [(run.state, run.error) for run in runs.state.latest_runs(1, clock.now)]
        if not ahead:
            clock.now = NOW + MINUTE - SECOND
            await _round(runs)
            assert runs.state.latest_runs(1, clock.now)[0].state == "due"
        clock.now = NOW + MINUTE
        await _round(runs)
        shown += [(run.state, run.error) for run in runs.state.latest_runs(1, clock.now)]
        await runs.stop()
        return shown

    assert asyncio.run(tries()) == [("due", "ValueError: no words for it"), ("built", "")]


def _fails(report: pb.FleetReport) -> str:
    del report
    raise ValueError("no words for it")


def test_a_redirect_is_not_followed_and_what_is_refused_is_given_up(
    store: DuckDbStore, clock: FakeClock, tmp_path: Path
) -> None:
    """At once, and said."""
    with receiver() as elsewhere, receiver([(307, {"location": elsewhere.url})]) as hook:
        text = DAILY.replace('folder = "FOLDER/out"', 'webhooks = ["hook"]')
        reporting = _reporting(store, clock, tmp_path, f'{text}\n[[webhook]]\nname = "hook"\nurl = "{hook.url}"\n')

        async def tries() -> pb.ReportDelivery:
            clock.now = NOW - MINUTE
            runs = await reporting._opened()
            await _round(runs)
            clock.now = NOW
            await _round(runs)
            listed = await reporting.list_reports(pb.ListReportsRequest())
            await runs.stop()
            return listed.runs[0].deliveries[0]

        delivery = asyncio.run(tries())
    assert delivery.state == pb.DELIVERY_STATE_FAILED
    assert delivery.error.startswith("answered 307 Temporary Redirect; it is not followed")
    assert (len(hook.came), len(elsewhere.came)) == (1, 0)
