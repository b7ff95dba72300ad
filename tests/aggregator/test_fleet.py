"""Totals of the fleet: what is known is added up, what is not is said."""

from __future__ import annotations

import pytest

from loiter.v1 import ingest_service_pb2, sample_pb2
from loiter_aggregator.host_detail import lost_samples
from loiter_aggregator.ranking.fleet import (
    Coverage,
    NotedHost,
    degraded_hosts,
    fleet_coverage,
    fleet_states,
    fleet_trend,
    is_silent,
    losing_hosts,
    silent_hosts,
    skewed_hosts,
)
from loiter_aggregator.store.batch import Batch, Lost
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import batch_of, host_key, put_host, record, store_samples
from support.reports import EPOCH, HOUR, MINUTE, NOW, SECOND, hello, host_id, report, sample


def _coverage(
    attributed: int | None, unattributed: int | None, unreadable: int | None, unread: int | None
) -> sample_pb2.Coverage:
    return sample_pb2.Coverage(
        sockets_attributed=attributed,
        sockets_unattributed=unattributed,
        processes_unreadable=unreadable,
        namespaces_unread=unread,
        namespaces_by_procfs=unread,
        close_wait_uncharged=4,
    )


def test_totals_add_up_the_latest_samples(store: DuckDbStore) -> None:
    """Earlier samples do not count, and zero is a count."""
    store_samples(store, "web-1", [sample(NOW - SECOND, 90, listen=90), sample(NOW, 3, time_wait=10, listen=0)])
    store_samples(store, "web-2", [sample(NOW - 2 * SECOND, 4, established=5)])
    states = fleet_states(store, {}, NOW)
    assert states["close_wait"] == 7
    assert states["time_wait"] == 10
    assert states["established"] == 5
    assert states["listen"] == 0


def test_a_state_that_no_host_could_count_stays_unknown(store: DuckDbStore) -> None:
    """It is None, not 0; and so is every state of an empty fleet."""
    assert set(fleet_states(store, {}, NOW).values()) == {None}
    store_samples(store, "web-1", [sample(NOW, 3)])
    states = fleet_states(store, {}, NOW)
    assert states.pop("close_wait") == 3
    assert set(states.values()) == {None}


def test_totals_may_exceed_what_one_host_can_have(store: DuckDbStore) -> None:
    """Sums are wider than counts."""
    for name in ("web-1", "web-2"):
        store_samples(store, name, [sample(NOW, 2**32 - 1)])
    assert fleet_states(store, {}, NOW)["close_wait"] == 2 * (2**32 - 1)


def test_a_silent_host_is_in_no_total(store: DuckDbStore) -> None:
    """What it last said is old."""
    store_samples(store, "web-1", [sample(NOW, 3, coverage=_coverage(5, 1, 2, 0))])
    store_samples(store, "gone", [sample(NOW - MINUTE, 500, coverage=_coverage(900, 9, 9, 9))])
    assert fleet_states(store, {}, NOW)["close_wait"] == 3
    assert fleet_coverage(store, {}, NOW) == Coverage(
        hosts=2,
        hosts_reporting=1,
        hosts_silent=1,
        hosts_unknown=0,
        sockets_attributed=5,
        sockets_unattributed=1,
        processes_unreadable=2,
        namespaces_unread=0,
        namespaces_by_procfs=0,
        close_wait_uncharged=4,
    )


def test_coverage_adds_up_and_counts_the_hosts_that_could_not_say(store: DuckDbStore) -> None:
    """A host that does not know what it left out, or which namespaces, is unknown."""
    store_samples(store, "web-1", [sample(NOW, coverage=_coverage(100, 1, 2, 3))])
    store_samples(store, "web-2", [sample(NOW, coverage=_coverage(10, 0, 0, 0))])
    store_samples(store, "web-3", [sample(NOW, coverage=_coverage(7, None, None, 0))])
    store_samples(store, "web-4", [sample(NOW, coverage=_coverage(8, 0, 1, None))])
    store_samples(store, "web-5", [sample(NOW)])
    assert fleet_coverage(store, {}, NOW) == Coverage(
        hosts=5,
        hosts_reporting=5,
        hosts_silent=0,
        hosts_unknown=3,
        sockets_attributed=125,
        sockets_unattributed=1,
        processes_unreadable=3,
        namespaces_unread=3,
        namespaces_by_procfs=3,
        close_wait_uncharged=16,
    )


def test_an_empty_fleet_is_covered_by_nothing(store: DuckDbStore) -> None:
    """No hosts, and figures that nobody knows."""
    assert fleet_coverage(store, {}, NOW) == Coverage(0, 0, 0, 0, None, None, None, None, None, None)
    assert silent_hosts(store, {}, NOW, 10) == []
    assert fleet_trend(store, {}, NOW - HOUR, NOW, "close_wait") == ()


def test_a_host_falls_silent_after_three_intervals(store: DuckDbStore) -> None:
    """To the millisecond."""
    put_host(store, record(hello()), NOW)
    assert fleet_coverage(store, {}, NOW + 30 * SECOND).hosts_reporting == 1
    assert fleet_coverage(store, {}, NOW + 30 * SECOND + 1).hosts_silent == 1


