"""What is wrong in a snapshot of a fleet, and how that compares with before."""

from __future__ import annotations

import pytest

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.reports.breach import breach_seconds, will_breach
from loiter_aggregator.reports.difference import Before, before_of, before_with, compare
from loiter_aggregator.reports.findings import Found, find
from loiter_aggregator.reports.known import key_of
from loiter_aggregator.reports.not_known import not_known
from loiter_aggregator.reports.snapshot import Period, Snapshot
from support.reports import HOUR, NOW, stamp

DAY = 24 * HOUR
GROWTH, STUCK = pb.FINDING_KIND_CLOSE_WAIT_GROWTH, pb.FINDING_KIND_STUCK
FD_ETA, PORTS = pb.FINDING_KIND_FD_ETA, pb.FINDING_KIND_PORTS
OVERFLOW, SILENT = pb.FINDING_KIND_TIME_WAIT_OVERFLOW, pb.FINDING_KIND_SILENT
NEW, WORSE, UNCHANGED = pb.FINDING_CHANGE_NEW, pb.FINDING_CHANGE_WORSE, pb.FINDING_CHANGE_UNCHANGED
BETTER, RESOLVED = pb.FINDING_CHANGE_BETTER, pb.FINDING_CHANGE_RESOLVED
UNKNOWN = pb.FINDING_CHANGE_UNSPECIFIED


def _app(
    name: str = "api",
    growth: float | None = None,
    fit: float | None = 0.99,
    stuck: int | None = None,
    eta: float | None = None,
    cause: sample_pb2.Cause.ValueType = sample_pb2.CAUSE_LEAK,
) -> pb.AppRank:
    trend = pb.CloseWaitTrend(current=500, maximum=500, growth_per_hour=growth, growth_fit=fit, samples=100)
    forecast = None if eta is None else pb.FdForecast(seconds=eta, earliest_seconds=eta / 2)
    return pb.AppRank(app=name, hosts=4, processes=8, close_wait=trend, stuck=stuck, fd_forecast=forecast, cause=cause)


def _process(
    host: str, app: str = "api", growth: float = 0, stuck: int | None = None, eta: float | None = None
) -> pb.ProcessRank:
    forecast = None if eta is None else pb.FdForecast(seconds=eta)
    trend = pb.CloseWaitTrend(current=10, growth_per_hour=growth)
    return pb.ProcessRank(host_id=host, hostname=host, app=app, close_wait=trend, stuck=stuck, fd_forecast=forecast)


def _snapshot(
    *apps: pb.AppRank,
    processes: tuple[pb.ProcessRank, ...] = (),
    hosts: tuple[pb.HostRank, ...] = (),
    silent: tuple[str, ...] = (),
    length: int = DAY,
) -> Snapshot:
    gone = [pb.SilentHost(host_id=name, hostname=name, last_report_time=stamp(NOW - HOUR)) for name in silent]
    return Snapshot(Period(NOW - length, NOW, {}), hosts, processes, apps, (), gone, pb.FleetCoverage())


def _kinds(found: list[Found]) -> list[pb.FindingKind.ValueType]:
    return [one.finding.kind for one in found if one.strong]


def test_an_application_that_leaks_on_many_hosts_is_one_finding_of_each_kind() -> None:
    """With the hosts that have it, the worst first, and not those that only run it."""
    found = find(
        _snapshot(
            _app(growth=600, stuck=480, eta=3_600),
            processes=(
                _process("web-1", growth=100, stuck=80, eta=9_000),
                _process("web-2", growth=500, stuck=400, eta=3_600),
                _process("web-3"),
                _process("db-1", app="other", growth=9),
            ),
        )
    )
    assert _kinds(found) == [GROWTH, STUCK, FD_ETA]
    growth, stuck, eta = (one.finding for one in found)
    assert growth.figure == 600
    assert list(growth.hostnames) == ["web-2", "web-1"]
    assert growth.hosts == 2
    assert list(stuck.hostnames) == ["web-2", "web-1"]
    assert list(eta.hostnames) == ["web-2", "web-1"]
    assert eta.summary == "api runs out of file descriptors on web-2 in 1h."
    assert growth.summary == "CLOSE_WAIT sockets of api grow by 600 an hour on 2 hosts, 500 now (leak)."


