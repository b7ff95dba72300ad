"""What was found before and is not found any more: it is over, or not known."""

from __future__ import annotations

import asyncio

import pytest

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.links import Links
from loiter_aggregator.reports.building import Order, build, shortened
from loiter_aggregator.reports.difference import before_of, before_with, compare
from loiter_aggregator.reports.not_known import not_known
from loiter_aggregator.reports.snapshot import Period, Snapshot
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, store_samples
from support.reports import HOUR, MINUTE, NOW, explained, process, sample, stamp

GROWTH, STUCK, FD_ETA = pb.FINDING_KIND_CLOSE_WAIT_GROWTH, pb.FINDING_KIND_STUCK, pb.FINDING_KIND_FD_ETA
PORTS, OVERFLOW, SILENT = pb.FINDING_KIND_PORTS, pb.FINDING_KIND_TIME_WAIT_OVERFLOW, pb.FINDING_KIND_SILENT
FORGOTTEN = "nothing is kept of it any more"
NO_FIGURES = "there are no figures of it now"


def _of_app(kind: pb.FindingKind.ValueType, app: str, *hosts: str) -> pb.Finding:
    return pb.Finding(kind=kind, app=app, hostnames=hosts or ["web-1"], figure=1_000)


def _of_host(kind: pb.FindingKind.ValueType, host: str, figure: float = 0.9) -> pb.Finding:
    return pb.Finding(kind=kind, hostnames=[host], figure=figure)


def _snapshot(
    hosts: tuple[pb.HostRank, ...] = (),
    apps: tuple[pb.AppRank, ...] = (),
    silent: tuple[str, ...] = (),
    degraded: tuple[str, ...] = (),
    there: tuple[str, ...] = (),
) -> Snapshot:
    gone = [pb.SilentHost(hostname=name) for name in silent]
    period = Period(NOW - HOUR, NOW, {})
    names = frozenset((*there, *silent, *(host.hostname for host in hosts)))
    return Snapshot(period, hosts, (), apps, (), gone, pb.FleetCoverage(), frozenset(degraded), names)


def _why(was: pb.Finding, snapshot: Snapshot) -> str | None:
    return next(iter(not_known(before_with(NOW - HOUR, [was]), snapshot).values()), None)


def test_a_host_that_was_silent_reports_again_only_where_it_is_there() -> None:
    """One that the store has forgotten meanwhile has not come back."""
    was = _of_host(SILENT, "db-9", 86_400)
    assert _why(was, _snapshot(there=("db-9",))) is None
    assert _why(was, _snapshot(there=("db-8",))) == FORGOTTEN


def test_a_host_has_recovered_where_its_figures_say_so() -> None:
    """Not where it is silent, forgotten, without figures, or its agent leaves them out."""
    was, name = _of_host(PORTS, "proxy"), ("proxy",)
    assert _why(was, _snapshot((pb.HostRank(hostname="proxy", ports_share=0.1),))) is None
    assert _why(was, _snapshot((pb.HostRank(hostname="proxy"),))) is None  # it connects to nobody any more
    assert _why(was, _snapshot((pb.HostRank(hostname="proxy"),), degraded=name)) == NO_FIGURES
    assert _why(was, _snapshot(silent=name)) == "proxy is silent"
    assert _why(was, _snapshot(there=name)) == NO_FIGURES
    assert _why(was, _snapshot()) == FORGOTTEN
    was = _of_host(OVERFLOW, "proxy")
    assert _why(was, _snapshot((pb.HostRank(hostname="proxy", time_wait_overflows=0),))) is None
    assert _why(was, _snapshot((pb.HostRank(hostname="proxy"),))) == NO_FIGURES


def test_an_application_has_recovered_where_its_figures_say_so_or_it_is_not_there_on_hosts_that_are() -> None:
    """A growth that is not known is none that is over."""
    known = pb.AppRank(
        app="api", stuck=0, fd_share=0.1, close_wait=pb.CloseWaitTrend(growth_per_hour=0.0, growth_fit=0.9)
    )
    for kind in (GROWTH, STUCK, FD_ETA):
        was = _of_app(kind, "api")
        assert _why(was, _snapshot(apps=(known,), there=("web-1",))) is None
        assert _why(was, _snapshot(apps=(pb.AppRank(app="api"),), there=("web-1",))) == NO_FIGURES
        assert _why(was, _snapshot(there=("web-1",))) is None
        assert _why(was, _snapshot()) == FORGOTTEN
        assert _why(was, _snapshot(apps=(known,), silent=("web-1",))) == "web-1 is silent"
        two = _of_app(kind, "api", "web-1", "web-2", "web-3")
        assert _why(two, _snapshot(apps=(known,), silent=("web-1", "web-3"))) == "web-1 and 1 more are silent"
    idle = pb.AppRank(app="api", cause=sample_pb2.CAUSE_IDLE_POOL)
    assert _why(_of_app(STUCK, "api"), _snapshot(apps=(idle,), there=("web-1",))) is None


