"""When descriptors run out, against figures computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loiter_aggregator.ranking.apps import rank_apps
from loiter_aggregator.ranking.forecast import (
    QUANTILE,
    Forecast,
    app_forecasts,
    host_forecasts,
    process_forecasts,
)
from loiter_aggregator.ranking.hosts import rank_hosts
from loiter_aggregator.ranking.processes import rank_processes
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import host_key, ranking, store_samples
from support.reports import HOUR, MINUTE, NOW, process, sample

START = NOW - 24 * HOUR
Points = Sequence[int | None]


def store_descriptors(
    store: DuckDbStore,
    opens: Points,
    *,
    limit: int | None = 1_019,
    close_waits: Points | None = None,
    host: str = "web-1",
    pid: int = 100,
    app: str = "gateway.service",
) -> None:
    """Stores a process with so many open descriptors, a sample a minute, the last at NOW."""
    taken = []
    for index, fd_open in enumerate(opens):
        close_wait = close_waits[index] if close_waits else None
        one = process(pid, close_wait, app=app, name=app, start=START, fd_open=fd_open, fd_limit=limit)
        taken.append(sample(NOW - (len(opens) - 1 - index) * MINUTE, processes=[one]))
    store_samples(store, host, taken)


def forecast(store: DuckDbStore, *, host: str = "web-1", pid: int = 100, window_ms: int = HOUR) -> Forecast | None:
    """The forecast of the process."""
    series = (host_key(host), pid, START)
    return process_forecasts(store, ranking(window_ms=window_ms), [series]).get(series)


def test_descriptors_on_a_line_run_out_when_it_meets_the_limit(store: DuckDbStore) -> None:
    """Two more each minute, 1,000 left: 500 minutes, and no doubt about it."""
    store_descriptors(store, [13, 15, 17, 19], close_waits=[1, 2, 3, 4])
    found = forecast(store)
    assert found is not None
    assert found.seconds == pytest.approx(500 * 60)
    assert found.earliest_seconds == pytest.approx(500 * 60)
    assert found.latest_seconds == pytest.approx(500 * 60)
    assert found.growth_per_hour == pytest.approx(120)
    assert found.close_wait_share == pytest.approx(0.5)


def test_the_interval_is_that_of_students_t(store: DuckDbStore) -> None:
    """Slope 2.8 a minute; Σe² = 2.8, so s = √(1.4 / 5) = 0.52915; t(0.975, 2) = 4.303: 2.8 ± 2.27694."""
    store_descriptors(store, [10, 13, 14, 19], close_waits=[0, 1, 2, 3])
    found = forecast(store)
    assert found is not None
    assert found.growth_per_hour == pytest.approx(168)
    assert found.seconds == pytest.approx(60 * 1_000 / 2.8)
    assert found.earliest_seconds == pytest.approx(60 * 1_000 / 5.07694, rel=1e-5)
    assert found.latest_seconds == pytest.approx(60 * 1_000 / 0.52306, rel=1e-4)
    assert found.close_wait_share == pytest.approx(1 / 2.8)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (5, 2.571), (6, 2.4469), (10, 2.2281), (30, 2.0423), (120, 1.9799), (10**9, 1.95996)],
)
def test_the_quantile_is_that_of_the_tables(store: DuckDbStore, freedom: int, quantile: float) -> None:
    """Of Student's t, 0.975, as printed in any table of it."""
    ((found,),) = store.read(f"SELECT {QUANTILE} FROM (SELECT CAST({freedom + 2} AS BIGINT) AS n)")
    assert float(found) == pytest.approx(quantile, abs=2e-3)


@pytest.mark.parametrize(
    "opens",
    [
        pytest.param([10, 1_000], id="two samples"),
        pytest.param([50, 50, 50, 50], id="no growth"),
        pytest.param([40, 30, 20, 10], id="fewer and fewer"),
        pytest.param([10, 14, 11, 15], id="1.2 a minute, give or take 4.3"),
        pytest.param([None, 10, None, 20], id="unknown in all but two"),
        pytest.param([10, 20, 30, None], id="unknown now"),
    ],
)
def test_what_can_not_be_told_has_no_forecast(store: DuckDbStore, opens: Points) -> None:
    """No figure rather than one that means nothing."""
    store_descriptors(store, opens)
    assert forecast(store) is None


