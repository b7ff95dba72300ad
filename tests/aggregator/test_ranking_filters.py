"""Rankings of the past, and of some rows: what was, not what came after; what is asked for, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner, Result
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.commands import loiter
from loiter_aggregator.commands.options import TimeType
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ranking.overflows import host_overflows
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import (
    FakeClock,
    batch_of,
    host_key,
    open_store,
    ranking,
    serving_in_background,
    store_samples,
)
from support.reports import HOUR, MINUTE, NOW, SECOND, explained, lasting, process, report, sample, stamp

# One of each kind: by the window, by the latest sample, and by what is looked up for it.
MEASURES = (pb.RANK_BY_CLOSE_WAIT_GROWTH, pb.RANK_BY_STUCK, pb.RANK_BY_FD_ETA, pb.RANK_BY_TIME_WAIT_OVERFLOWS)
CAUSES = (sample_pb2.CAUSE_UNKNOWN, sample_pb2.CAUSE_LEAK, sample_pb2.CAUSE_IDLE_POOL)
APPS = ("gateway.service", "worker.service")


def fleet_of(store: DuckDbStore, clock: FakeClock) -> Fleet:
    """What answers from the store."""
    return Fleet(store, clock, Counters(started=NOW))


def hosts(fleet: Fleet, **query: Any) -> list[str]:
    """The ranked hosts, by name."""
    answer = asyncio.run(fleet.rank_hosts(pb.RankHostsRequest(query=pb.RankingQuery(**query))))
    return [host.hostname for host in answer.hosts]


def processes(fleet: Fleet, **query: Any) -> list[tuple[str, int]]:
    """The ranked processes, by host and process id."""
    answer = asyncio.run(fleet.rank_processes(pb.RankProcessesRequest(query=pb.RankingQuery(**query))))
    return [(one.hostname, one.pid) for one in answer.processes]


def apps(fleet: Fleet, **query: Any) -> list[str]:
    """The ranked applications."""
    answer = asyncio.run(fleet.rank_apps(pb.RankAppsRequest(query=pb.RankingQuery(**query))))
    return [one.app for one in answer.apps]


def groups(fleet: Fleet, **query: Any) -> list[str | None]:
    """The ranked groups, by the label `role`."""
    answer = asyncio.run(fleet.rank_groups(pb.RankGroupsRequest(query=pb.RankingQuery(**query), label="role")))
    return [one.value if one.HasField("value") else None for one in answer.groups]


# The past.


def random_samples(wild: random.Random, start: int, count: int, first: int = 0) -> list[sample_pb2.Sample]:
    """What a host might have sent: processes that come, go and restart, and counts that are not always known."""
    taken = []
    overflows = 0
    for tick in range(first, first + count):
        at = start + tick * MINUTE
        present = []
        for pid in (100, 200, 300):
            if wild.random() < 0.2:
                continue
            one = process(
                pid,
                wild.choice((None, 0, tick, wild.randrange(50))),
                app=APPS[pid % 200 == 0],
                start=NOW - (2 * HOUR if pid != 300 or tick < 20 else 20 * MINUTE),
                time_wait=wild.choice((None, 3)),
                fd_open=100 + tick * (pid // 100) + wild.randrange(3),
                fd_limit=1_000,
            )
            present.append(explained(one, wild.choice(CAUSES)) if one.close_wait else one)
        one_sample = sample(at, wild.choice((None, tick, 5)), time_wait=wild.randrange(900), processes=present)
        one_sample.other_processes.close_wait = 0
        one_sample.coverage.sockets_attributed = wild.randrange(100)
        overflows = 0 if wild.random() < 0.1 else overflows + wild.randrange(2)
        one_sample.time_wait_limits.overflows = overflows
        if wild.random() < 0.1:
            one_sample.degradation = sample_pb2.DEGRADATION_COUNTS_ONLY
            del one_sample.processes[:]
        taken.append(one_sample)
    return taken


@pytest.fixture(scope="module")
def past_and_more(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, dict[str, Any]]]:
    """A fleet, and what it answered at NOW; since then an hour has passed in which much has come."""
    store, clock = open_store(tmp_path_factory.mktemp("past")), FakeClock()
    fleet = fleet_of(store, clock)
    wild = random.Random(6)
    start = NOW - 30 * MINUTE
    for name, count in (("web-1", 31), ("web-2", 31), ("silent", 12)):
        store_samples(store, name, random_samples(wild, start, count), labels={"role": name[:3]}, interval_ms=MINUTE)
    answered = {name: rounded(asyncio.run(ask())) for name, ask in questions(fleet, end=None).items()}
    for name in ("web-1", "web-2", "silent"):
        later = random_samples(wild, start, 15, first=31)
        store.write(
            batch_of(
                *(report(name, sequence, one, epoch=8) for sequence, one in enumerate(later, 1)), received=NOW + HOUR
            )
        )
    clock.now = NOW + HOUR
    yield fleet, answered
    store.close()


def questions(fleet: Fleet, end: int | None) -> dict[str, Callable[[], Any]]:
    """All questions about a window that ends, or is to end, at NOW."""
    more: dict[str, Any] = {} if end is None else {"end_time": stamp(end)}
    asked: dict[str, Callable[[], Any]] = {}
    for by in MEASURES:
        query = pb.RankingQuery(by=by, window=lasting(HOUR), **more)
        asked[f"hosts {by}"] = partial(fleet.rank_hosts, pb.RankHostsRequest(query=query))
        if by != pb.RANK_BY_TIME_WAIT_OVERFLOWS:
            asked[f"processes {by}"] = partial(fleet.rank_processes, pb.RankProcessesRequest(query=query))
            asked[f"apps {by}"] = partial(fleet.rank_apps, pb.RankAppsRequest(query=query))
    query = pb.RankingQuery(window=lasting(HOUR), **more)
    asked["groups"] = partial(fleet.rank_groups, pb.RankGroupsRequest(query=query, label="role"))
    asked["host"] = partial(fleet.get_host, pb.GetHostRequest(name="web-1", window=lasting(HOUR), **more))
    histories: dict[str, dict[str, Any]] = {
        "fleet": {},
        "process": {"host": "web-1", "pid": 300},
        "app": {"app": APPS[0]},
    }
    for name, of in histories.items():
        request = pb.GetHistoryRequest(window=lasting(HOUR), points=60, **of, **more)
        asked[f"history {name}"] = partial(fleet.get_history, request)
    return asked


def rounded(answer: Message) -> Any:
    """The answer without what is of now by its nature, and without the last digits of sums."""
    if isinstance(answer, pb.GetHostResponse):
        answer = pb.GetHostResponse(rank=answer.rank, processes=answer.processes)

    def round_all(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: round_all(one) for name, one in value.items()}
        if isinstance(value, list):
            return [round_all(one) for one in value]
        return float(f"{value:.9g}") if isinstance(value, float) else value

    return round_all(MessageToDict(answer))


def test_the_past_is_as_it_was_when_it_was_the_present(past_and_more: tuple[Fleet, dict[str, Any]]) -> None:
    """Rows, figures, trends, forecasts, histories and coverage: nothing of what came after is in them."""
    fleet, answered = past_and_more
    for name, ask in questions(fleet, end=NOW).items():
        assert rounded(asyncio.run(ask())) == answered[name], name
        assert any(answered[name].values())


def test_a_window_in_the_past_says_who_was_silent_then(store: DuckDbStore, clock: FakeClock) -> None:
    """A host that reports again was silent when it was; one that fell silent since was not."""
    store_samples(store, "back", [sample(NOW - 50 * MINUTE, 1), sample(NOW, 1)])
    store_samples(store, "gone", [sample(NOW - 30 * MINUTE - SECOND, 1)])
    query = pb.RankingQuery(end_time=stamp(NOW - 30 * MINUTE), window=lasting(30 * MINUTE))
    answer = asyncio.run(fleet_of(store, clock).rank_hosts(pb.RankHostsRequest(query=query)))
    assert {host.hostname: host.silent for host in answer.hosts} == {"back": True, "gone": False}
    assert (answer.coverage.hosts, answer.coverage.hosts_reporting, answer.coverage.hosts_silent) == (2, 1, 1)
    found = asyncio.run(
        fleet_of(store, clock).get_host(
            pb.GetHostRequest(name="gone", end_time=stamp(NOW - MINUTE), window=lasting(10 * MINUTE))
        )
    )
    assert found.rank.silent
    assert not found.rank.HasField("close_wait")


# Filters.


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Hosts whose names and apps differ in what looking for them must tell apart."""
    store = open_store(tmp_path_factory.mktemp("named"))
    leaking = [explained(process(1, 9, app="shop_api", name="java")), process(2, 1, app="cron", name="CRON")]
    store_samples(store, "Web-1", [sample(processes=leaking)], labels={"role": "Web"})
    pooling = [explained(process(1, 30, app="shopXapi", name="java"), sample_pb2.CAUSE_IDLE_POOL)]
    store_samples(store, "db-100%", [sample(processes=pooling)], labels={"role": "db"})
    ended = [process(5, 4, app="shop_api")]
    store_samples(store, "bare", [sample(NOW - MINUTE, processes=ended), sample(processes=[process(3, 0, app="ß")])])
    yield fleet_of(store, FakeClock())
    store.close()


