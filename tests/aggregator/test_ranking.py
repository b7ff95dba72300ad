"""Rankings say what a plain computation over the same samples says, and order by it."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loiter.v1 import sample_pb2 as pb
from loiter_aggregator.ranking.apps import AppRow, app_trends, rank_apps
from loiter_aggregator.ranking.fleet import fleet_states, fleet_trend
from loiter_aggregator.ranking.forecast import process_forecasts
from loiter_aggregator.ranking.groups import GroupRow, rank_groups
from loiter_aggregator.ranking.history import History, app_history, host_history
from loiter_aggregator.ranking.hosts import host_trends, rank_hosts
from loiter_aggregator.ranking.processes import Ages, process_trends, rank_processes
from loiter_aggregator.ranking.query import TREND_PARTS, By, CloseWait, TimeWait
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import batch_of, host_key, open_store, ranking, record, store_samples
from support.reports import HOUR, MINUTE, NOW, SECOND, explained, hello, host_id, process, report, sample

# The plain computation.


class Point(NamedTuple):
    """One sample of one series: its time and counts, None where unknown."""

    at: int
    close_wait: int | None
    time_wait: int | None


@dataclass(frozen=True)
class Line:
    """A series looked at by itself."""

    current: int | None
    maximum: int | None
    growth: float | None
    fit: float | None
    samples: int
    residual: float
    variance: float
    time_wait_mean: float | None
    time_wait_max: int | None
    time_wait: int | None


def line_of(points: Sequence[Point]) -> Line:
    """Fits a line by its definition: from deviations, with r² from what the line leaves over."""
    known = [(point.at, point.close_wait) for point in points if point.close_wait is not None]
    waits = [point.time_wait for point in points if point.time_wait is not None]
    growth = fit = None
    residual = variance = 0.0
    if len(known) >= 3:
        hours = np.array([at - NOW for at, _ in known], dtype=float) / HOUR
        counts = np.array([count for _, count in known], dtype=float)
        hours -= hours.mean()
        counts -= counts.mean()
        growth = float((hours * counts).sum() / (hours * hours).sum())
        if len({count for _, count in known}) > 1:
            residual = float(((counts - growth * hours) ** 2).sum())
            variance = float((counts**2).sum())
            fit = 1 - residual / variance
    return Line(
        current=points[-1].close_wait,
        maximum=max((count for _, count in known), default=None),
        growth=growth,
        fit=fit,
        samples=len(known),
        residual=residual,
        variance=variance,
        time_wait_mean=float(np.mean(waits)) if waits else None,
        time_wait_max=max(waits, default=None),
        time_wait=points[-1].time_wait,
    )


def total(values: Sequence[float | None]) -> float | None:
    """The sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def near(value: float | None) -> Any:
    """Equal but for rounding; None only to None."""
    return None if value is None else pytest.approx(value, rel=1e-6, abs=1e-5)


# Random fleets.

Key = tuple[int, int, str]  # pid, start time, app
KEYS: tuple[Key, ...] = (
    (100, NOW - 2 * HOUR, "gateway.service"),
    (100, NOW - HOUR, "gateway.service"),  # the same pid after a restart
    (200, NOW - 2 * HOUR, "gateway.service"),
    (300, NOW - 2 * HOUR, "worker.service"),
)
Counts = tuple[int | None, int | None]


class Tick(NamedTuple):
    """One tick of one host."""

    gap: int
    counts: Counts
    processes: Mapping[Key, Counts]


COUNT = st.integers(0, 50_000)
COUNTS = st.tuples(COUNT, st.none() | COUNT)
TICK = st.builds(
    Tick,
    gap=st.integers(500, 60_000),
    counts=COUNTS,
    processes=st.dictionaries(st.sampled_from(KEYS), COUNTS, max_size=3).map(
        lambda found: {key: counts for key, counts in found.items() if key[:1] != (100,) or key == min(found)}
    ),
)
FLEET = st.lists(st.lists(TICK, min_size=1, max_size=25), min_size=1, max_size=3)
ROLES = st.tuples(*[st.sampled_from(("web", "", None))] * 3)


class Series(NamedTuple):
    """What the samples of a fleet say, series by series."""

    hosts: dict[str, list[Point]]
    processes: dict[tuple[str, Key], list[Point]]


def store_fleet(
    store: DuckDbStore, run: str, fleet: Sequence[Sequence[Tick]], roles: Sequence[str | None] = (None,) * 3
) -> Series:
    """Stores the fleet under the label `run`, and of each host its `role`; the last tick of each host is at NOW."""
    series = Series({}, defaultdict(list))
    for number, ticks in enumerate(fleet):
        name = f"{run}-{number}"
        at = NOW - sum(tick.gap for tick in ticks[1:])
        samples = []
        points = series.hosts[name] = []
        for index, tick in enumerate(ticks):
            at += tick.gap if index else 0
            points.append(Point(at, *tick.counts))
            for key, counts in tick.processes.items():
                series.processes[name, key].append(Point(at, *counts))
            samples.append(
                sample(
                    at,
                    tick.counts[0],
                    time_wait=tick.counts[1],
                    processes=[
                        process(pid, close_wait, start=start, app=app, name=app, time_wait=time_wait)
                        for (pid, start, app), (close_wait, time_wait) in tick.processes.items()
                    ],
                )
            )
        role = roles[number]
        store_samples(store, name, samples, labels={"run": run} | ({} if role is None else {"role": role}))
    return series