@pytest.mark.parametrize(("interval_ms", "patience_ms"), [(10_000, 30_000), (60_000, 180_000), (500, 5_000)])
def test_a_host_is_silent_after_three_intervals_and_not_before_five_seconds(
    store: DuckDbStore, interval_ms: int, patience_ms: int
) -> None:
    """The same in a query and in a row, to the millisecond."""
    store_samples(store, "web-1", [sample(NOW, 1)], interval_ms=interval_ms)
    for now, silent in ((NOW + patience_ms, False), (NOW + patience_ms + 1, True)):
        assert is_silent(NOW, interval_ms, now) is silent
        assert fleet_coverage(store, {}, now).hosts_silent == int(silent)
        assert len(silent_hosts(store, {}, now, 10)) == int(silent)
        assert fleet_states(store, {}, now)["close_wait"] == (None if silent else 1)


def test_a_host_is_silent_by_the_aggregators_clock(store: DuckDbStore) -> None:
    """An agent whose clock is slow is not silent while its reports come in."""
    store_samples(store, "slow", [sample(NOW - 20 * MINUTE, 4)], late_ms=20 * MINUTE)
    assert fleet_coverage(store, {}, NOW).hosts_reporting == 1
    assert fleet_states(store, {}, NOW)["close_wait"] == 4


def test_silent_hosts_are_listed_longest_first(store: DuckDbStore) -> None:
    """With when they were last heard of; at most as many as asked for."""
    for name, ago in (("b", HOUR), ("a", HOUR), ("c", 2 * HOUR), ("here", 0)):
        store_samples(store, name, [sample(NOW - ago, 1)])
    found = silent_hosts(store, {}, NOW, 10)
    assert [host.hostname for host in found] == ["c", "a", "b"]
    assert (found[0].host_id, found[0].last_seen) == (host_id("c"), NOW - 2 * HOUR)
    assert [host.hostname for host in silent_hosts(store, {}, NOW, 1)] == ["c"]


def test_labels_keep_the_hosts_that_carry_them(store: DuckDbStore) -> None:
    """In totals, coverage, trends and among the silent."""
    for name, role, ago in (("web-1", "web", 0), ("web-2", "web", HOUR), ("db-1", "db", 0), ("db-2", "db", HOUR)):
        taken = sample(NOW - ago, 1 if role == "web" else 100, coverage=_coverage(1, 0, 0, 0))
        store_samples(store, name, [taken], labels={"role": role})
    labels = {"role": "web"}
    coverage = fleet_coverage(store, labels, NOW)
    assert (coverage.hosts, coverage.hosts_reporting, coverage.sockets_attributed) == (2, 1, 1)
    assert fleet_states(store, labels, NOW)["close_wait"] == 1
    assert [host.hostname for host in silent_hosts(store, labels, NOW, 10)] == ["web-2"]
    assert fleet_trend(store, labels, NOW - HOUR, NOW, "close_wait") == (1, *[None] * 18, 1)
    assert fleet_coverage(store, {"role": "mail"}, NOW) == Coverage(0, 0, 0, 0, None, None, None, None, None, None)


