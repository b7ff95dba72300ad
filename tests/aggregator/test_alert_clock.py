"""The aggregator's clock is set while a fleet reports: nothing goes blind, nothing is resolved, and nothing fires."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import ingest_service_pb2 as ingest_pb
from loiter.v1 import sample_pb2
from loiter_aggregator.alerts.alerting import Alerting
from loiter_aggregator.alerts.memory import FILE, recall
from loiter_aggregator.clock import Steps, from_timestamp
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.links import Links
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, host_key, open_store, record, store_samples
from support.alerts import alert_file
from support.reports import HOUR, MINUTE, NOW, SECOND, hello, process, report, sample

TICK = 30 * SECOND
# The leak began an hour and a half ago.
_PAST = 180
_RULES = """
[[rule]]
name = "growth"
kind = "close-wait-growth"
above = 60
window = "3m"
for = "1m"
keep_for = "0s"
[[rule]]
name = "fds"
kind = "fd-eta"
below = "4h"
window = "3m"
for = "1m"
keep_for = "0s"
[[rule]]
name = "overflow"
kind = "time-wait-overflow"
above = 1
[[rule]]
name = "silent"
kind = "host-silent"
above = "5m"
"""


class _Stream:
    def acknowledge(self, epoch: int, sequence: int) -> None:
        pass

    def reject(self, rejection: ingest_pb.ReportRejection) -> None:
        raise AssertionError(rejection.reason)


def _taken(at: int, tick: int) -> sample_pb2.Sample:
    """A leak that runs out of descriptors in an hour and a half, beside a process that is well."""
    leak = process(100, 10 * tick, app="order-api", name="order-api", fd_open=100 + 10 * tick, fd_limit=100 + 3_600)
    leak.cause = sample_pb2.CAUSE_LEAK
    calm = process(200, 3, app="calm", name="calm", fd_open=500 if tick > _PAST else 90, fd_limit=1_024)
    taken = sample(at, 10 * tick + 3, established=tick, processes=[leak, calm])
    taken.time_wait_limits.overflows = 40 * tick if tick < _PAST - 20 else 40 * _PAST  # no more of late
    taken.ports.add(source="10.0.0.1", destination="10.0.0.5:443", used=900, available=1_000)
    return taken


def _mended(at: int) -> sample_pb2.Sample:
    """The leak was restarted, and uses few ports."""
    anew = process(300, 2, app="order-api", name="order-api", fd_open=100, fd_limit=1_024)
    taken = sample(at, 5, processes=[anew, process(200, 3, app="calm", name="calm", fd_open=500, fd_limit=1_024)])
    taken.time_wait_limits.overflows = 40 * _PAST
    taken.ports.add(source="10.0.0.1", destination="10.0.0.5:443", used=100, available=1_000)
    return taken


@dataclass
class Fleeting:
    """An aggregator with rules over one host that leaks and reports, and one that fell silent."""

    store: DuckDbStore
    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    steady: FakeClock = field(default_factory=lambda: FakeClock(5))
    tick: int = _PAST
    rules: str = _RULES
    # What becomes of what is wrong.
    is_mended: bool = False

    def __post_init__(self) -> None:
        """Starts it at NOW."""
        self.batcher = Batcher(self.store, self.clock, steady_clock=self.steady)
        self.fleet = Fleet(self.store, self.clock, self.batcher.counters)
        self.alerting = Alerting(
            alert_file(self.folder, self.rules), self.fleet, Links(), self.folder, self.clock, steady_clock=self.steady
        )
        asyncio.run(self.alerting.recall())

    def set(self, step: int) -> None:
        """Sets the clock, which the next commit notices; the clock since boot goes on as ever."""
        self.clock.now += step
        asyncio.run(self.batcher.commit())

    def report(self, ticks: int) -> None:
        """Lets time pass, with a report at each tick of the host, by when that is to the aggregator."""
        for _ in range(ticks):
            self.clock.now += TICK
            self.steady.now += TICK
            self.tick += 1
            taken = _mended(self.clock.now) if self.is_mended else _taken(self.clock.now, self.tick)
            asyncio.run(self._report(report("web-1", self.tick + 1, taken)))

    async def _report(self, one: ingest_pb.Report) -> None:
        await self.batcher.put(host_key("web-1"), one, _Stream())
        await self.batcher.commit()

    def evaluate(self, ticks: int = 1) -> Iterator[pb.ListAlertsResponse]:
        """The alerts after each of so many ticks."""
        for _ in range(ticks):
            self.report(1)
            asyncio.run(self.alerting.evaluate())
            yield asyncio.run(self.alerting.list_alerts(pb.ListAlertsRequest()))


@pytest.fixture
def fleeting(tmp_path: Path) -> Iterator[Fleeting]:
    """It has been there for longer than what is in the store."""
    store = open_store(tmp_path / "store")
    store_samples(
        store,
        "web-1",
        (_taken(NOW - (_PAST - tick) * TICK, tick) for tick in range(_PAST + 1)),
        interval_ms=TICK,
    )
    store_samples(store, "gone", [sample(NOW - 10 * MINUTE, 0)])
    one = Fleeting(store, tmp_path)
    one.batcher.counters.started = NOW - 2 * HOUR
    yield one
    store.close()


_FIRING = {("growth", "order-api"), ("fds", "order-api"), ("silent", "gone")}


def _states(answer: pb.ListAlertsResponse) -> dict[tuple[str, str], int]:
    return {(one.rule, one.app or one.hostnames[0]): one.state for one in answer.alerts}


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_what_fires_goes_on_firing_and_nothing_else_begins(fleeting: Fleeting, step: int) -> None:
    """For as long as the windows of rules reach back to before, and after that; and each has fired for as long."""
    fires = dict.fromkeys(_FIRING, pb.ALERT_STATE_FIRING)
    before = list(fleeting.evaluate(3))[-1]
    assert _states(before) == fires
    began = {one.rule: from_timestamp(one.firing_time) for one in before.alerts}
    fleeting.clock.now += step
    asyncio.run(fleeting.alerting.evaluate())  # before the store has followed
    kept = recall(fleeting.folder / FILE, fleeting.clock.now)
    assert {one.rule: one.firing_since for one in kept.alerts.values()} == {
        rule: at + step for rule, at in began.items()
    }
    fleeting.set(0)
    for answer in fleeting.evaluate(8):
        assert _states(answer) == fires
    assert {one.rule: from_timestamp(one.firing_time) for one in answer.alerts} == {
        rule: at + step for rule, at in began.items()
    }
    growth = next(one for one in answer.alerts if one.rule == "growth")
    assert growth.figure == pytest.approx(1_200), "the line is of what came since"
    silent = next(one for one in answer.alerts if one.rule == "silent")
    assert silent.summary == "gone: no report has come for 15m"


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_nobody_is_silent_for_the_time_that_the_clock_was_set_by(fleeting: Fleeting, step: int) -> None:
    """Nor for what was before the aggregator started: that was a minute ago, whatever the clock showed then."""
    fleeting.batcher.counters.started = NOW
    list(fleeting.evaluate(1))
    fleeting.set(step)
    for answer in fleeting.evaluate(2):
        assert ("silent", "gone") not in _states(answer)
    fleet = asyncio.run(fleeting.fleet.get_fleet(pb.GetFleetRequest()))
    assert from_timestamp(fleet.aggregator.start_time) == NOW + step


_LINE = """
[[rule]]
name = "fds"
kind = "fd-eta"
below = "50m"
window = "3m"
for = "0s"
"""


@pytest.mark.parametrize("how", ["a restart after it", "while it was down", "forward again, to in between"])
def test_no_line_is_drawn_through_two_settings_of_the_clock(fleeting: Fleeting, how: str) -> None:
    """`calm` has opened more files since the clock was set, in what time nobody knows; now their number stands."""
    one = Fleeting(fleeting.store, fleeting.folder, rules=_LINE)
    if how == "while it was down":
        one = replace(one, clock=FakeClock(NOW - 10 * MINUTE))
    elif how == "a restart after it":
        one.set(-10 * MINUTE)
        assert not _states(next(one.evaluate()))
        one = replace(one)
    else:
        one.set(-20 * MINUTE)
        assert [_states(answer) for answer in one.evaluate(2)] == [{}, {}]
        one.set(10 * MINUTE)
    assert [_states(answer) for answer in one.evaluate(6)] == [{}] * 6


_OFTEN = """
[[rule]]
name = "growth"
kind = "close-wait-growth"
above = 60
for = "0s"
keep_for = "0s"
[[rule]]
name = "fds"
kind = "fd-eta"
below = "4h"
for = "0s"
keep_for = "0s"
[[rule]]
name = "ports"
kind = "ports"
above = "80%"
for = "0s"
keep_for = "0s"
"""


def test_what_is_over_is_resolved_though_the_clock_is_set_again_and_again(fleeting: Fleeting) -> None:
    """More often than windows are long: what was read since is known, the latest figures at once."""
    one = Fleeting(fleeting.store, fleeting.folder, rules=_OFTEN)
    wrong = {("growth", "order-api"), ("fds", "order-api"), ("ports", "web-1")}
    assert wrong <= _states(next(one.evaluate())).keys()
    one.is_mended = True
    one.set(-3 * SECOND)
    asyncio.run(one.alerting.evaluate())  # it follows, and looks the next time
    soon = _states(next(one.evaluate()))
    assert {key for key in wrong if soon[key] == pb.ALERT_STATE_RESOLVED} == {("ports", "web-1")}
    one.set(3 * SECOND)
    asyncio.run(one.alerting.evaluate())
    one.report(5)
    later = _states(next(one.evaluate()))
    assert {later[key] for key in wrong} == {pb.ALERT_STATE_RESOLVED}


def test_a_ranking_shows_what_came_last_after_the_clock_was_set_back(fleeting: Fleeting) -> None:
    """Not what was stored as of later than now, which is older; of the past it is what came last, too."""
    fleeting.set(-HOUR)
    fleeting.report(4)
    query = pb.RankingQuery(by=pb.RANK_BY_CLOSE_WAIT)
    host = asyncio.run(fleeting.fleet.rank_hosts(pb.RankHostsRequest(query=query))).hosts[0]
    assert host.close_wait.current == 10 * fleeting.tick + 3
    assert from_timestamp(host.last_report_time) == fleeting.clock.now
    ranked = asyncio.run(fleeting.fleet.rank_processes(pb.RankProcessesRequest(query=query))).processes
    assert [(one.app, one.close_wait.current) for one in ranked] == [("order-api", 10 * fleeting.tick), ("calm", 3)]
    shown = asyncio.run(fleeting.fleet.get_host(pb.GetHostRequest(name="web-1")))
    assert shown.latest.tcp_states.close_wait == 10 * fleeting.tick + 3
    fleet = asyncio.run(fleeting.fleet.get_fleet(pb.GetFleetRequest()))
    assert fleet.tcp_states.established == fleeting.tick
    assert [one.hostname for one in fleet.silent_hosts] == ["gone"]


def test_time_that_comes_twice_has_what_came_last(fleeting: Fleeting) -> None:
    """No sample of before stands among those of after; what is ahead by far is there, in case that was a mistake."""
    fleeting.set(-HOUR)
    set_at = fleeting.clock.now
    fleeting.report(10)
    now = fleeting.clock.now
    again = fleeting.store.read(
        f"SELECT ts, established FROM host_sample WHERE ts > {set_at} AND ts <= {now} ORDER BY ts"
    )
    assert [tick for _, tick in again] == list(range(fleeting.tick - 9, fleeting.tick + 1))
    ahead = fleeting.store.read(f"SELECT count(*) FROM process_sample WHERE ts > {now + 2 * MINUTE}")
    assert ahead[0][0] > 180
    fleeting.set(HOUR)
    fleeting.report(2)
    assert fleeting.store.read(f"SELECT count(*) FROM process_sample WHERE ts > {set_at + 10 * MINUTE}")[0][0] > 180


def test_a_clock_that_was_set_back_while_the_aggregator_was_down_is_noticed(fleeting: Fleeting) -> None:
    """By what is in the store."""
    fleeting.report(1)
    restarted = Fleeting(fleeting.store, fleeting.folder, FakeClock(fleeting.clock.now - HOUR), tick=fleeting.tick)
    started = restarted.clock.now
    restarted.report(3)
    again = fleeting.store.read(f"SELECT established FROM host_sample WHERE ts > {started + TICK} ORDER BY ts")
    assert [tick for (tick,) in again][:2] == [restarted.tick - 1, restarted.tick]
    fleet = asyncio.run(restarted.fleet.get_fleet(pb.GetFleetRequest()))
    assert [one.hostname for one in fleet.silent_hosts] == ["gone"]


def test_slewing_is_no_step() -> None:
    """Nor is the time that passes."""
    clock, steady = FakeClock(NOW), FakeClock(7)
    steps = Steps(clock, steady)
    assert steps.latest() == 0
    for _ in range(100):  # slewed, both are as slow
        clock.now += SECOND + 1
        steady.now += SECOND + 1
        assert steps.latest() == 0
    clock.now -= HOUR
    assert [steps.latest(), steps.latest()] == [-HOUR, 0]


def test_small_steps_add_up() -> None:
    """One of two seconds is let pass, and told with the next; one that is taken back never was."""
    clock, steady = FakeClock(NOW), FakeClock(7)
    steps = Steps(clock, steady)
    told = []
    for step in (1_900, 1_900, 0, -1_900, 1_900, 2_000):
        clock.now += step
        told.append(steps.latest())
    assert told == [0, 3_800, 0, 0, 0, 0]


def test_what_a_host_says_of_itself_waits_for_the_clock_as_its_reports_do(tmp_path: Path) -> None:
    """A step between two reports parts them: each is stored by its own setting of the clock."""
    store = open_store(tmp_path / "store")
    clock, steady = FakeClock(), FakeClock(5)

    async def scenario() -> None:
        batcher = Batcher(store, clock, steady_clock=steady)
        await batcher.put_host(record(hello("web-1")))
        await batcher.put(host_key("web-1"), report("web-1", 1, sample(NOW, 1)), _Stream())
        clock.now -= HOUR
        await batcher.put(host_key("web-1"), report("web-1", 2, sample(NOW - HOUR, 2)), _Stream())
        await batcher.commit()

    asyncio.run(scenario())
    assert store.read("SELECT last_seen FROM host") == [(NOW - HOUR,)]
    assert store.read("SELECT ts FROM host_latest") == [(NOW - HOUR,)]
    assert store.read("SELECT close_wait FROM host_sample ORDER BY ts") == [(2,), (1,)]
    store.close()


def test_when_a_host_was_heard_last_follows_the_clock(tmp_path: Path) -> None:
    """Also of one that is connected: else it would be alive for as long as the clock was set back."""
    store = open_store(tmp_path / "store")
    clock, steady = FakeClock(), FakeClock(5)

    async def scenario() -> int | None:
        batcher = Batcher(store, clock, steady_clock=steady)
        known = await batcher.join(host_key("web-1"), _Stream())
        await batcher.put(host_key("web-1"), report("web-1", 1, sample(NOW, 1)), _Stream())
        clock.now -= HOUR
        await batcher.commit()
        return known.last_seen

    assert asyncio.run(scenario()) == NOW - HOUR
    store.close()