@pytest.mark.parametrize("limit", [None, 2**64 - 1])
def test_without_a_limit_there_is_nothing_to_run_out_of(store: DuckDbStore, limit: int | None) -> None:
    """One that is not known, and RLIM_INFINITY."""
    store_descriptors(store, [10, 20, 30, 40], limit=limit)
    assert forecast(store) is None


def test_a_process_over_its_limit_has_no_time_left(store: DuckDbStore) -> None:
    """A limit can be lowered below what is open."""
    store_descriptors(store, [10, 20, 30, 40], limit=20)
    found = forecast(store)
    assert found is not None
    assert (found.seconds, found.earliest_seconds, found.latest_seconds) == (0, 0, 0)


@pytest.mark.parametrize(
    ("opens", "growth"),
    [
        pytest.param([1_024], None, id="one sample"),
        pytest.param([10, 1_024], None, id="two samples"),
        pytest.param([1_024] * 4, 0, id="no growth any more"),
        pytest.param([1_030, 1_028, 1_026, 1_024], -120, id="fewer, and still too many"),
        pytest.param([1_030] * 4, 0, id="more than allowed"),
    ],
)
def test_a_process_without_a_descriptor_left_has_no_time_left(
    store: DuckDbStore, opens: Points, growth: float | None
) -> None:
    """It may grow no more just because it can not. Where there is no line, there is no interval."""
    store_descriptors(store, opens, limit=1_024)
    found = forecast(store)
    assert found is not None
    edges = None if growth is None else 0
    assert (found.seconds, found.earliest_seconds, found.latest_seconds) == (0, edges, edges)
    assert found.growth_per_hour == (None if growth is None else pytest.approx(growth))
    assert found.close_wait_share is None


def test_who_has_no_descriptor_left_is_ranked_first(store: DuckDbStore) -> None:
    """Of hosts, processes and apps, before one that is about to run out."""
    for host, opens in (("soon", [100, 400, 700, 1_000]), ("full", [1_019] * 4), ("idle", [9] * 4)):
        store_descriptors(store, opens, host=host, app=host)
    asked = ranking("fd_eta")
    assert [row.hostname for row in rank_hosts(store, asked)] == ["full", "soon", "idle"]
    assert [row.hostname for row in rank_processes(store, asked)] == ["full", "soon", "idle"]
    assert [row.app for row in rank_apps(store, asked)] == ["full", "soon", "idle"]


def _noise(count: int) -> list[int]:
    """As many as asked for, from -3 to 3, without a trend: the same each time."""
    return [(index * 37 + index * index * 11) % 7 - 3 for index in range(count)]


@pytest.mark.parametrize(
    "opens",
    [
        pytest.param([10, 20, 30, 30, 30, 30], id="few samples"),
        pytest.param([50 + 20 * tick for tick in range(20)] + [450] * 10, id="a ramp, then ten minutes without growth"),
        pytest.param([50 + 20 * min(tick, 40) + one for tick, one in enumerate(_noise(60))], id="with noise"),
        pytest.param([50 + 5 * min(tick, 80 - tick) for tick in range(60)], id="a ramp, and less since"),
    ],
)
def test_growth_that_is_over_has_no_forecast(store: DuckDbStore, opens: Points) -> None:
    """Although a line through all of the window rises beyond doubt."""
    store_descriptors(store, opens, limit=2_000)
    assert forecast(store) is None


