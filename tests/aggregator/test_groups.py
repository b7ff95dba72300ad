"""Groups of hosts by the value of a label: what is added up, what is the largest, and who is in which."""

from __future__ import annotations

from typing import Any

import pytest

from loiter.v1 import sample_pb2 as pb
from loiter_aggregator.ranking.forecast import group_forecasts
from loiter_aggregator.ranking.groups import GroupRow, group_trends, label_names, rank_groups
from loiter_aggregator.ranking.query import By, CloseWait, TimeWait
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import put_host, ranking, record, store_samples
from support.reports import MINUTE, NOW, explained, hello, process, sample


def store_leak(store: DuckDbStore, name: str, step: int, at: int = NOW, **labels: str) -> None:
    """A host that gains `step` CLOSE_WAIT sockets a minute, five samples, the last at a time."""
    store_samples(
        store,
        name,
        [
            sample(
                at - (4 - tick) * MINUTE,
                100 + step * tick,
                time_wait=10 * step,
                established=7,
                processes=[process(100, 100 + step * tick, fd_open=200 + step * tick, fd_limit=1_000)],
            )
            for tick in range(5)
        ],
        labels=labels,
    )


def near(value: float) -> Any:
    """Equal but for rounding."""
    return pytest.approx(value)


def by_value(store: DuckDbStore, label: str = "role", by: By = "close_wait_growth") -> dict[str | None, GroupRow]:
    """The groups, by the value of the label, in their order."""
    return {row.value: row for row in rank_groups(store, ranking(by), label)}


def test_a_group_adds_up_its_hosts(store: DuckDbStore) -> None:
    """Counts and growth; the hosts without the label are a group of their own."""
    store_leak(store, "web-1", 1, role="web")
    store_leak(store, "web-2", 2, role="web")
    store_leak(store, "bare", 5)
    store_leak(store, "other", 0, rack="7")
    groups = by_value(store)
    assert list(groups) == [None, "web"]
    web = groups["web"]
    assert (web.hosts, web.silent_hosts, web.established, web.fd_share) == (2, 0, 14, 0.208)
    assert web.close_wait == CloseWait(212, 212, near(180), near(1), 10)
    assert web.time_wait == TimeWait(30, 30, 30)
    assert groups[None].hosts == 2
    assert groups[None].close_wait.growth_per_hour == near(300)


def test_an_empty_value_is_a_value(store: DuckDbStore) -> None:
    """And not the lack of the label."""
    store_leak(store, "blank", 1, role="")
    store_leak(store, "bare", 2)
    assert list(by_value(store)) == [None, ""]


def test_labels_of_the_question_choose_the_hosts(store: DuckDbStore) -> None:
    """The same label may be asked for, or another; what a label is called is no SQL."""
    store_leak(store, "web-1", 1, role="web", zone="a")
    store_leak(store, "db-1", 2, role="db", zone="a")
    store_leak(store, "db-2", 4, role="db", zone="b")
    assert [row.value for row in rank_groups(store, ranking(labels={"zone": "a"}), "role")] == ["db", "web"]
    assert [row.value for row in rank_groups(store, ranking(labels={"role": "db"}), "role")] == ["db"]
    assert [(row.value, row.hosts) for row in rank_groups(store, ranking(), "zone")] == [("b", 1), ("a", 2)]
    assert [(row.value, row.hosts) for row in rank_groups(store, ranking(), "' OR 1=1 --")] == [(None, 3)]


def test_hosts_without_a_sample_in_the_window_are_in_no_group(store: DuckDbStore) -> None:
    """Those that have fallen silent since are, and are counted."""
    store_leak(store, "web-1", 1, role="web")
    store_leak(store, "web-2", 2, at=NOW - 30 * MINUTE, role="web")
    store_leak(store, "web-3", 4, at=NOW - 100 * MINUTE, role="web")
    put_host(store, record(hello("web-4", labels={"role": "db"})), NOW)
    (row,) = rank_groups(store, ranking(), "role")
    assert (row.value, row.hosts, row.silent_hosts) == ("web", 2, 1)
    assert row.close_wait.growth_per_hour == near(180)


def test_a_host_that_joins_is_no_leap(store: DuckDbStore) -> None:
    """The slope is the sum of the slopes of hosts, each of which stands still."""
    steady = [sample(NOW - (9 - tick) * MINUTE, 50) for tick in range(10)]
    store_samples(store, "web-1", steady, labels={"role": "web"})
    store_samples(store, "web-2", steady[5:], labels={"role": "web"})
    (row,) = rank_groups(store, ranking(), "role")
    assert row.close_wait == CloseWait(100, 100, 0, None, 15)


