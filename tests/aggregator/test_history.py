"""How figures went: what was known in each part of a window, added up, with nothing made up and nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.fleet.errors import InvalidRequest, NotFound
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.schema import TCP_STATES
from support.aggregators import FakeClock, put_host, record, store_samples
from support.reports import HOUR, MINUTE, NOW, SECOND, hello, lasting, process, sample, stamp

Values = list[float | None]
TEN = 10 * SECOND


@pytest.fixture
def fleet(store: DuckDbStore, clock: FakeClock) -> Fleet:
    """What answers from the store."""
    return Fleet(store, clock, Counters(started=NOW))


def ask(fleet: Fleet, *, window: int = 10 * MINUTE, points: int = 10, **more: Any) -> dict[str, Values]:
    """The values of each figure."""
    request = pb.GetHistoryRequest(window=lasting(window), points=points, **more)
    answer = asyncio.run(fleet.get_history(request))
    return {
        series.name: [one.value if one.HasField("value") else None for one in series.values] for series in answer.series
    }


def store_counts(store: DuckDbStore, name: str, counts: Sequence[int | None], every: int, last: int = NOW) -> None:
    """Stores a host with such CLOSE_WAIT counts, the last of them at a time."""
    taken = [sample(last - (len(counts) - 1 - index) * every, count) for index, count in enumerate(counts)]
    store_samples(store, name, taken, interval_ms=every)


def test_a_fleet_is_the_sum_of_the_maxima_of_its_hosts(store: DuckDbStore, fleet: Fleet) -> None:
    """Part by part: hosts that tick at different times, one that knows less than the other."""
    store_counts(store, "web-1", range(61), TEN)
    store_counts(store, "web-2", [100] * 60, TEN, last=NOW - 7 * SECOND)
    found = ask(fleet)
    assert found["close_wait"] == [100 + 6 * part + 5 for part in range(9)] + [160]
    assert found["hosts"] == [2] * 10
    assert found["time_wait"] == [None] * 10


def test_figures_come_in_the_order_in_which_they_are_shown(store: DuckDbStore, fleet: Fleet) -> None:
    """Names and times, of all three kinds."""
    taken = sample(
        close_wait=3, fd_allocated=70, fd_limit=900, processes=[process(close_wait=2, fd_open=9, fd_limit=50)]
    )
    taken.ports.add(used=30, available=100)
    store_samples(store, "web-1", [taken])
    store_samples(store, "web-2", [sample(close_wait=0, fd_allocated=30, fd_limit=100)])
    found = ask(fleet, points=1)
    assert list(found) == [*TCP_STATES, "fd_allocated", "fd_limit", "stuck", "ports_share", "hosts"]
    known = {name: value for name, (value,) in found.items() if value is not None}
    assert known == {
        "close_wait": 3, "fd_allocated": 100, "fd_limit": 1_000, "stuck": 0, "ports_share": 0.3, "hosts": 2,
    }  # fmt: skip
    of_process = ["close_wait", "stuck", "time_wait", "established", "fd_open", "fd_limit"]
    assert list(ask(fleet, host="web-1", pid=100)) == of_process
    assert list(ask(fleet, app="gateway.service")) == [*of_process, "processes"]
    answer = asyncio.run(fleet.get_history(pb.GetHistoryRequest(end_time=stamp(NOW - MINUTE))))
    assert answer.start_time == stamp(NOW - MINUTE - HOUR)
    assert answer.step == lasting(30 * SECOND)
    assert {len(series.values) for series in answer.series} == {120}


def test_a_sum_does_not_fall_where_parts_are_shorter_than_an_interval(store: DuckDbStore, fleet: Fleet) -> None:
    """Parts of four seconds, ticks of ten: a host counts with what it had, from before the window on."""
    store_counts(store, "web-1", [5] * 20, TEN, last=NOW - 3 * SECOND)
    store_counts(store, "web-2", [7] * 20, TEN, last=NOW - 9 * SECOND)
    found = ask(fleet, window=MINUTE, points=15)
    assert found["close_wait"] == [12] * 15
    assert found["hosts"] == [2] * 15


def test_what_is_carried_is_what_was_there_last(store: DuckDbStore, fleet: Fleet) -> None:
    """Not what comes later, and nothing before there was anything."""
    store_counts(store, "web-1", [9, 2, 6], TEN, last=NOW - 5 * SECOND)
    assert ask(fleet, window=30 * SECOND, points=6)["close_wait"] == [None, 9, 9, 2, 2, 6]


def test_a_silent_host_is_no_longer_part_of_a_sum(store: DuckDbStore, fleet: Fleet) -> None:
    """Three intervals after its last sample it is unknown: not zero, and not what it was."""
    store_counts(store, "web-1", [4] * 13, TEN)
    store_counts(store, "gone", [50] * 5, TEN, last=NOW - 75 * SECOND)
    found = ask(fleet, window=2 * MINUTE, points=12)
    assert found["close_wait"] == [54] * 8 + [4] * 4
    assert found["hosts"] == [2] * 8 + [1] * 4
    assert ask(fleet, window=2 * MINUTE, points=12, host="gone")["close_wait"] == [50] * 8 + [None] * 4


def test_unknown_is_neither_zero_nor_what_it_was(store: DuckDbStore, fleet: Fleet) -> None:
    """A host that reports, and does not know the count, is there without it."""
    store_counts(store, "web-1", [4, None, None, 0], MINUTE)
    found = ask(fleet, window=4 * MINUTE, points=4)
    assert found["close_wait"] == [None, 4, None, 0]
    assert found["hosts"] == [None, 1, 1, 1]


def test_labels_and_hosts_are_heeded(store: DuckDbStore, fleet: Fleet) -> None:
    """Of the fleet only those that carry them; one host by its name."""
    for name, role, count in (("web-1", "web", 3), ("db-1", "db", 40)):
        store_samples(store, name, [sample(NOW, count, processes=[process(close_wait=count)])], labels={"role": role})
    assert ask(fleet, points=1, labels={"role": "web"})["close_wait"] == [3]
    assert ask(fleet, points=1, host="db-1")["close_wait"] == [40]
    assert ask(fleet, points=1, host="db-1", labels={"role": "web"})["close_wait"] == [None]
    assert ask(fleet, points=1, app="gateway.service", labels={"role": "db"})["close_wait"] == [40]
    assert ask(fleet, points=1, app="gateway.service", host="web-1")["close_wait"] == [3]


def test_a_process_is_the_one_that_started_last_until_then(store: DuckDbStore, fleet: Fleet) -> None:
    """What had its process id before is another."""
    old = [process(100, count, start=NOW - HOUR) for count in (50, 60)]
    new = [process(100, count, start=NOW - 3 * MINUTE) for count in (1, 2)]
    taken = [sample(NOW - (3 - tick) * MINUTE, processes=[one]) for tick, one in enumerate([*old, *new])]
    store_samples(store, "web-1", taken, interval_ms=MINUTE)
    window: dict[str, Any] = {"window": 4 * MINUTE, "points": 4, "host": "web-1", "pid": 100}
    assert ask(fleet, **window)["close_wait"] == [None, None, None, 2]
    before = ask(fleet, **window, end_time=stamp(NOW - 2 * MINUTE))
    assert before["close_wait"] == [None, None, None, 60]


def test_an_app_that_restarts_is_not_counted_twice(store: DuckDbStore, fleet: Fleet) -> None:
    """What ended is not carried on beside what took its place, though it is between two ticks of its host."""
    old = [sample(NOW - tick * TEN, processes=[process(100, 50, start=NOW - HOUR)]) for tick in (5, 4, 3)]
    new = [sample(NOW - tick * TEN, processes=[process(200, 1, start=NOW - 25 * SECOND)]) for tick in (2, 1, 0)]
    store_samples(store, "web-1", [*old, *new])
    found = ask(fleet, window=MINUTE, points=12, app="gateway.service")
    assert found["processes"] == [None, None] + [1] * 10
    assert found["close_wait"] == [None, None] + [50] * 6 + [1] * 4


def test_an_app_adds_up_its_processes_and_has_the_least_of_their_limits(store: DuckDbStore, fleet: Fleet) -> None:
    """Over hosts; those of other apps are not among them."""
    for name, limit in (("web-1", 1_024), ("web-2", 512)):
        present = [process(1, 3, fd_open=10, fd_limit=limit, established=2), process(2, 900, app="other", fd_limit=1)]
        store_samples(store, name, [sample(processes=[*present, process(3, None)])])
    found = {name: value for name, (value,) in ask(fleet, points=1, app="gateway.service").items()}
    assert found == {
        "close_wait": 6, "stuck": None, "time_wait": None, "established": 4, "fd_open": 20, "fd_limit": 512,
        "processes": 4,
    }  # fmt: skip


def test_processes_that_are_left_out_are_as_they_were_for_a_while(store: DuckDbStore, fleet: Fleet) -> None:
    """Samples without processes say nothing of them: carried for three intervals, unknown thereafter."""
    taken = [sample(NOW - (7 - tick) * TEN, 5, processes=[process(100, 5)] if tick < 2 else []) for tick in range(8)]
    for one in taken[2:]:
        one.degradation = sample_pb2.DEGRADATION_COUNTS_ONLY
    store_samples(store, "web-1", taken)
    window: dict[str, Any] = {"window": 80 * SECOND, "points": 8, "host": "web-1"}
    assert ask(fleet, **window, pid=100)["close_wait"] == [None, 5, 5, 5, 5, 5, None, None]
    assert ask(fleet, **window)["close_wait"] == [None] + [5] * 7


def test_what_never_was_is_not_found(store: DuckDbStore, fleet: Fleet) -> None:
    """What once was is, without values where the window has none."""
    store_samples(store, "web-1", [sample(NOW - 2 * HOUR, 1, processes=[process(100, 1)])])
    put_host(store, record(hello("bare")), NOW)
    for asked in ({"host": "web-1"}, {"host": "web-1", "pid": 100}, {"app": "gateway.service"}, {"host": "bare"}):
        assert ask(fleet, **asked)["close_wait"] == [None] * 10
    for asked, said in (
        ({"host": "web"}, "no host 'web' has reported; did you mean web-1"),
        ({"host": "web-1", "pid": 7}, "no process 7 of web-1 has been reported"),
        ({"app": "\x1b[31mnobody"}, "no app .*nobody.* has been reported"),
        ({"app": "gateway.service", "host": "bare"}, "no app 'gateway.service' of bare has been reported"),
    ):
        with pytest.raises(NotFound, match=said) as raised:
            ask(fleet, **asked)
        assert "\x1b" not in str(raised.value)


def test_what_can_not_be_asked_is_named(fleet: Fleet) -> None:
    """By the name of the field; and a part is never shorter than a millisecond."""
    for asked, said in (
        ({"pid": 7}, "pid is of no host"),
        ({"pid": 7, "host": "web-1", "app": "a"}, "pid and app can not both"),
        ({"points": 1_001}, "points is over 1,000"),
        ({"app": "a" * 257}, "app is longer than 256"),
        ({"end_time": stamp(NOW + HOUR)}, "^end_time is in the future"),
        ({"window": -SECOND}, "^window is not between"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            ask(fleet, **asked)
    assert len(ask(fleet, window=5, points=1_000)["hosts"]) == 5