def check(close_wait: CloseWait, time_wait: TimeWait, points: Sequence[Point]) -> None:
    """Compares the figures of one series."""
    line = line_of(points)
    assert close_wait.samples == line.samples
    assert close_wait.maximum == line.maximum
    assert close_wait.growth_per_hour == near(line.growth)
    assert close_wait.growth_fit == near(line.fit)
    assert time_wait.mean == near(line.time_wait_mean)
    assert time_wait.maximum == line.time_wait_max
    if line.current is not None:
        assert close_wait.current == line.current
    if line.time_wait is not None:
        assert time_wait.current == line.time_wait


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDbStore]:
    """A store for all examples of a property; each has a label of its own."""
    opened = open_store(tmp_path_factory.mktemp("ranking"))
    yield opened
    opened.close()


RUNS = itertools.count()


@settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(fleet=FLEET, roles=ROLES)
def test_figures_are_those_of_a_plain_computation(
    shared_store: DuckDbStore, fleet: list[list[Tick]], roles: tuple[str | None, ...]
) -> None:
    """Growth, r², mean, maximum and counts of hosts, processes, apps and groups; nobody is left out or added."""
    run = f"run{next(RUNS)}"
    series = store_fleet(shared_store, run, fleet, roles)
    asked = ranking(labels={"run": run})

    hosts = rank_hosts(shared_store, asked)
    assert sorted(row.hostname for row in hosts) == sorted(series.hosts)
    for host in hosts:
        check(host.close_wait, host.time_wait, series.hosts[host.hostname])

    present = {name: points for name, points in series.processes.items() if points[-1].at == NOW}
    rows = rank_processes(shared_store, asked)
    assert sorted((row.hostname, (row.pid, row.start_time, row.app)) for row in rows) == sorted(present)
    for row in rows:
        check(row.close_wait, row.time_wait, present[row.hostname, (row.pid, row.start_time, row.app)])

    apps = {row.app: row for row in rank_apps(shared_store, asked)}
    assert sorted(apps) == sorted({key[2] for _, key in present})
    for app, ranked in apps.items():
        check_app(ranked, {name: points for name, points in present.items() if name[1][2] == app})

    role_of = dict(zip(series.hosts, roles, strict=False))
    groups = {row.value: row for row in rank_groups(shared_store, asked, "role")}
    assert groups.keys() == set(role_of.values())
    for value, group in groups.items():
        check_group(group, [points for name, points in series.hosts.items() if role_of[name] == value])


def check_app(row: AppRow, members: Mapping[tuple[str, Key], Sequence[Point]]) -> None:
    """Compares the figures of one application with those of its processes."""
    assert row.hosts == len({hostname for hostname, _ in members})
    assert row.processes == len(members)
    check_sums(row.close_wait, row.time_wait, list(members.values()))


def check_group(row: GroupRow, members: Sequence[Sequence[Point]]) -> None:
    """Compares the figures of one group with those of its hosts."""
    assert (row.hosts, row.silent_hosts) == (len(members), 0)
    check_sums(row.close_wait, row.time_wait, members)
    assert row.close_wait.current == total([points[-1].close_wait for points in members])
    assert row.time_wait.current == total([points[-1].time_wait for points in members])


def check_sums(close_wait: CloseWait, time_wait: TimeWait, members: Sequence[Sequence[Point]]) -> None:
    """Compares figures with those of many series, added up."""
    lines = [line_of(points) for points in members]
    variance = sum(line.variance for line in lines)
    assert close_wait.samples == sum(line.samples for line in lines)
    assert close_wait.maximum == total([line.maximum for line in lines])
    assert close_wait.growth_per_hour == near(total([line.growth for line in lines]))
    assert close_wait.growth_fit == near(1 - sum(line.residual for line in lines) / variance if variance else None)
    assert time_wait.mean == near(total([line.time_wait_mean for line in lines]))
    assert time_wait.maximum == total([line.time_wait_max for line in lines])


# What the figures mean.


def ticks(*counts: int | None, every: int = MINUTE) -> list[tuple[int, int | None]]:
    """Counts at equal distances, the last at NOW."""
    return [(NOW - (len(counts) - 1 - index) * every, count) for index, count in enumerate(counts)]


def store_host(store: DuckDbStore, name: str, *counts: int | None, labels: Mapping[str, str] | None = None) -> None:
    """Stores a host with a CLOSE_WAIT count each minute."""
    store_samples(store, name, [sample(at, count) for at, count in ticks(*counts)], labels=labels)


def names(store: DuckDbStore, by: By = "close_wait_growth", **more: int) -> list[str]:
    """The hosts in the order in which they are ranked."""
    return [row.hostname for row in rank_hosts(store, ranking(by, **more))]  # type: ignore[arg-type]


def test_growth_is_in_sockets_per_hour(store: DuckDbStore) -> None:
    """Two more each minute are 120 an hour, and lie on a line."""
    store_host(store, "web-1", 10, 12, 14, 16)
    (row,) = rank_hosts(store, ranking())
    assert row.close_wait == CloseWait(16, 16, near(120), near(1), 4)


def test_a_leak_comes_before_noise(store: DuckDbStore) -> None:
    """However large and wild the noise is: a slow leak has the larger slope, and the line fits it."""
    wild = random.Random(7)
    noise = [wild.randrange(300, 900) for _ in range(30)]
    store_host(store, "noisy", *noise, *reversed(noise))  # a mirror image has no slope
    store_host(store, "leaking", *range(60))
    store_host(store, "draining", *range(60, 0, -1))
    assert names(store) == ["leaking", "noisy", "draining"]
    assert names(store, "close_wait") == ["noisy", "leaking", "draining"]
    fits = {row.hostname: row.close_wait.growth_fit for row in rank_hosts(store, ranking())}
    assert fits == {"leaking": near(1), "noisy": pytest.approx(0, abs=0.01), "draining": near(1)}