def test_of_an_app_there_are_the_rows_that_it_is_on_now(named: Fleet) -> None:
    """Its name is whole; a host where it has ended is not one that it is on."""
    for by in MEASURES:
        assert hosts(named, by=by, app="shop_api") == ["Web-1"]
        if by != pb.RANK_BY_TIME_WAIT_OVERFLOWS:
            assert processes(named, by=by, app="shop_api") == [("Web-1", 1)]
            assert apps(named, by=by, app="shop_api") == ["shop_api"]
    assert hosts(named, app="shop") == []
    assert processes(named, app="SHOP_API") == []
    assert apps(named, app="' OR 1=1 --") == []


def test_a_part_of_a_name_is_found_in_whatever_case_and_stands_for_itself(named: Fleet) -> None:
    """Of hosts their names; of processes those, their own and their apps'; % and _ are characters like others."""
    assert hosts(named, contains="WEB") == ["Web-1"]
    assert hosts(named, contains="100%") == ["db-100%"]
    assert hosts(named, contains="%") == ["db-100%"]
    assert hosts(named, contains="shop") == []
    assert processes(named, contains="shop_") == [("Web-1", 1)]
    assert processes(named, contains="cRoN") == [("Web-1", 2)]
    assert processes(named, contains="b-1") == [("db-100%", 1), ("Web-1", 1), ("Web-1", 2)]
    assert sorted(apps(named, contains="SHOP")) == ["shopXapi", "shop_api"]
    assert apps(named, contains="p_a") == ["shop_api"]
    assert apps(named, contains="\0") == []
    assert groups(named, contains="WE") == ["Web"]
    assert groups(named) == ["Web", "db", None]