@pytest.mark.parametrize(
    "app",
    [
        _app(),
        _app(growth=600, fit=None),
        _app(growth=600, fit=0.3),
        _app(growth=4),
        _app(growth=-600),
        _app(growth=600, fit=0.75, cause=sample_pb2.CAUSE_IDLE_POOL),
        _app(stuck=5),
        _app(stuck=5_000, cause=sample_pb2.CAUSE_IDLE_POOL),
        _app(eta=30 * 86_400),
        _app(name="", growth=600),
    ],
)
def test_what_is_unknown_small_or_fits_no_line_is_no_finding(app: pb.AppRank) -> None:
    """Nor is a pool that lies idle."""
    assert find(_snapshot(app)) == []


def test_a_slope_in_a_short_period_has_to_come_to_something() -> None:
    """Of ten minutes, 24 sockets an hour are four."""
    assert _kinds(find(_snapshot(_app(growth=24)))) == [GROWTH]
    assert find(_snapshot(_app(growth=24), length=HOUR // 6)) == []


def test_hosts_have_findings_of_their_own() -> None:
    """Of one that is silent, that alone: its figures are old."""
    full = pb.HostRank(hostname="proxy", ports_share=0.9, time_wait_overflows=12)
    fine = pb.HostRank(hostname="fine", ports_share=0.3, time_wait_overflows=0)
    old = pb.HostRank(hostname="gone", ports_share=0.99, silent=True)
    found = find(_snapshot(hosts=(full, fine, old), silent=("gone",)))
    assert [(one.finding.kind, *one.finding.hostnames) for one in found] == [
        (PORTS, "proxy"),
        (OVERFLOW, "proxy"),
        (SILENT, "gone"),
    ]
    assert found[2].finding.figure == 3_600


def _finding(
    kind: pb.FindingKind.ValueType = GROWTH, name: str = "api", figure: float | None = 100, *hosts: str
) -> pb.Finding:
    of_host = kind in (PORTS, OVERFLOW, SILENT)
    return pb.Finding(
        kind=kind, app="" if of_host else name, hostnames=hosts or ([name] if of_host else ["web-1"]), figure=figure
    )


def _changes(now: list[Found], before: list[pb.Finding] | None) -> list[tuple[pb.FindingChange.ValueType, str]]:
    against = None if before is None else before_with(NOW - DAY, before)
    return [(one.change, key_of(one)[1]) for one in compare(now, against, {})]


def test_findings_are_new_worse_unchanged_better_or_resolved() -> None:
    """In that order, and those that end soonest first in each."""
    now = [
        Found(_finding(name="same", figure=110), strong=True),
        Found(_finding(name="less", figure=20), strong=True),
        Found(_finding(name="more", figure=200), strong=True),
        Found(_finding(name="fresh"), strong=True),
        Found(_finding(FD_ETA, "fresh", 600), strong=True),
    ]
    before = [_finding(name=name) for name in ("same", "less", "more", "over")]
    assert _changes(now, before) == [
        (NEW, "fresh"),
        (NEW, "fresh"),
        (WORSE, "more"),
        (UNCHANGED, "same"),
        (BETTER, "less"),
        (RESOLVED, "over"),
    ]
    assert compare(now, before_with(NOW - DAY, before), {})[0].kind == FD_ETA


@pytest.mark.parametrize(
    ("kind", "before", "now", "change"),
    [
        (GROWTH, 100, 124, UNCHANGED),
        (GROWTH, 100, 126, WORSE),
        (GROWTH, 10, 14, UNCHANGED),
        (STUCK, 1_000, 700, BETTER),
        (FD_ETA, 36_000, 20_000, WORSE),
        (FD_ETA, 36_000, 90_000, BETTER),
        (FD_ETA, 900, 500, UNCHANGED),
        (PORTS, 0.75, 0.82, WORSE),
        (PORTS, 0.75, 0.78, UNCHANGED),
        (SILENT, 3_600, 90_000, UNCHANGED),
    ],
)
def test_noise_is_neither_worse_nor_better(
    kind: pb.FindingKind.ValueType, before: float, now: float, change: pb.FindingChange.ValueType
) -> None:
    """A figure has to move by a quarter, and by something; of seconds left, fewer are worse."""
    found = [Found(_finding(kind, "x", now), strong=True)]
    assert _changes(found, [_finding(kind, "x", before)]) == [(change, "x")]


def test_what_hovers_around_a_limit_does_not_come_and_go() -> None:
    """Below where a finding begins, it goes on if it was there, and else is none."""
    app = _app(growth=7, fit=0.5)
    weak = find(_snapshot(app))
    assert [one.strong for one in weak] == [False]
    assert _changes(weak, []) == []
    assert _changes(weak, None) == []
    assert _changes(weak, [_finding(name="api", figure=8)]) == [(UNCHANGED, "api")]


def test_nothing_is_new_where_there_is_nothing_to_compare_with() -> None:
    """It is not said how it compares."""
    assert _changes([Found(_finding(), strong=True)], None) == [(UNKNOWN, "api")]


def test_what_was_on_a_host_that_is_silent_now_is_not_resolved() -> None:
    """Whether it goes on is not known; once it is seen again, it is what it was."""
    was = _finding(PORTS, "proxy", 0.8)
    silent = Found(_finding(SILENT, "proxy", 60), strong=True)
    before = before_with(NOW - DAY, [was])
    (found, gone) = compare([silent], before, not_known(before, _snapshot(silent=("proxy",))))
    assert (found.change, found.kind) == (NEW, SILENT)
    assert (gone.change, gone.kind) == (UNKNOWN, PORTS)
    assert not gone.HasField("figure")
    assert gone.before == 0.8
    assert "not known whether this goes on: proxy is silent" in gone.summary
    later = before_of(pb.FleetReport(end_time=stamp(NOW), findings=[found, gone]))
    assert later == Before(NOW, {key_of(found): found, key_of(gone): gone}, frozenset({"proxy"}))
    again = compare([Found(_finding(PORTS, "proxy", 0.81), strong=True)], later, {})
    assert [(one.change, one.kind, one.before) for one in again] == [(UNCHANGED, PORTS, 0.8), (RESOLVED, SILENT, 60)]


def test_what_a_host_has_that_was_silent_before_is_not_new() -> None:
    """It may have had it all the time."""
    before = [_finding(SILENT, "proxy", 60)]
    assert _changes([Found(_finding(PORTS, "proxy", 0.9), strong=True)], before) == [
        (UNKNOWN, "proxy"),
        (RESOLVED, "proxy"),
    ]


def test_what_was_resolved_is_not_resolved_again() -> None:
    """The next report does not name it."""
    (over,) = compare([], before_with(NOW - DAY, [_finding()]), {})
    assert over.change == RESOLVED
    assert compare([], before_of(pb.FleetReport(end_time=stamp(NOW), findings=[over])), {}) == []


def test_since_when_is_remembered() -> None:
    """The figures of the report before reached further back."""
    was = _finding()
    was.since_time.CopyFrom(stamp(NOW - 5 * DAY))
    (now,) = compare([Found(_finding(), strong=True)], before_with(NOW - DAY, [was]), {})
    assert now.since_time == stamp(NOW - 5 * DAY)


def _report(*findings: pb.Finding, next_in: int | None = DAY) -> pb.FleetReport:
    return pb.FleetReport(
        start_time=stamp(NOW - HOUR),
        end_time=stamp(NOW),
        compared_time=stamp(NOW - DAY),
        next_time=None if next_in is None else stamp(NOW + next_in),
        findings=findings,
    )


def test_what_runs_out_before_the_next_report_is_told_soonest_first() -> None:
    """Descriptors by their forecast, ports by how they went since the report before."""
    ports = _finding(PORTS, "proxy", 0.9)
    ports.before = 0.7  # 0.2 a day: the rest in half a day
    slow = _finding(PORTS, "slow", 0.72)
    slow.before = 0.71
    falling = _finding(PORTS, "falling", 0.72)
    falling.before = 0.9
    report = _report(_finding(FD_ETA, "late", 90_000), ports, slow, falling, _finding(FD_ETA, "soon", 3_600))
    assert [(round(seconds), key_of(one)[1]) for seconds, one in will_breach(report)] == [
        (3_600, "soon"),
        (43_200, "proxy"),
    ]
    assert breach_seconds(_finding(PORTS, "full", 1), report) == 0
    assert breach_seconds(_finding(PORTS, "unknown", 0.9), report) is None
    # Without a next report, within as long as the period was.
    assert not will_breach(_report(_finding(FD_ETA, "soon", 3_601), next_in=None))