@pytest.mark.parametrize("counts", [(5,), (5, 9), (5, None, 9), (None, None, None)])
def test_fewer_than_three_samples_have_no_growth(store: DuckDbStore, counts: tuple[int | None, ...]) -> None:
    """Two points always lie on a line, and a sample without the count is none."""
    store_host(store, "web-1", *counts)
    (row,) = rank_hosts(store, ranking())
    assert row.close_wait.growth_per_hour is None
    assert row.close_wait.growth_fit is None


@pytest.mark.parametrize("count", [0, 7, 4_294_967_295])
def test_a_count_that_does_not_vary_grows_by_zero_and_has_no_fit(store: DuckDbStore, count: int) -> None:
    """Zero is exact, not what rounding left over."""
    store_host(store, "web-1", *[count] * 50)
    (row,) = rank_hosts(store, ranking())
    assert row.close_wait == CloseWait(count, count, 0, None, 50)


def test_a_host_that_never_knew_its_count_is_unknown_and_last(store: DuckDbStore) -> None:
    """NULL is not zero: it comes after a count that falls."""
    store_host(store, "unknown", None, None, None)
    store_host(store, "draining", 9, 6, 3)
    rows = rank_hosts(store, ranking())
    assert [row.hostname for row in rows] == ["draining", "unknown"]
    assert rows[1].close_wait == CloseWait(None, None, None, None, 0)
    assert rows[1].time_wait == TimeWait(None, None, None)
    assert (rows[1].established, rows[1].fd_allocated, rows[1].fd_limit, rows[1].fd_share) == (None,) * 4
    assert list(host_trends(store, ranking(), rows)) == [host_key("draining")]


def test_each_measure_ranks_by_its_own_figure(store: DuckDbStore) -> None:
    """Growth, count, TIME_WAIT and share of descriptors each put another host first; unknown is last."""

    def counts(name: str, close_waits: tuple[int, int, int], time_wait: int | None, fds: int | None) -> None:
        store_samples(
            store,
            name,
            [
                sample(at, count, time_wait=time_wait, fd_allocated=fds, fd_limit=None if fds is None else 1_000)
                for at, count in ticks(*close_waits)
            ],
        )

    counts("grows", (1, 2, 3), None, 100)
    counts("holds", (80, 80, 80), 50, 300)
    counts("churns", (0, 0, 0), 9_000, 200)
    counts("opens", (2, 2, 2), 10, None)
    assert names(store, "close_wait_growth")[0] == "grows"
    assert names(store, "close_wait") == ["holds", "grows", "opens", "churns"]
    assert names(store, "time_wait") == ["churns", "holds", "opens", "grows"]
    assert names(store, "time_wait_max") == ["churns", "holds", "opens", "grows"]
    assert names(store, "fd_share") == ["holds", "churns", "grows", "opens"]


def test_ties_are_broken_by_count_and_then_by_name(store: DuckDbStore) -> None:
    """The order is the same each time."""
    for name in ("web-3", "web-1", "web-2"):
        store_host(store, name, 4, 4, 4)
    store_host(store, "web-9", 5, 5, 5)
    assert names(store) == ["web-9", "web-1", "web-2", "web-3"]
    assert names(store, limit=2) == ["web-9", "web-1"]


def test_a_limit_on_descriptors_of_zero_has_no_share(store: DuckDbStore) -> None:
    """Nothing is divided by it."""
    store_samples(store, "web-1", [sample(NOW, fd_allocated=5, fd_limit=0, processes=[process(fd_open=5, fd_limit=0)])])
    assert rank_hosts(store, ranking())[0].fd_share is None
    assert rank_processes(store, ranking())[0].fd_share is None


def test_the_window_begins_with_its_first_millisecond(store: DuckDbStore) -> None:
    """A sample from then counts, one from before does not; a host without samples in it is not ranked."""
    since = NOW - 10 * MINUTE
    store_samples(store, "web-1", [sample(at, at - since + 1) for at in (since - 1, since, since + 1, NOW)])
    store_samples(store, "gone", [sample(since - 1, 900, processes=[process(close_wait=900)])])
    (row,) = rank_hosts(store, ranking(window_ms=10 * MINUTE))
    assert (row.hostname, row.close_wait.samples) == ("web-1", 3)
    assert rank_processes(store, ranking(window_ms=10 * MINUTE)) == []
    assert rank_apps(store, ranking(window_ms=10 * MINUTE)) == []


def test_one_host_can_be_looked_at_alone(store: DuckDbStore) -> None:
    """By its key."""
    for name in ("web-1", "web-2"):
        store_samples(store, name, [sample(NOW, 1, processes=[process()])])
    assert [row.hostname for row in rank_hosts(store, ranking(), host_key("web-2"))] == ["web-2"]
    assert [row.hostname for row in rank_processes(store, ranking(), host_key("web-2"))] == ["web-2"]