def test_of_a_cause_there_are_the_rows_whose_own_it_is(named: Fleet) -> None:
    """For hosts, processes, apps and groups."""
    for cause, host, app, role in (
        (sample_pb2.CAUSE_LEAK, "Web-1", "shop_api", "Web"),
        (sample_pb2.CAUSE_IDLE_POOL, "db-100%", "shopXapi", "db"),
    ):
        assert hosts(named, cause=cause) == [host]
        assert processes(named, cause=cause) == [(host, 1)]
        assert apps(named, cause=cause) == [app]
        assert groups(named, cause=cause) == [role]
    assert hosts(named, cause=sample_pb2.CAUSE_NEVER_ACCEPTED) == []


def test_the_cause_of_an_app_is_the_one_that_it_is_shown_with(store: DuckDbStore, clock: FakeClock) -> None:
    """That of most of its sockets, and of two with as many the one that stands first; no other finds it."""
    for name, leaked, pooled in (("a", 3, 5), ("b", 4, 4), ("c", 5, 0)):
        mixed = [
            explained(process(1, leaked, app=name)),
            explained(process(2, pooled, app=name), sample_pb2.CAUSE_IDLE_POOL),
        ]
        store_samples(store, name, [sample(processes=mixed)], labels={"role": name})
    fleet = fleet_of(store, clock)
    shown = asyncio.run(fleet.rank_apps(pb.RankAppsRequest())).apps
    for cause in (sample_pb2.CAUSE_LEAK, sample_pb2.CAUSE_IDLE_POOL, sample_pb2.CAUSE_UNKNOWN):
        expected = sorted(one.app for one in shown if one.cause == cause)
        assert sorted(apps(fleet, cause=cause)) == expected
        assert sorted(groups(fleet, cause=cause), key=str) == expected


def test_filters_hold_together_and_heed_labels_and_limits(named: Fleet) -> None:
    """A row has to pass all of them, and the limit counts those that do."""
    leak = sample_pb2.CAUSE_LEAK
    assert processes(named, app="shop_api", contains="web", cause=leak, labels={"role": "Web"}) == [("Web-1", 1)]
    assert processes(named, app="shop_api", contains="web", cause=leak, labels={"role": "db"}) == []
    assert processes(named, contains="b-1", by=pb.RANK_BY_CLOSE_WAIT, limit=2) == [("db-100%", 1), ("Web-1", 1)]
    assert processes(named, contains="web", by=pb.RANK_BY_CLOSE_WAIT, limit=1) == [("Web-1", 1)]