@pytest.mark.parametrize(
    "opens",
    [
        pytest.param([50 + tick // 4 for tick in range(60)], id="one in four minutes"),
        pytest.param([50 + 2 * tick + one for tick, one in enumerate(_noise(60))], id="with noise"),
        pytest.param([50] * 20 + [50 + 5 * tick for tick in range(40)], id="since a while"),
        pytest.param([50, 60, None, None, 70, 80, None, 90, 100], id="with gaps"),
        pytest.param([10, 20, 30], id="three samples"),
    ],
)
def test_growth_that_goes_on_has_a_forecast(store: DuckDbStore, opens: Points) -> None:
    """In steps, with noise, and begun late."""
    store_descriptors(store, opens, limit=2_000)
    assert forecast(store) is not None


@pytest.mark.parametrize(
    ("close_waits", "share"),
    [([9, 6, 3, 0], 0), ([0, 90, 180, 270], 1), ([0, None, 20, 30], None), (None, None)],
)
def test_the_share_that_close_wait_explains_is_between_nothing_and_all(
    store: DuckDbStore, close_waits: Points | None, share: float | None
) -> None:
    """Unknown where CLOSE_WAIT is not known in every one of the samples."""
    store_descriptors(store, [10, 20, 30, 40], close_waits=close_waits)
    found = forecast(store)
    assert found is not None
    assert found.close_wait_share == share


def test_only_the_window_counts(store: DuckDbStore) -> None:
    """What was opened before it is the past."""
    store_descriptors(store, [10, 500, 500, 500, 500])
    assert forecast(store, window_ms=3 * MINUTE) is None
    store_descriptors(store, [10, 10, 11, 12, 13], host="web-2")
    found = forecast(store, host="web-2", window_ms=3 * MINUTE)
    assert found is not None
    assert found.growth_per_hour == pytest.approx(60)


def test_large_numbers_leave_the_line_straight(store: DuckDbStore) -> None:
    """A million descriptors and a window of a year are no noise."""
    store_descriptors(store, [1_000_000 + index for index in range(60)], limit=2**30)
    found = forecast(store, window_ms=366 * 24 * HOUR)
    assert found is not None
    assert found.growth_per_hour == pytest.approx(60, rel=1e-6)
    assert found.latest_seconds == pytest.approx(found.seconds, rel=1e-3)


def test_the_first_to_run_out_stands_for_its_host_and_app(store: DuckDbStore) -> None:
    """With all of its own figures."""
    for host, pid, step, app in (("web-1", 100, 1, "a"), ("web-2", 100, 5, "a"), ("web-3", 100, 50, "b")):
        store_descriptors(store, [step * index for index in range(4)], host=host, pid=pid, app=app)
    asked = ranking()
    hosts = host_forecasts(store, asked, [host_key("web-1"), host_key("web-2")])
    assert {key: found.growth_per_hour for key, found in hosts.items()} == {
        host_key("web-1"): pytest.approx(60),
        host_key("web-2"): pytest.approx(300),
    }
    apps = app_forecasts(store, asked, ["a", "b", "' OR 1=1"])
    assert {app: found.growth_per_hour for app, found in apps.items()} == {
        "a": pytest.approx(300),
        "b": pytest.approx(3_000),
    }


def test_a_ranking_by_the_time_left_has_the_least_first_and_the_unknown_last(store: DuckDbStore) -> None:
    """Hosts, processes and apps alike."""
    for host, opens in (("slow", [1, 2, 3, 4]), ("idle", [9, 9, 9, 9]), ("fast", [10, 40, 70, 100])):
        store_descriptors(store, opens, host=host, app=host)
    asked = ranking("fd_eta")
    assert [row.hostname for row in rank_hosts(store, asked)] == ["fast", "slow", "idle"]
    assert [row.hostname for row in rank_processes(store, asked)] == ["fast", "slow", "idle"]
    assert [row.app for row in rank_apps(store, asked)] == ["fast", "slow", "idle"]


def test_the_forecasts_of_nothing_are_nothing(store: DuckDbStore) -> None:
    """No rows, no query."""
    assert process_forecasts(store, ranking(), []) == {}
    assert host_forecasts(store, ranking(), []) == {}
    assert app_forecasts(store, ranking(), []) == {}