def test_labels_keep_the_hosts_that_carry_all_of_them(store: DuckDbStore) -> None:
    """For hosts, processes and apps alike."""
    for name, labels in (
        ("web-1", {"role": "web", "dc": "fra1"}),
        ("web-2", {"role": "web", "dc": "ams1"}),
        ("db-1", {"role": "db", "dc": "fra1"}),
        ("bare", {}),
    ):
        store_samples(store, name, [sample(NOW, 1, processes=[process(close_wait=1, app=name)])], labels=labels)

    def found(labels: Mapping[str, str]) -> list[list[str]]:
        asked = ranking(labels=labels)
        return [
            sorted(row.hostname for row in rank_hosts(store, asked)),
            sorted(row.hostname for row in rank_processes(store, asked)),
            sorted(row.app for row in rank_apps(store, asked)),
        ]

    assert found({}) == [["bare", "db-1", "web-1", "web-2"]] * 3
    assert found({"role": "web"}) == [["web-1", "web-2"]] * 3
    assert found({"role": "web", "dc": "fra1"}) == [["web-1"]] * 3
    assert found({"role": "web", "dc": "nowhere"}) == [[]] * 3
    assert found({"rôle": "web"}) == [[]] * 3


# Processes.


def test_a_restart_starts_a_new_series(store: DuckDbStore) -> None:
    """The same pid with another start time is another process: its growth does not begin with a drop."""
    old = [process(100, count, start=NOW - HOUR) for count in (50, 60, 70)]
    new = [process(100, count, start=NOW - 3 * MINUTE) for count in (0, 10, 20)]
    store_samples(
        store,
        "web-1",
        [sample(at, processes=[old[i] if i < 3 else new[i - 3]]) for i, (at, _) in enumerate(ticks(*range(6)))],
    )
    (row,) = rank_processes(store, ranking())
    assert row.start_time == NOW - 3 * MINUTE
    assert row.close_wait == CloseWait(20, 20, near(600), near(1), 3)


def test_a_process_that_is_not_in_the_latest_sample_of_its_host_is_not_ranked(store: DuckDbStore) -> None:
    """It has ended, or has nothing to show any more. The latest sample of another host is no matter."""
    store_samples(
        store,
        "web-1",
        [sample(NOW - MINUTE, processes=[process(100, 9), process(200, 9)]), sample(NOW, processes=[process(200, 9)])],
    )
    store_samples(store, "late", [sample(NOW - 30 * MINUTE, processes=[process(300, 9)])])
    assert [(row.hostname, row.pid) for row in rank_processes(store, ranking())] == [("late", 300), ("web-1", 200)]


def test_a_sample_without_processes_leaves_none_to_rank(store: DuckDbStore) -> None:
    """The host's sample counts, not that of its last process."""
    store_samples(store, "web-1", [sample(NOW - MINUTE, processes=[process(100, 9)]), sample(NOW)])
    assert rank_processes(store, ranking()) == []


def test_a_process_is_shown_with_its_facts(store: DuckDbStore) -> None:
    """Names from the latest sample, times to the millisecond, limits beyond 32 bits."""
    start = NOW - HOUR + 123
    store_samples(
        store,
        "web-1",
        [
            sample(NOW - MINUTE, processes=[process(100, 1, name="sh", app="sh", start=start)]),
            sample(
                NOW,
                processes=[
                    process(
                        100, 2, name="gw", app="gw.service", user="www", start=start, established=7, time_wait=3,
                        fd_open=512, fd_limit=2**40,
                    )
                ],
            ),
        ],
    )  # fmt: skip
    (row,) = rank_processes(store, ranking())
    assert (row.host_id, row.hostname, row.pid, row.start_time) == (host_id("web-1"), "web-1", 100, start)
    assert (row.name, row.app, row.user, row.last_sample) == ("gw", "gw.service", "www", NOW)
    assert (row.established, row.fd_open, row.fd_limit) == (7, 512, 2**40)
    assert row.fd_share == near(512 / 2**40)
    assert row.time_wait == TimeWait(3, 3, 3)
    assert row.series == (host_key("web-1"), 100, start)


def test_ties_between_processes_are_broken_by_host_and_pid(store: DuckDbStore) -> None:
    """The order is the same each time."""
    for name in ("web-2", "web-1"):
        store_samples(store, name, [sample(NOW, processes=[process(pid, 1) for pid in (30, 10, 20)])])
    assert [(row.hostname, row.pid) for row in rank_processes(store, ranking(limit=4))] == [
        ("web-1", 10),
        ("web-1", 20),
        ("web-1", 30),
        ("web-2", 10),
    ]


# Applications.


def test_an_app_adds_up_its_processes(store: DuckDbStore) -> None:
    """Over processes and hosts: counts, growth and maxima are sums, the share of descriptors is the largest."""
    for name, step in (("web-1", 1), ("web-2", 2)):
        store_samples(
            store,
            name,
            [
                sample(
                    at,
                    processes=[
                        process(100, step * index, established=10, time_wait=4, fd_open=50 * step, fd_limit=1_000),
                        process(200, 5, established=1, fd_open=10, fd_limit=1_000),
                        process(300, 0, app="other", name="other"),
                    ],
                )
                for index, (at, _) in enumerate(ticks(*range(4)))
            ],
        )
    gateway, other = rank_apps(store, ranking())
    assert (gateway.app, gateway.hosts, gateway.processes) == ("gateway.service", 2, 4)
    assert gateway.close_wait == CloseWait(3 + 6 + 5 + 5, 19, near(180), near(1), 16)
    assert gateway.time_wait == TimeWait(8, 8, 8)
    assert gateway.established == 22
    assert gateway.fd_share == near(0.1)
    assert (other.app, other.hosts, other.processes) == ("other", 2, 2)
    assert other.close_wait == CloseWait(0, 0, 0, None, 8)
    assert (other.time_wait, other.established, other.fd_share) == (TimeWait(None, None, None), None, None)