def test_a_ranking_of_few_rows_is_the_top_of_that_of_all(store: DuckDbStore, clock: FakeClock) -> None:
    """Their figures over the window included, though the window of no others is read."""
    wild = random.Random(4)
    for name in ("web-1", "web-2", "web-3"):
        store_samples(store, name, random_samples(wild, NOW - 9 * MINUTE, 10))
    fleet = fleet_of(store, clock)

    def rows(by: pb.RankBy.ValueType, limit: int) -> list[Any]:
        query = pb.RankingQuery(by=by, limit=limit)
        answer = asyncio.run(fleet.rank_processes(pb.RankProcessesRequest(query=query)))
        return [rounded(one) for one in answer.processes]

    for by in (pb.RANK_BY_CLOSE_WAIT, pb.RANK_BY_FD_SHARE, pb.RANK_BY_STUCK, pb.RANK_BY_PORTS):
        everything = rows(by, 100)
        assert len(everything) > 3
        assert rows(by, 3) == everything[:3]


BROKEN: dict[str, dict[str, Any]] = {
    "query.end_time is in the future": {"end_time": stamp(NOW + MINUTE + 1)},
    "query.end_time is before 1970": {"end_time": stamp(-SECOND)},
    "query.app is longer than 256 characters": {"app": "a" * 257},
    "query.contains is longer than 256 characters": {"contains": "a" * 257},
    "query.cause is not a known cause": {"cause": 99},
}


def test_what_breaks_a_rule_is_named(store: DuckDbStore, clock: FakeClock) -> None:
    """By the name of the field."""
    fleet = fleet_of(store, clock)
    for said, query in BROKEN.items():
        with pytest.raises(InvalidRequest, match=said):
            hosts(fleet, **query)


def test_what_some_rows_do_not_have_is_not_asked_of_them(store: DuckDbStore, clock: FakeClock) -> None:
    """Groups are of no app, and overflows of TIME_WAIT of hosts alone. An end that is just ahead is now."""
    fleet = fleet_of(store, clock)
    with pytest.raises(InvalidRequest, match=r"query\.app can not be asked of groups"):
        groups(fleet, app="shop")
    with pytest.raises(InvalidRequest, match="overflows of TIME_WAIT are of hosts alone"):
        apps(fleet, by=pb.RANK_BY_TIME_WAIT_OVERFLOWS)
    store_samples(store, "web-1", [sample(NOW, 1)])
    assert hosts(fleet, end_time=stamp(NOW + MINUTE)) == ["web-1"]


# TIME_WAIT sockets destroyed for want of room.


def with_overflows(counts: Sequence[int | None]) -> list[sample_pb2.Sample]:
    """Samples with such counts since boot, a minute apart, the last at NOW."""
    taken = []
    for index, count in enumerate(counts):
        one = sample(NOW - (len(counts) - 1 - index) * MINUTE)
        if count is not None:
            one.time_wait_limits.overflows = count
        taken.append(one)
    return taken


OVERFLOWS: tuple[tuple[Sequence[int | None], int | None], ...] = (
    ((7, 7, 7), 0),
    ((7, 8, 18), 11),
    ((7, None, 18), 11),
    ((100, 120, 5, 6), 26),  # a reboot in between: 20, then 5 since it, then 1
    ((100, 0), 0),
    ((2**64 - 1, 3), 3),
    ((7,), None),
    ((None, None), None),
    ((7, None), None),
)


def test_overflows_are_the_sum_of_the_increases(store: DuckDbStore) -> None:
    """Never negative; unknown where there are not two samples that know."""
    names = [f"web-{number}" for number in range(len(OVERFLOWS))]
    for name, (counts, _) in zip(names, OVERFLOWS, strict=True):
        store_samples(store, name, with_overflows(counts))
    found = host_overflows(store, ranking(), map(host_key, names))
    assert [found.get(host_key(name)) for name in names] == [expected for _, expected in OVERFLOWS]