def test_what_was_on_a_host_that_is_forgotten_is_said_once() -> None:
    """Nothing will ever be known of it."""
    before = before_with(NOW - HOUR, [_of_host(SILENT, "db-9", 86_400)])
    (said,) = compare([], before, not_known(before, _snapshot()))
    assert said.change == pb.FINDING_CHANGE_UNSPECIFIED
    assert said.summary == f"Of db-9 it is not known whether this goes on: {FORGOTTEN}."
    after = before_of(pb.FleetReport(end_time=stamp(NOW), findings=[said]))
    assert compare([], after, not_known(after, _snapshot())) == []


def _store_host(
    store: DuckDbStore, host: str, *, ports: int = 0, app: str = "", leaks: int = 0, ago: int = 0, overflows: int = 0
) -> None:
    def samples() -> list[sample_pb2.Sample]:
        taken = []
        for number, at in enumerate(range(NOW - ago - 10 * MINUTE, NOW - ago + 1, MINUTE)):
            count = 500 + leaks * number
            one = explained(process(100, count, app=app or "quiet.service", fd_open=600, fd_limit=100_000), stuck=0)
            taken.append(sample(at, count, processes=[one]))
            taken[-1].time_wait_limits.overflows = 7 + overflows * number
            if ports:
                taken[-1].ports.add(source="10.0.0.1", destination="10.0.0.2:443", used=ports, available=100)
        return taken

    store_samples(store, host, samples(), interval_ms=MINUTE)


def _build(store: DuckDbStore, clock: FakeClock, *before: pb.Finding) -> pb.FleetReport:
    fleet = Fleet(store, clock, Counters(started=NOW))
    order = Order("Fleet", NOW - 10 * MINUTE, NOW, {}, 10)
    return asyncio.run(build(fleet, Links(), order, before_with(NOW - HOUR, before)))


def _said(report: pb.FleetReport) -> set[tuple[str, str, str]]:
    return {
        (
            one.app or one.hostnames[0],
            pb.FindingKind.Name(one.kind).removeprefix("FINDING_KIND_"),
            pb.FindingChange.Name(one.change).removeprefix("FINDING_CHANGE_"),
        )
        for one in report.findings
    }


def test_what_was_found_before_is_looked_at_again_where_it_is_not_among_the_worst(
    store: DuckDbStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet may have more hosts, applications and silent hosts than a report asks for at first."""
    for limit in ("reports.snapshot._ROWS", "reports.snapshot._ROWS_BY_OTHERS", "fleet.fleet_answer._MAX_NAMED_HOSTS"):
        monkeypatch.setattr(f"loiter_aggregator.{limit}", 1)
    _store_host(store, "worst", ports=99, app="worst.service", leaks=200, overflows=9)
    _store_host(store, "full", ports=88, app="leaks.service", leaks=100, overflows=3)
    _store_host(store, "hovers", ports=65)
    _store_host(store, "well", ports=20, app="well.service")
    for minutes, host in ((50, "gone-1"), (40, "gone-2"), (30, "gone-3")):
        _store_host(store, host, ago=minutes * MINUTE)
    report = _build(
        store,
        clock,
        *(_of_host(PORTS, host) for host in ("full", "hovers", "well", "lost")),
        *(_of_host(OVERFLOW, host, 30) for host in ("full", "well")),
        *(_of_host(SILENT, host, 60) for host in ("gone-2", "well", "lost")),
        _of_app(GROWTH, "leaks.service", "full"),
        _of_app(GROWTH, "well.service", "well"),
    )
    said = _said(report)
    assert {one for one in said if one[0] not in ("worst", "worst.service")} == {
        ("full", "PORTS", "UNCHANGED"),
        ("hovers", "PORTS", "BETTER"),
        ("well", "PORTS", "RESOLVED"),
        ("lost", "PORTS", "UNSPECIFIED"),
        ("full", "TIME_WAIT_OVERFLOW", "UNCHANGED"),
        ("well", "TIME_WAIT_OVERFLOW", "RESOLVED"),
        ("gone-1", "SILENT", "NEW"),
        ("gone-2", "SILENT", "UNCHANGED"),
        ("well", "SILENT", "RESOLVED"),
        ("lost", "SILENT", "UNSPECIFIED"),
        ("leaks.service", "CLOSE_WAIT_GROWTH", "WORSE"),
        ("well.service", "CLOSE_WAIT_GROWTH", "RESOLVED"),
    }


def test_findings_that_a_report_has_no_room_for_are_remembered(
    store: DuckDbStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not new the next time."""
    monkeypatch.setattr("loiter_aggregator.reports.building._MAX_FINDINGS", 1)
    for host in ("one", "two", "three"):
        _store_host(store, host, ports=90)
    first = _build(store, clock)
    assert len(first.findings) == 3
    assert [one.hostnames[0] for one in shortened(first).findings] == [first.findings[0].hostnames[0]]
    second = _build(store, clock, *first.findings)
    assert {one.change for one in second.findings} == {pb.FINDING_CHANGE_UNCHANGED}