def test_a_restart_is_no_drop_of_its_app(store: DuckDbStore) -> None:
    """The app grows by what its running processes grow."""
    samples = []
    for index, (at, _) in enumerate(ticks(*range(8))):
        restarted = index >= 4
        samples.append(
            sample(at, processes=[process(200 if restarted else 100, index % 4, start=NOW - HOUR + restarted)])
        )
    store_samples(store, "web-1", samples)
    (row,) = rank_apps(store, ranking())
    assert row.close_wait.growth_per_hour == near(60)
    assert row.close_wait.growth_fit == near(1)


def test_processes_of_different_size_do_not_spoil_the_fit_of_their_app(store: DuckDbStore) -> None:
    """The fit is within processes: that one holds 10 and the other 1,000 is no noise."""
    store_samples(
        store,
        "web-1",
        [
            sample(at, processes=[process(100, 10 + index), process(200, 1_000 + index)])
            for index, (at, _) in enumerate(ticks(*range(5)))
        ],
    )
    (row,) = rank_apps(store, ranking())
    assert row.close_wait.growth_fit == near(1)


def test_ties_between_apps_are_broken_by_name(store: DuckDbStore) -> None:
    """The order is the same each time."""
    store_samples(
        store,
        "web-1",
        [sample(NOW, processes=[process(pid, 1, app=app) for pid, app in ((1, "c"), (2, "a"), (3, "b"))])],
    )
    assert [row.app for row in rank_apps(store, ranking())] == ["a", "b", "c"]
    assert [row.app for row in rank_apps(store, ranking(limit=1))] == ["a"]


# Trends.


def parts(**values: float) -> tuple[float | None, ...]:
    """A trend with values in some parts, given as part0=…"""
    return tuple(values.get(f"part{part}") for part in range(TREND_PARTS))


def test_a_trend_is_the_maximum_in_each_part_of_the_window(store: DuckDbStore) -> None:
    """A part begins with its first millisecond; one without a known count is empty."""
    window = TREND_PARTS * MINUTE
    since = NOW - window
    counts = [
        (since, 3),
        (since + MINUTE - 1, 2),
        (since + MINUTE, 8),
        (since + 5 * MINUTE, None),
        (since + 19 * MINUTE, 1),
        (NOW - 1, 6),
    ]
    store_samples(store, "web-1", [sample(at, n, processes=[process(100, n), process(200, 1)]) for at, n in counts])
    asked = ranking(window_ms=window)

    hosts = rank_hosts(store, asked)
    assert host_trends(store, asked, hosts) == {host_key("web-1"): parts(part0=3, part1=8, part19=6)}

    rows = rank_processes(store, asked)
    found = process_trends(store, asked, rows)
    assert [found[row.series] for row in rows if row.pid == 100] == [parts(part0=3, part1=8, part19=6)]
    assert [found[row.series] for row in rows if row.pid == 200] == [parts(part0=1, part1=1, part5=1, part19=1)]

    apps = rank_apps(store, asked)
    assert app_trends(store, asked, apps) == {"gateway.service": parts(part0=4, part1=9, part5=1, part19=7)}


def test_the_trend_of_an_app_adds_up_its_hosts(store: DuckDbStore) -> None:
    """Each process with its maximum in the part."""
    for name in ("web-1", "web-2"):
        store_samples(store, name, [sample(NOW - at, processes=[process(100, at)]) for at in (3 * SECOND, SECOND)])
    apps = rank_apps(store, ranking())
    assert app_trends(store, ranking(), apps) == {"gateway.service": parts(part19=6_000)}


def test_the_trends_of_nothing_are_nothing(store: DuckDbStore) -> None:
    """No rows, no query."""
    assert host_trends(store, ranking(), []) == {}
    assert process_trends(store, ranking(), []) == {}
    assert app_trends(store, ranking(), []) == {}


def test_a_window_shorter_than_its_parts_still_has_a_trend(store: DuckDbStore) -> None:
    """A millisecond is divided by nothing smaller than itself."""
    store_host(store, "web-1", 4)
    asked = ranking(window_ms=1)
    found = host_trends(store, asked, rank_hosts(store, asked))
    assert found == {host_key("web-1"): parts(part19=4)}


def test_samples_with_an_unknown_count_are_left_out_of_the_line(store: DuckDbStore) -> None:
    """Neither their count nor their time takes part."""
    counts = (10, None, 12, None, 14)
    store_samples(store, "web-1", [sample(NOW - (4 - tick) * MINUTE, count) for tick, count in enumerate(counts)])
    (row,) = rank_hosts(store, ranking())
    assert row.close_wait.growth_per_hour == pytest.approx(60)
    assert row.close_wait.growth_fit == pytest.approx(1)
    assert row.close_wait.samples == 3


def test_an_unknown_latest_count_is_not_stood_in_for_by_an_older_one(store: DuckDbStore) -> None:
    """What was known a minute ago is not known now."""
    before = sample(NOW - MINUTE, 5, time_wait=7, processes=[process(close_wait=5)])
    store_samples(store, "web-1", [before, sample(NOW, processes=[process()])])
    (host,) = rank_hosts(store, ranking())
    (one,) = rank_processes(store, ranking())
    (app,) = rank_apps(store, ranking())
    assert (host.close_wait.current, host.time_wait.current, one.close_wait.current) == (None, None, None)
    assert app.close_wait.current is None
    assert (host.close_wait.maximum, one.close_wait.maximum) == (5, 5)