def test_hosts_rank_by_overflows(store: DuckDbStore, clock: FakeClock) -> None:
    """Most first, unknown last; and each is shown with them, whatever it is ranked by."""
    for name, counts in (("few", (0, 2)), ("unknown", (None, None)), ("many", (0, 5, 4)), ("none", (3, 3))):
        store_samples(store, name, with_overflows(counts))
    fleet = fleet_of(store, clock)
    assert hosts(fleet, by=pb.RANK_BY_TIME_WAIT_OVERFLOWS) == ["many", "few", "none", "unknown"]
    shown = asyncio.run(fleet.rank_hosts(pb.RankHostsRequest())).hosts
    known = {one.hostname: one.time_wait_overflows for one in shown if one.HasField("time_wait_overflows")}
    assert known == {"few": 2, "many": 9, "none": 0}
    one = asyncio.run(fleet.get_host(pb.GetHostRequest(name="many", window=lasting(MINUTE))))
    assert one.rank.time_wait_overflows == 4


# The command line.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an aggregator that knows of a leak, and of what was before."""
    store = open_store(tmp_path_factory.mktemp("asked"))
    leak = [explained(process(1, 9, app="shop"), age=90)]
    store_samples(store, "web-1", [sample(NOW - HOUR, 2, processes=[process(7, 2, app="old")]), sample(processes=leak)])
    store_samples(store, "web-2", with_overflows((0, 3)))
    with serving_in_background(store, FakeClock()) as address:
        yield address
    store.close()


def loiter_says(server: str, *words: str) -> Result:
    """Runs `loiter`."""
    return CliRunner().invoke(loiter, [*words, "--server", server])


def test_the_command_line_asks_for_some_rows_and_for_the_past(server: str) -> None:
    """The heading says until when; what is not there is not shown."""
    for flags in (("--app", "shop"), ("--match", "SHO"), ("--cause", "leak")):
        said = json.loads(loiter_says(server, "top", "processes", *flags, "-o", "json").stdout)
        assert [row["pid"] for row in said] == [1]
    before = loiter_says(server, "top", "processes", "--until", "2027-01-15T07:30:00Z").stdout
    assert "processes by close-wait-growth, 1h until 2027-01-15T07:30:00Z" in before
    assert "old" in before
    assert "shop" not in before
    assert "1 of 1 hosts reporting" not in before
    assert "no such row" in loiter_says(server, "top", "apps", "--app", "nobody").stdout


def test_one_host_is_shown_as_it_was_and_with_what_it_destroyed(server: str) -> None:
    """For people and for scripts."""
    before = loiter_says(server, "host", "web-1", "--until", "2027-01-15T08:30:00+01:00").stdout
    assert "over the 1h until 2027-01-15T07:30:00Z:" in before
    assert "old" in before
    assert "3 destroyed for want of room" in loiter_says(server, "host", "web-2").stdout
    assert json.loads(loiter_says(server, "host", "web-2", "-o", "json").stdout)["time_wait_overflows"] == 3
    assert json.loads(loiter_says(server, "host", "web-1", "-o", "json").stdout)["time_wait_overflows"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("processes", "--until", "yesterday"), "'yesterday' is not a time; write it as 2026-11-23T14:00:00Z"),
        (("processes", "--until", "2027-01-15T07:30:00"), "has no time zone; write it as 2027-01-15T07:30:00Z"),
        (("processes", "--until", "999999999d"), "is not a time"),
        (("processes", "--match", ""), "not between 1 and 256 characters long"),
        (("processes", "--app", "a" * 257), "not between 1 and 256 characters long"),
        (("processes", "--match", "\udcff"), "not valid UTF-8"),
        (("processes", "--cause", "gremlins"), "'gremlins' is not one of"),
        (("groups", "--group-by", "role", "--app", "shop"), "--app is not for groups"),
    ],
)
def test_what_can_not_be_asked_is_said(words: Sequence[str], said: str) -> None:
    """Before anybody is asked, with the exit code of a usage error."""
    result = loiter_says("127.0.0.1:1", "top", *words)
    assert (result.exit_code, said in result.stderr.replace("\n", " ")) == (2, True), result.stderr


def test_the_future_is_not_known(server: str) -> None:
    """The aggregator says so, by its own clock."""
    result = loiter_says(server, "top", "hosts", "--until", "2030-01-01T00:00:00Z")
    assert result.exit_code == 1
    assert "query.end_time is in the future" in result.stderr


def test_a_time_may_be_said_as_how_long_ago_it_was() -> None:
    """By the clock of who asks."""
    read = TimeType().convert("30m", None, None)
    assert abs((datetime.now(UTC) - read).total_seconds() - 30 * 60) < 60