def test_a_group_has_the_cause_of_most_of_its_sockets_and_the_fullest_of_its_limits(store: DuckDbStore) -> None:
    """Over hosts: two that pool 6 each outweigh one that leaks 10, though no host has more of one than that."""
    pooling = explained(process(1, 6, fd_open=10, fd_limit=100), pb.CAUSE_IDLE_POOL, stuck=1)
    leaking = explained(process(2, 10, fd_open=90, fd_limit=100), pb.CAUSE_LEAK, stuck=3)
    for name, one, used in (("web-1", pooling, 1), ("web-2", pooling, 7), ("web-3", leaking, 2)):
        taken = sample(NOW, one.close_wait, processes=[one, process(9, 500)])
        taken.ports.add(used=used, available=10)
        store_samples(store, name, [taken], labels={"role": "web"})
    (row,) = rank_groups(store, ranking(), "role")
    assert (row.cause, row.stuck, row.fd_share, row.ports_share) == (pb.CAUSE_IDLE_POOL, 5, 0.9, 0.7)


def test_what_is_unknown_is_not_zero(store: DuckDbStore) -> None:
    """Of a group of which nothing is known, and of whether sockets are stuck where causes were left out."""
    store_samples(store, "web-1", [sample(NOW)], labels={"role": "web"})
    row = by_value(store)["web"]
    assert (row.close_wait, row.time_wait) == (CloseWait(None, None, None, None, 0), TimeWait(None, None, None))
    assert (row.established, row.fd_share, row.cause, row.stuck, row.ports_share) == (None,) * 5
    degraded = sample(NOW, 9, processes=[process(20, 9)])
    degraded.degradation = pb.DEGRADATION_NO_DETAIL
    store_samples(store, "db-1", [degraded], labels={"role": "db"})
    store_samples(store, "db-2", [sample(NOW, 0)], labels={"role": "db"})
    assert by_value(store)["db"].stuck is None
    taken = explained(process(30, 4), pb.CAUSE_LEAK, stuck=3)
    store_samples(store, "db-3", [sample(NOW, 4, processes=[taken])], labels={"role": "db"})
    assert by_value(store)["db"].stuck == 3, "at least"


def test_each_measure_ranks_groups_and_the_unknown_is_last(store: DuckDbStore) -> None:
    """By growth, sockets, TIME_WAIT, descriptors and the time that they last; ties by the value."""
    store_leak(store, "slow", 1, role="slow")
    store_leak(store, "fast", 20, role="fast")
    store_samples(store, "idle", [sample(NOW)], labels={"role": "idle"})
    store_samples(store, "bare", [sample(NOW)])
    measures: tuple[By, ...] = ("close_wait_growth", "close_wait", "time_wait", "time_wait_max", "fd_share", "fd_eta")
    for by in measures:
        assert list(by_value(store, by=by)) == ["fast", "slow", "idle", None], by
    assert [row.value for row in rank_groups(store, ranking(limit=2), "role")] == ["fast", "slow"]


def test_a_group_has_the_trend_of_its_hosts_and_the_forecast_of_the_first_to_run_out(store: DuckDbStore) -> None:
    """Maxima of the hosts added up, part by part; the hosts without the label have theirs."""
    store_leak(store, "web-1", 10, role="web")
    store_leak(store, "web-2", 20, role="web")
    store_leak(store, "bare", 0)
    asked = ranking(window_ms=20 * MINUTE)
    trends = group_trends(store, asked, "role")
    assert trends["web"] == (None,) * 16 + (200, 230, 260, 320)
    assert trends[None] == (None,) * 16 + (100,) * 4
    forecasts = group_forecasts(store, asked, "role")
    assert forecasts.keys() == {"web"}
    assert forecasts["web"].growth_per_hour == near(1_200)
    assert forecasts["web"].seconds == near((1_000 - 280) / 20 * 60)


def test_the_labels_that_hosts_carry_are_listed(store: DuckDbStore) -> None:
    """Each once, in order."""
    store_leak(store, "web-1", 1, role="web", zone="a")
    store_leak(store, "web-2", 1, role="db", rack="7")
    assert label_names(store, 10) == ["rack", "role", "zone"]
    assert label_names(store, 2) == ["rack", "role"]