def test_samples_of_a_clock_that_runs_ahead_count_in_the_last_part(store: DuckDbStore) -> None:
    """With what is there already, not in its place."""
    ahead = [sample(NOW - SECOND, 5), sample(NOW, 1), sample(NOW + 4 * MINUTE, 2)]
    store_samples(store, "web-1", ahead)
    asked = ranking()
    assert host_trends(store, asked, rank_hosts(store, asked))[host_key("web-1")][-1] == 5


def test_what_lies_ahead_of_the_present_hides_nothing(store: DuckDbStore) -> None:
    """It was stored before the clock was set back, and is older than what has come since."""
    taken = [
        sample(at, count, processes=[process(pid, count, app="api")])
        for at, count, pid in ((NOW - 2 * SECOND, 3, 7), (NOW, 4, 7), (NOW + HOUR, 90, 8), (4_102_444_799_000, 80, 9))
    ]
    store_samples(store, "web-1", taken)
    asked = ranking(window_ms=10 * SECOND)
    (host,), (found,), (app,) = rank_hosts(store, asked), rank_processes(store, asked), rank_apps(store, asked)
    assert (host.close_wait.current, host.close_wait.maximum, host.close_wait.samples) == (4, 4, 2)
    assert (found.pid, found.close_wait.maximum, app.close_wait.current, app.processes) == (7, 4, 4, 1)
    (group,) = rank_groups(store, asked, "role")
    assert (group.close_wait.current, group.close_wait.maximum) == (4, 4)
    assert host_trends(store, asked, [host])[host.host_key][-1] == 4
    assert process_trends(store, asked, [found])[found.series][-1] == 4
    assert max(value or 0 for value in fleet_trend(store, {}, NOW - HOUR, NOW, "close_wait")) == 4
    history = History(asked, 10)
    assert max(value or 0 for value in host_history(store, history)["close_wait"]) == 4
    assert max(value or 0 for value in (app_history(store, history, "api") or {})["close_wait"]) == 4


def test_the_trend_of_an_app_heeds_the_labels(store: DuckDbStore) -> None:
    """Hosts without them do not add to it."""
    store_samples(store, "a", [sample(NOW - SECOND, processes=[process(close_wait=1)])], labels={"role": "web"})
    store_samples(store, "b", [sample(NOW - SECOND, processes=[process(close_wait=50)])])
    asked = ranking(labels={"role": "web"})
    rows = rank_apps(store, asked)
    assert app_trends(store, asked, rows)[rows[0].app][-1] == 1


@pytest.mark.parametrize("base", [100_000, 2**32 - 3])
def test_a_fit_is_never_over_one(store: DuckDbStore, base: int) -> None:
    """Nor infinite, where large counts that hardly vary leave rounding errors."""
    for number in range(30):
        counts = [sample(NOW - (2 - tick) * (number + 1) * SECOND, base + tick) for tick in range(3)]
        store_samples(store, f"web-{number}", counts)
    for row in rank_hosts(store, ranking(limit=100)):
        assert row.close_wait.growth_fit is None or 0 <= row.close_wait.growth_fit <= 1


@pytest.mark.parametrize("days", [1, 7, 30, 366])
def test_a_long_window_does_not_blur_a_young_series(store: DuckDbStore, days: int) -> None:
    """Ten sockets a second are 36,000 an hour, however long the window."""
    store_samples(store, "web-1", [sample(NOW - (4 - tick) * SECOND, 10 * tick) for tick in range(5)])
    (row,) = rank_hosts(store, ranking(window_ms=days * 24 * HOUR))
    assert row.close_wait.growth_per_hour == pytest.approx(36_000, rel=1e-6)


def test_a_burst_of_the_last_moments_is_not_the_trend_of_the_window(store: DuckDbStore) -> None:
    """A process without CLOSE_WAIT sockets is not reported, but had none: that is known, and takes part in its line."""
    taken = []
    for minute in range(61):
        burst = {58: 30, 59: 60, 60: 90}.get(minute)
        present = [process(10, 6 * minute, start=NOW - 2 * HOUR)]
        if burst is not None:
            present.append(process(20, burst, start=NOW - 2 * HOUR))
        taken.append(sample(NOW - (60 - minute) * MINUTE, 6 * minute + (burst or 0), processes=present))
    for one in taken:
        one.other_processes.close_wait = 0
    store_samples(store, "web-1", taken)
    steady, bursting = rank_processes(store, ranking(window_ms=2 * HOUR))
    assert (steady.pid, bursting.pid) == (10, 20)
    assert steady.close_wait.growth_per_hour == pytest.approx(360)
    minutes = np.arange(61, dtype=float)
    counts = np.array([0.0] * 58 + [30, 60, 90])
    assert bursting.close_wait.growth_per_hour == pytest.approx(60 * np.polyfit(minutes, counts, 1)[0])
    assert bursting.close_wait.samples == 61


def test_a_young_process_is_not_held_to_the_time_before_its_start(store: DuckDbStore) -> None:
    """Only samples of its host from its start on say that it had none."""
    taken = []
    for minute in range(61):
        present = [process(20, minute - 50, start=NOW - 10 * MINUTE)] if minute > 50 else []
        taken.append(sample(NOW - (60 - minute) * MINUTE, max(0, minute - 50), processes=present))
        taken[-1].other_processes.close_wait = 0
    store_samples(store, "web-1", taken)
    (row,) = rank_processes(store, ranking(window_ms=2 * HOUR))
    assert row.close_wait.growth_per_hour == pytest.approx(60)
    assert row.close_wait.samples == 11