def test_a_trend_adds_up_the_maxima_of_the_hosts(store: DuckDbStore) -> None:
    """For each part of the window; one in which no host knew is empty."""
    since = NOW - 20 * MINUTE
    store_samples(store, "web-1", [sample(since + at * MINUTE, n) for at, n in ((0, 5), (1, None), (2, 7))])
    store_samples(store, "web-2", [sample(since + at * MINUTE // 2, n, time_wait=9) for at, n in ((0, 1), (1, 3))])
    assert fleet_trend(store, {}, since, NOW, "close_wait") == (8, None, 7, *[None] * 17)
    assert fleet_trend(store, {}, since, NOW, "time_wait") == (9, *[None] * 19)
    assert fleet_trend(store, {}, since, NOW, "listen") == ()


def test_the_last_part_of_a_trend_adds_up_all_hosts(store: DuckDbStore) -> None:
    """Also one whose sample was taken this very moment."""
    store_samples(store, "a", [sample(NOW - SECOND, 100)])
    store_samples(store, "b", [sample(NOW, 1)])
    assert fleet_trend(store, {}, NOW - HOUR, NOW, "close_wait")[-1] == 101


def test_a_host_counts_once_even_if_two_of_its_samples_have_one_time(store: DuckDbStore) -> None:
    """A clock that was set back can do that."""
    store_samples(store, "a", [sample(NOW, 3), sample(NOW, 4)])
    assert fleet_states(store, {}, NOW)["close_wait"] == 4


def _lose(store: DuckDbStore, hostname: str, first: int | None, last: int, at: int | None, received: int = NOW) -> None:
    batch = Batch()
    reason = ingest_service_pb2.LOSS_REASON_SPOOL_FULL
    batch.add_loss(host_key(hostname), Lost(EPOCH, first, last, reason, at, at), received)
    store.write(batch)


def test_hosts_that_lost_samples_are_named_most_first(store: DuckDbStore) -> None:
    """Within the window by when they were taken, else by when that was heard of; where no number is known, last."""
    for name in ("a", "b", "c", "d", "e"):
        put_host(store, record(hello(name, labels={"role": name})), NOW)
    _lose(store, "a", 1, 10, NOW - MINUTE)
    _lose(store, "a", 15, 15, NOW - MINUTE)
    _lose(store, "b", 1, 300, NOW - 2 * HOUR)
    _lose(store, "c", None, 1, None)
    _lose(store, "d", 5, 104, None)
    assert losing_hosts(store, {}, NOW - HOUR, NOW, 10) == [
        NotedHost(host_id("d"), "d", 100),
        NotedHost(host_id("a"), "a", 11),
        NotedHost(host_id("c"), "c", None),
    ]
    assert [host.hostname for host in losing_hosts(store, {}, NOW - 3 * HOUR, NOW, 1)] == ["b"]
    assert [host.hostname for host in losing_hosts(store, {"role": "a"}, NOW - HOUR, NOW, 10)] == ["a"]
    assert fleet_coverage(store, {}, NOW).hosts_losing == 3
    assert fleet_coverage(store, {"role": "e"}, NOW).hosts_losing == 0


def test_a_loss_that_lies_ahead_is_not_of_now(store: DuckDbStore) -> None:
    """It was counted before the clock was set back, and goes with the samples that were taken then."""
    put_host(store, record(hello("a")), NOW)
    _lose(store, "a", 1, 10, NOW + HOUR, received=NOW + HOUR)
    assert fleet_coverage(store, {}, NOW).hosts_losing == 0
    assert losing_hosts(store, {}, NOW - HOUR, NOW, 10) == []
    assert lost_samples(store, host_key("a"), NOW - HOUR, NOW, 10) == []
    assert [one.samples for one in lost_samples(store, host_key("a"), NOW - HOUR, NOW + HOUR, 10)] == [10]
    store.forget_between(NOW, NOW + HOUR)
    assert lost_samples(store, host_key("a"), 0, NOW + HOUR, 10) == []


def test_a_host_whose_last_word_is_a_loss_still_counts(store: DuckDbStore) -> None:
    """Its latest sample is the one taken last, whatever came after."""
    store_samples(store, "web-1", [sample(NOW - SECOND, 7)])
    _lose(store, "web-1", 2, 5, NOW - HOUR)
    assert fleet_states(store, {}, NOW)["close_wait"] == 7


def test_hosts_with_wrong_clocks_are_named_most_first(store: DuckDbStore) -> None:
    """Behind and ahead, of those that report, by their latest sample."""
    for name, skew, ago in (("slow", HOUR, 0), ("fast", -2 * HOUR, 0), ("mended", 0, 0), ("gone", HOUR, MINUTE)):
        batch = Batch()
        batch.hosts[host_key(name)] = record(hello(name))
        for sequence, off in ((1, HOUR), (2, skew)):
            at = NOW - ago - (2 - sequence) * SECOND
            batch.add(host_key(name), report(name, sequence, sample(at - off, 1)), at, skew=off)
        store.write(batch)
    assert skewed_hosts(store, {}, NOW, 10) == [
        NotedHost(host_id("fast"), "fast", -2 * HOUR),
        NotedHost(host_id("slow"), "slow", HOUR),
    ]
    assert fleet_coverage(store, {}, NOW).hosts_skewed == 2


def test_hosts_that_leave_something_out_are_named_most_first(store: DuckDbStore) -> None:
    """By their latest sample: what waited on them before tells what was."""
    for name, step in (("a", 1), ("b", 4), ("c", 0)):
        taken = sample(NOW, 1)
        taken.degradation = sample_pb2.Degradation.ValueType(step)
        store_samples(store, name, [taken])
    late = sample(NOW - MINUTE, 1)
    late.degradation = sample_pb2.DEGRADATION_NO_DETAIL
    store.write(batch_of(report("c", 1, late, epoch=8)))
    assert degraded_hosts(store, {}, NOW, 10) == [NotedHost(host_id("b"), "b", 4), NotedHost(host_id("a"), "a", 1)]
    assert fleet_coverage(store, {}, NOW).hosts_degraded == 2


def test_a_host_that_is_long_gone_is_not_silent_any_more(store: DuckDbStore) -> None:
    """Though it is still known, as its rollups are kept for longer."""
    put_host(store, record(hello("web-1")), NOW)
    assert fleet_coverage(store, {}, NOW + 31 * 24 * HOUR).hosts_silent == 1
    assert [host.hostname for host in silent_hosts(store, {}, NOW + 31 * 24 * HOUR, 10)] == ["web-1"]
    assert fleet_coverage(store, {}, NOW + 31 * 24 * HOUR + 1).hosts == 0
    assert silent_hosts(store, {}, NOW + 31 * 24 * HOUR + 1, 10) == []