def test_where_processes_were_left_out_absence_says_nothing(store: DuckDbStore) -> None:
    """A host with more of them than it may report: a process that is not in a sample may be among those."""
    taken = [
        sample(NOW - (3 - tick) * MINUTE, 9, processes=[process(20, 10 * tick, start=NOW - HOUR)] if tick else [])
        for tick in range(4)
    ]
    for one in taken:
        one.other_processes.close_wait = 5
    store_samples(store, "web-1", taken)
    (row,) = rank_processes(store, ranking())
    assert row.close_wait.samples == 3
    assert row.close_wait.growth_per_hour == pytest.approx(600)


def test_a_process_that_is_seen_before_its_own_start_keeps_its_line(store: DuckDbStore) -> None:
    """Start times are reckoned from a clock that may be a second off: what was seen counts."""
    taken = []
    for tick in range(11):
        present = [process(20, 100 - tick, start=NOW - 9 * SECOND + 500)] if tick != 5 else []
        taken.append(sample(NOW - (10 - tick) * SECOND, 100, processes=present))
        taken[-1].other_processes.close_wait = 0
    store_samples(store, "web-1", taken)
    (row,) = rank_processes(store, ranking())
    counts = np.array([0 if tick == 5 else 100 - tick for tick in range(11)], dtype=float)
    assert row.close_wait.samples == 11
    assert row.close_wait.growth_per_hour == pytest.approx(3_600 * np.polyfit(np.arange(11.0), counts, 1)[0])


@pytest.mark.parametrize("skew", [0, HOUR, -HOUR])
def test_the_line_of_a_process_is_the_same_whatever_its_hosts_clock(store: DuckDbStore, skew: int) -> None:
    """Its start, by the host's clock, is set right as the times of the samples are."""
    batch = Batch()
    batch.hosts[host_key("web-1")] = record(hello("web-1"))
    for tick in range(31):
        present = [process(20, 100, start=NOW - 5 * MINUTE - SECOND - skew)] if tick > 25 else []
        at = NOW - (30 - tick) * MINUTE
        taken = sample(at - skew, 100, processes=present)
        taken.other_processes.close_wait = 0
        batch.add(host_key("web-1"), report(sequence=tick + 1, taken=taken), at, skew=skew)
    store.write(batch)
    (row,) = rank_processes(store, ranking())
    assert row.close_wait.samples == 6
    assert row.close_wait.growth_per_hour == pytest.approx(100 * 3_600 / 420)


def test_the_start_of_a_process_is_by_the_clock_of_its_first_sample(store: DuckDbStore) -> None:
    """A clock that is set right while it runs does not change when it started."""
    batch = Batch()
    batch.hosts[host_key("web-1")] = record(hello("web-1"))
    for tick in range(31):
        skew = HOUR if tick < 20 else 0
        at = NOW - (30 - tick) * MINUTE
        present = [process(20, 100, start=NOW - 16 * MINUTE - SECOND - HOUR)] if tick > 14 else []
        taken = sample(at - skew, 100, processes=present)
        taken.other_processes.close_wait = 0
        batch.add(host_key("web-1"), report(sequence=tick + 1, taken=taken), at, skew=skew)
    store.write(batch)
    (row,) = rank_processes(store, ranking())
    assert row.close_wait.samples == 17


def _degraded(taken: pb.Sample, degradation: pb.Degradation.ValueType) -> pb.Sample:
    taken.degradation = degradation
    return taken


def test_processes_that_a_sample_leaves_out_are_as_they_were(store: DuckDbStore) -> None:
    """An agent over its budget says nothing of processes: they are shown from the last sample that has them."""
    known = [
        sample(
            NOW - (30 - tick) * MINUTE,
            10 + tick,
            processes=[process(20, 10 + tick, fd_open=50 + tick, fd_limit=99)],
        )
        for tick in range(20)
    ]
    for taken in known:
        taken.other_processes.close_wait = 0
    counted = [
        _degraded(sample(NOW - (30 - tick) * MINUTE, 10 + tick), pb.DEGRADATION_COUNTS_ONLY) for tick in range(20, 31)
    ]
    store_samples(store, "web-1", [*known, *counted])
    (row,) = rank_processes(store, ranking())
    assert row.last_sample == NOW - 11 * MINUTE
    assert (row.close_wait.current, row.close_wait.samples) == (29, 20)
    assert row.close_wait.growth_per_hour == pytest.approx(60)
    (app,) = rank_apps(store, ranking())
    assert app.close_wait.growth_per_hour == pytest.approx(60)
    (host,) = rank_hosts(store, ranking())
    assert (host.close_wait.current, host.close_wait.samples) == (40, 31)
    (forecast,) = process_forecasts(store, ranking(), [row.series]).values()
    assert forecast.growth_per_hour == pytest.approx(60)


def test_a_burst_is_not_taken_for_a_trend_by_samples_without_processes(store: DuckDbStore) -> None:
    """Samples that say nothing of processes count neither as none nor as a reason not to count others."""
    taken = []
    for tick in range(31):
        burst = [process(20, 50)] if tick > 27 else []
        one = sample(NOW - (30 - tick) * MINUTE, 0, processes=burst)
        one.other_processes.close_wait = 0
        taken.append(one)
    for tick in range(10, 20):
        taken[tick] = _degraded(sample(NOW - (30 - tick) * MINUTE, 0), pb.DEGRADATION_COUNTS_ONLY)
    store_samples(store, "web-1", taken)
    (row,) = rank_processes(store, ranking())
    assert row.close_wait.samples == 21


def test_causes_that_are_left_out_are_unknown(store: DuckDbStore) -> None:
    """Of a host and an app, none that is stuck is only said where that is known."""
    leaking = _degraded(
        sample(NOW, 9, processes=[process(20, 9), process(30, 0, name="quiet")]), pb.DEGRADATION_NO_DETAIL
    )
    store_samples(store, "web-1", [leaking])
    store_samples(store, "idle", [_degraded(sample(NOW, 0), pb.DEGRADATION_NO_DETAIL)])
    stuck = {row.hostname: (row.stuck, row.cause) for row in rank_hosts(store, ranking())}
    assert stuck == {"web-1": (None, None), "idle": (0, None)}
    (app,) = rank_apps(store, ranking())
    assert (app.close_wait.current, app.stuck) == (9, None)
    store_samples(store, "web-2", [sample(NOW, 5, processes=[explained(process(20, 5), stuck=4)])])
    (app,) = rank_apps(store, ranking())
    assert (app.close_wait.current, app.stuck) == (14, 4)


def test_what_waited_on_a_host_does_not_pass_for_its_present(store: DuckDbStore) -> None:
    """A backlog that comes beside new samples fills the past: trends, and sums over the window."""
    live = [sample(NOW - (4 - tick) * MINUTE, 20 + tick, processes=[process(20, 20 + tick)]) for tick in range(5)]
    store_samples(store, "web-1", live)
    backlog = [sample(NOW - (24 - tick) * MINUTE, tick, processes=[process(20, tick)]) for tick in range(20)]
    store.write(batch_of(*(report(sequence=at, taken=taken, epoch=8) for at, taken in enumerate(backlog, start=1))))
    (host,) = rank_hosts(store, ranking())
    assert (host.close_wait.current, host.close_wait.samples) == (24, 25)
    (row,) = rank_processes(store, ranking())
    assert (row.close_wait.current, row.last_sample) == (24, NOW)
    assert row.close_wait.growth_per_hour == pytest.approx(60)
    assert fleet_states(store, {}, NOW)["close_wait"] == 24


def test_a_host_has_the_cause_of_its_worst_process_and_the_sum_of_its_stuck(store: DuckDbStore) -> None:
    """Of the latest sample, and so has a process."""
    before = sample(NOW - MINUTE, processes=[explained(process(100, 90), pb.CAUSE_STALLED_READER)])
    now = sample(
        processes=[
            explained(process(100, 5), pb.CAUSE_STALLED_READER, stuck=4),
            explained(process(200, 9), pb.CAUSE_LEAK, age=70.0),
            process(300, 30),
        ]
    )
    now.processes[1].ports_share, now.processes[1].sockets, now.processes[1].fd_limit_hard = 0.25, 40, 4_096
    now.ports.add(used=90, available=100)
    store_samples(store, "web-1", [before, now])
    (host,) = rank_hosts(store, ranking("stuck"))
    assert (host.cause, host.stuck, host.ports_share) == (pb.CAUSE_LEAK, 13, 0.9)
    first, second, third = rank_processes(store, ranking("stuck"))
    assert (first.pid, first.cause, first.stuck, first.ages) == (200, pb.CAUSE_LEAK, 9, Ages(70, 140, 210))
    assert (first.ports_share, first.sockets, first.fd_limit_hard) == (0.25, 40, 4_096)
    assert (second.pid, second.cause, second.stuck) == (100, pb.CAUSE_STALLED_READER, 4)
    assert (third.pid, third.cause, third.stuck, third.ages, third.ports_share) == (300, None, None, None, None)


def test_an_app_has_the_cause_of_most_of_its_sockets(store: DuckDbStore) -> None:
    """Added up over its processes: three that pool 4 each outweigh one that leaks 10. Sockets without one are none."""
    pooling = [explained(process(pid, 4), pb.CAUSE_IDLE_POOL, stuck=1) for pid in (1, 2, 3)]
    leaking = explained(process(4, 10), pb.CAUSE_LEAK, stuck=1)
    leaking.ports_share = 0.75
    churning = [process(5, 500), process(6, 3, app="other")]
    store_samples(store, "web-1", [sample(processes=[*pooling, leaking, *churning])])
    gateway, other = rank_apps(store, ranking("stuck"))
    assert (gateway.app, gateway.cause, gateway.stuck, gateway.ports_share) == (
        "gateway.service",
        pb.CAUSE_IDLE_POOL,
        4,
        0.75,
    )
    assert (other.cause, other.stuck, other.ports_share) == (None, None, None)


def test_stuck_and_ports_rank_the_unknown_last(store: DuckDbStore) -> None:
    """Zero comes before it."""

    def counts(name: str, stuck: int | None, used: int | None) -> None:
        one = process(close_wait=9, app=name)
        if stuck is not None:
            one.stuck = stuck
        taken = sample(processes=[one])
        if used is not None:
            one.ports_share = used / 10
            taken.ports.add(used=used, available=10)
        taken.processes[0].CopyFrom(one)
        store_samples(store, name, [taken])

    counts("a", None, 5)
    counts("b", 0, None)
    counts("c", 7, 0)
    for by, order in (("stuck", ["c", "b", "a"]), ("ports", ["a", "c", "b"])):
        asked = ranking(by)  # type: ignore[arg-type]
        assert [row.hostname for row in rank_hosts(store, asked)] == order
        assert [row.hostname for row in rank_processes(store, asked)] == order
        assert [row.app for row in rank_apps(store, asked)] == order


def test_more_ports_used_than_there_are_is_all_of_them(store: DuckDbStore) -> None:
    """A range can be made smaller while its ports are in use."""
    taken = sample()
    taken.ports.add(used=90, available=10)
    store_samples(store, "web-1", [taken])
    assert rank_hosts(store, ranking())[0].ports_share == 1
