"""Questions over a real connection: defaults, limits, and errors in words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import ingest_service_pb2, sample_pb2
from loiter.v1.fleet_service_pb2_grpc import FleetServiceStub, add_FleetServiceServicer_to_server
from loiter.version import version
from loiter_aggregator.access.principal import caller_address
from loiter_aggregator.clock import from_duration, from_timestamp
from loiter_aggregator.fleet.errors import Overloaded
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.fleet_service import FleetService
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.registry import Conflict
from loiter_aggregator.store.batch import Batch, Lost
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.question import CalledOff, Question
from support.aggregators import FakeClock, host_key, put_host, read_by, record, serving, store_samples
from support.reports import (
    EPOCH,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    boot_id,
    explained,
    hello,
    host_id,
    process,
    report,
    sample,
)

Scenario = Callable[[Any], Awaitable[None]]


def ask(store: DuckDbStore, scenario: Scenario, conflicts: Sequence[Conflict] = ()) -> None:
    """Runs a scenario with a stub of a server of its own, whose clock stands at NOW."""

    async def serve() -> None:
        clock = FakeClock()
        async with (
            serving(store, Batcher(store, clock), clock, conflicts) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            await asyncio.wait_for(scenario(FleetServiceStub(channel)), 30)

    asyncio.run(serve())


async def refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """The code and details with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def store_leaking(store: DuckDbStore, name: str, step: int, **labels: str) -> None:
    """A host whose one process gains `step` CLOSE_WAIT sockets a minute."""
    store_samples(
        store,
        name,
        [
            sample(
                NOW - (3 - tick) * MINUTE,
                step * tick,
                time_wait=100,
                established=9,
                fd_allocated=500,
                fd_limit=1_000,
                processes=[process(100, step * tick, established=9, fd_open=50, fd_limit=200)],
                coverage=sample_pb2.Coverage(
                    sockets_attributed=9, sockets_unattributed=1, namespaces_unread=0, namespaces_by_procfs=3
                ),
            )
            for tick in range(4)
        ],
        labels=labels,
    )


def test_hosts_are_ranked_with_everything_known_of_them(store: DuckDbStore) -> None:
    """Every field of a row is filled in."""
    store_leaking(store, "web-1", 1)
    store_leaking(store, "web-2", 2, role="web", zone="a")

    async def scenario(stub: Any) -> None:
        answer = await stub.RankHosts(pb.RankHostsRequest())
        assert [host.hostname for host in answer.hosts] == ["web-2", "web-1"]
        host = answer.hosts[0]
        assert host.host_id == host_id("web-2")
        assert from_timestamp(host.last_report_time) == NOW
        assert not host.silent
        assert (host.close_wait.current, host.close_wait.maximum, host.close_wait.samples) == (6, 6, 4)
        assert host.close_wait.growth_per_hour == pytest.approx(120)
        assert host.close_wait.growth_fit == pytest.approx(1)
        assert host.time_wait == pb.TimeWaitVolume(current=100, mean=100, maximum=100)
        assert (host.established, host.fd_allocated, host.fd_limit, host.fd_share) == (9, 500, 1_000, 0.5)
        assert [dict(host.labels) for host in answer.hosts] == [{"role": "web", "zone": "a"}, {}]
        assert answer.coverage == pb.FleetCoverage(
            hosts=2,
            hosts_reporting=2,
            hosts_unknown=2,
            sockets_attributed=18,
            sockets_unattributed=2,
            namespaces_unread=0,
            namespaces_by_procfs=6,
        )

    ask(store, scenario)


def test_processes_are_ranked_with_everything_known_of_them(store: DuckDbStore) -> None:
    """A TIME_WAIT whose owner is not known is absent, not zero."""
    store_leaking(store, "web-1", 2)

    async def scenario(stub: Any) -> None:
        (row,) = (await stub.RankProcesses(pb.RankProcessesRequest())).processes
        assert (row.hostname, row.host_id, row.pid) == ("web-1", host_id("web-1"), 100)
        assert (row.name, row.app, row.user) == ("gateway", "gateway.service", "www-data")
        assert from_timestamp(row.start_time) == NOW - 24 * HOUR
        assert from_timestamp(row.last_sample_time) == NOW
        assert row.close_wait.growth_per_hour == pytest.approx(120)
        assert not row.HasField("time_wait")
        assert (row.established, row.fd_open, row.fd_limit, row.fd_share) == (9, 50, 200, 0.25)

    ask(store, scenario)


def test_apps_are_ranked_over_their_hosts(store: DuckDbStore) -> None:
    """One row for the program on both hosts."""
    store_leaking(store, "web-1", 1)
    store_leaking(store, "web-2", 2)

    async def scenario(stub: Any) -> None:
        (row,) = (await stub.RankApps(pb.RankAppsRequest())).apps
        assert (row.app, row.hosts, row.processes) == ("gateway.service", 2, 2)
        assert (row.close_wait.current, row.established, row.fd_share) == (9, 18, 0.25)
        assert row.close_wait.growth_per_hour == pytest.approx(180)
        assert not row.HasField("time_wait")
        assert len(row.close_wait.trend) == 20

    ask(store, scenario)


def test_groups_are_ranked_over_their_hosts(store: DuckDbStore) -> None:
    """Those of one value of a label; the hosts without it are a group without a value."""
    store_leaking(store, "web-1", 1, role="web")
    store_leaking(store, "web-2", 2, role="web")
    store_leaking(store, "other", 1, role="db")
    store_leaking(store, "bare", 0, rack="7")

    async def scenario(stub: Any) -> None:
        answer = await stub.RankGroups(pb.RankGroupsRequest(label="role"))
        assert [(row.HasField("value"), row.value, row.hosts) for row in answer.groups] == [
            (True, "web", 2),
            (True, "db", 1),
            (False, "", 1),
        ]
        row = answer.groups[0]
        assert (row.close_wait.current, row.close_wait.maximum, row.close_wait.samples) == (9, 9, 8)
        assert row.close_wait.growth_per_hour == pytest.approx(180)
        assert row.close_wait.growth_fit == pytest.approx(1)
        assert len(row.close_wait.trend) == 20
        assert row.time_wait == pb.TimeWaitVolume(current=200, mean=200, maximum=200)
        assert (row.established, row.fd_share, row.silent_hosts) == (18, 0.25, 0)
        assert answer.coverage.hosts == 4
        narrow = pb.RankingQuery(by=pb.RANK_BY_CLOSE_WAIT, limit=1, labels={"role": "db"})
        (row,) = (await stub.RankGroups(pb.RankGroupsRequest(query=narrow, label="role"))).groups
        assert (row.value, row.close_wait.current) == ("db", 3)

    ask(store, scenario)


@pytest.mark.parametrize("label", ["9", "no spaces", "r\u00f4le", "k" * 64, "\x1b[31m", "role\n"])
def test_a_group_by_what_can_be_no_label_is_refused(store: DuckDbStore, label: str) -> None:
    """By the rule that labels of hosts have to keep."""

    async def scenario(stub: Any) -> None:
        code, details = await refused(stub.RankGroups(pb.RankGroupsRequest(label=label)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert details == "label is not the name of a label; use letters, digits, '_', '.' and '-'"

    ask(store, scenario)


def test_a_question_without_a_label_is_answered_by_those_there_are(store: DuckDbStore) -> None:
    """Up to fifty of them."""

    async def scenario(stub: Any) -> None:
        code, details = await refused(stub.RankGroups(pb.RankGroupsRequest()))
        assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "label is missing; no host carries a label")
        store_leaking(store, "web-1", 1, role="web", zone="a")
        assert (await refused(stub.RankGroups(pb.RankGroupsRequest())))[1] == "label is missing; hosts carry role, zone"
        for first in (0, 25):
            store_leaking(store, f"h{first}", 1, **{f"l{number:02}": "" for number in range(first, first + 30)})
        details = (await refused(stub.RankGroups(pb.RankGroupsRequest())))[1]
        assert details.endswith(", l48, l49 and others")

    ask(store, scenario)


def test_what_is_unknown_is_absent_from_the_answer(store: DuckDbStore) -> None:
    """Nothing is filled in with zero."""
    store_samples(store, "web-1", [sample(NOW, processes=[process()])])

    async def scenario(stub: Any) -> None:
        (host,) = (await stub.RankHosts(pb.RankHostsRequest())).hosts
        (row,) = (await stub.RankProcesses(pb.RankProcessesRequest())).processes
        (app,) = (await stub.RankApps(pb.RankAppsRequest())).apps
        (group,) = (await stub.RankGroups(pb.RankGroupsRequest(label="role"))).groups
        for ranked in (host, row, app, group):
            assert not ranked.HasField("time_wait")
            for name in ("current", "maximum", "growth_per_hour", "growth_fit"):
                assert not ranked.close_wait.HasField(name)
            assert not ranked.HasField("established")
            assert not ranked.HasField("fd_share")
            assert list(ranked.close_wait.trend) == []
        answer = await stub.GetFleet(pb.GetFleetRequest())
        assert answer.tcp_states == sample_pb2.TcpStateCounts()

    ask(store, scenario)


def test_a_question_without_details_is_about_the_last_hour_and_twenty_rows(store: DuckDbStore) -> None:
    """By CLOSE_WAIT growth."""
    for number in range(25):
        count = 100 - number
        store_samples(store, f"web-{number:02}", [sample(NOW - at * MINUTE, count - at) for at in (2, 1, 0)])
    store_samples(store, "old", [sample(NOW - HOUR - 1, 900)])

    async def scenario(stub: Any) -> None:
        hosts = (await stub.RankHosts(pb.RankHostsRequest())).hosts
        assert [host.hostname for host in hosts] == [f"web-{number:02}" for number in range(20)]
        query = pb.RankingQuery(limit=100, window=Duration(seconds=3_601))
        hosts = (await stub.RankHosts(pb.RankHostsRequest(query=query))).hosts
        assert len(hosts) == 26
        assert [point.start_time.ToMilliseconds() for point in hosts[0].close_wait.trend] == [
            NOW - 3_601_000 + 3_601_000 * part // 20 for part in range(20)
        ]

    ask(store, scenario)


def test_each_measure_can_be_asked_for(store: DuckDbStore) -> None:
    """The measure that is not said is growth."""
    for name, close_waits, time_waits, fds in (
        ("grows", (1, 2, 3), (0, 0, 0), 1),
        ("holds", (9, 9, 9), (1, 1, 1), 2),
        ("churns", (0, 0, 0), (9, 9, 9), 3),
        ("bursts", (0, 0, 0), (0, 20, 0), 4),
        ("opens", (0, 0, 0), (2, 2, 2), 9),
    ):
        samples = [
            sample(NOW - (2 - tick) * MINUTE, count, time_wait=time_waits[tick], fd_allocated=fds, fd_limit=10)
            for tick, count in enumerate(close_waits)
        ]
        store_samples(store, name, samples)

    async def scenario(stub: Any) -> None:
        for by, first in (
            (pb.RANK_BY_UNSPECIFIED, "grows"),
            (pb.RANK_BY_CLOSE_WAIT_GROWTH, "grows"),
            (pb.RANK_BY_CLOSE_WAIT, "holds"),
            (pb.RANK_BY_TIME_WAIT, "churns"),
            (pb.RANK_BY_TIME_WAIT_MAX, "bursts"),
            (pb.RANK_BY_FD_SHARE, "opens"),
            (pb.RANK_BY_STUCK, "bursts"),
            (pb.RANK_BY_FD_ETA, "holds"),
            (pb.RANK_BY_PORTS, "holds"),
        ):
            answer = await stub.RankHosts(pb.RankHostsRequest(query=pb.RankingQuery(by=by)))
            assert answer.hosts[0].hostname == first

    ask(store, scenario)


def test_labels_narrow_every_answer(store: DuckDbStore) -> None:
    """Rows and coverage alike."""
    store_leaking(store, "web-1", 1, role="web")
    store_leaking(store, "db-1", 2, role="db")

    async def scenario(stub: Any) -> None:
        query = pb.RankingQuery(labels={"role": "web"})
        hosts = await stub.RankHosts(pb.RankHostsRequest(query=query))
        processes = await stub.RankProcesses(pb.RankProcessesRequest(query=query))
        apps = await stub.RankApps(pb.RankAppsRequest(query=query))
        fleet = await stub.GetFleet(pb.GetFleetRequest(labels={"role": "web"}))
        assert [host.hostname for host in hosts.hosts] == ["web-1"]
        assert [row.hostname for row in processes.processes] == ["web-1"]
        assert [row.close_wait.current for row in apps.apps] == [3]
        assert fleet.tcp_states.close_wait == 3
        for answer in (hosts, processes, apps, fleet):
            assert answer.coverage.hosts == 1

    ask(store, scenario)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (pb.RankingQuery(limit=10_001), "query.limit"),
        (pb.RankingQuery(limit=2**32 - 1), "query.limit"),
        (pb.RankingQuery(window=Duration(seconds=-1)), "query.window"),
        (pb.RankingQuery(window=Duration(nanos=-1)), "query.window"),
        (pb.RankingQuery(window=Duration(seconds=366 * 86_400 + 1)), "query.window"),
        (pb.RankingQuery(window=Duration(seconds=2**63 - 1)), "query.window"),
        (pb.RankingQuery(by=99), "query.by"),  # type: ignore[arg-type]  # what a newer client might send
        (pb.RankingQuery(labels={f"k{number}": "" for number in range(33)}), "labels"),
    ],
)
def test_a_query_that_breaks_a_rule_is_refused_by_the_name_of_its_field(
    store: DuckDbStore, query: pb.RankingQuery, field: str
) -> None:
    """For every ranking alike."""

    async def scenario(stub: Any) -> None:
        for call in (
            stub.RankHosts(pb.RankHostsRequest(query=query)),
            stub.RankProcesses(pb.RankProcessesRequest(query=query)),
            stub.RankApps(pb.RankAppsRequest(query=query)),
            stub.RankGroups(pb.RankGroupsRequest(query=query, label="role")),
        ):
            code, details = await refused(call)
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert field in details

    ask(store, scenario)


def test_a_question_about_a_host_or_the_fleet_names_its_own_fields(store: DuckDbStore) -> None:
    """They have no query around them."""

    async def scenario(stub: Any) -> None:
        too_long = Duration(seconds=400 * 86_400)
        for call, start in (
            (stub.GetHost(pb.GetHostRequest(name="web-1", limit=10_001)), "limit is"),
            (stub.GetHost(pb.GetHostRequest(name="web-1", window=too_long)), "window is"),
            (stub.GetFleet(pb.GetFleetRequest(window=too_long)), "window is"),
            (stub.GetFleet(pb.GetFleetRequest(labels={f"k{n}": "" for n in range(33)})), "labels has"),
        ):
            code, details = await refused(call)
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert details.startswith(start)

    ask(store, scenario)


def test_the_limits_themselves_are_allowed(store: DuckDbStore) -> None:
    """The largest window and the most rows."""

    async def scenario(stub: Any) -> None:
        query = pb.RankingQuery(limit=10_000, window=Duration(seconds=366 * 86_400))
        assert list((await stub.RankHosts(pb.RankHostsRequest(query=query))).hosts) == []

    ask(store, scenario)


def test_an_unknown_host_is_not_found_and_near_names_are_offered(store: DuckDbStore) -> None:
    """At most three; none where none comes close."""
    for name in ("web-1", "web-2", "web-3", "web-4", "mail"):
        put_host(store, record(hello(name)), NOW)

    async def scenario(stub: Any) -> None:
        code, details = await refused(stub.GetHost(pb.GetHostRequest(name="wbe-1")))
        assert code == grpc.StatusCode.NOT_FOUND
        assert details.startswith("no host 'wbe-1' has reported; did you mean web-1 or ")
        assert details.count("web-") == 3
        assert await refused(stub.GetHost(pb.GetHostRequest(name="zzzzzz"))) == (
            grpc.StatusCode.NOT_FOUND,
            "no host 'zzzzzz' has reported",
        )
        code, _ = await refused(stub.GetHost(pb.GetHostRequest()))
        assert code == grpc.StatusCode.NOT_FOUND
        code, _ = await refused(stub.GetHost(pb.GetHostRequest(name="' OR 1=1 --\0")))
        assert code == grpc.StatusCode.NOT_FOUND

    ask(store, scenario)


def test_a_host_is_shown_by_name_and_by_id(store: DuckDbStore) -> None:
    """Its identity, its figures, its latest sample without processes, and its processes."""
    store_leaking(store, "web-1", 2, role="web")
    store_leaking(store, "web-2", 9)

    async def scenario(stub: Any) -> None:
        answer = await stub.GetHost(pb.GetHostRequest(name="web-1"))
        assert answer == await stub.GetHost(pb.GetHostRequest(name=host_id("web-1")))
        assert answer.host == hello(labels={"role": "web"}).host
        assert answer.host.boot_id == boot_id("web-1")
        assert from_timestamp(answer.last_report_time) == NOW
        assert from_duration(answer.interval) == 10 * SECOND
        assert answer.rank.hostname == "web-1"
        assert answer.rank.close_wait.growth_per_hour == pytest.approx(120)
        assert answer.latest.tcp_states == sample_pb2.TcpStateCounts(close_wait=6, time_wait=100, established=9)
        assert list(answer.latest.processes) == []
        assert [(row.hostname, row.pid) for row in answer.processes] == [("web-1", 100)]

    ask(store, scenario)


def test_a_host_that_never_sent_a_sample_is_shown_as_what_it_said(store: DuckDbStore) -> None:
    """Without a sample, and without figures."""
    put_host(store, record(hello()), NOW - HOUR)

    async def scenario(stub: Any) -> None:
        answer = await stub.GetHost(pb.GetHostRequest(name="web-1"))
        assert answer.host.hostname == answer.rank.hostname == "web-1"
        assert answer.rank.silent
        assert not answer.HasField("latest")
        assert not answer.rank.close_wait.HasField("current")
        assert list(answer.processes) == []

    ask(store, scenario)


def test_a_silent_host_is_marked_in_the_ranking_and_listed_in_the_fleet(store: DuckDbStore) -> None:
    """Its figures are old, and its sockets are in no total."""
    store_samples(store, "gone", [sample(NOW - 10 * MINUTE, 70)])
    store_samples(store, "here", [sample(NOW - SECOND, 4)])

    async def scenario(stub: Any) -> None:
        ranked = await stub.RankHosts(pb.RankHostsRequest())
        assert {host.hostname: host.silent for host in ranked.hosts} == {"gone": True, "here": False}
        answer = await stub.GetFleet(pb.GetFleetRequest())
        assert answer.tcp_states == sample_pb2.TcpStateCounts(close_wait=4)
        assert (answer.coverage.hosts, answer.coverage.hosts_reporting, answer.coverage.hosts_silent) == (2, 1, 1)
        (silent,) = answer.silent_hosts
        assert (silent.hostname, silent.host_id) == ("gone", host_id("gone"))
        assert from_timestamp(silent.last_report_time) == NOW - 10 * MINUTE
        assert [point.value for point in answer.close_wait_trend if point.HasField("value")] == [70, 4]
        assert len(answer.close_wait_trend) == 20
        assert list(answer.time_wait_trend) == []

    ask(store, scenario)


def test_a_sum_that_its_field_does_not_hold_is_the_most_it_holds(store: DuckDbStore) -> None:
    """A very large fleet gets an answer."""
    for name in ("web-1", "web-2"):
        store_samples(store, name, [sample(NOW, 2**32 - 1)])

    async def scenario(stub: Any) -> None:
        assert (await stub.GetFleet(pb.GetFleetRequest())).tcp_states.close_wait == 2**32 - 1

    ask(store, scenario)


def test_a_store_that_can_not_be_read_is_an_internal_error_without_its_reasons(store: DuckDbStore) -> None:
    """The details are in the log of the aggregator, not with the client."""

    async def scenario(stub: Any) -> None:
        store.close()
        assert await refused(stub.RankHosts(pb.RankHostsRequest())) == (
            grpc.StatusCode.INTERNAL,
            "the store can not be read; see the aggregator's log",
        )

    ask(store, scenario)


def test_the_fleet_is_answered_with_what_the_aggregator_took_in(store: DuckDbStore) -> None:
    """Since it started."""

    async def serve() -> None:
        clock = FakeClock()
        batcher = Batcher(store, clock)
        counters = batcher.counters
        counters.stored, counters.duplicates, counters.rejected, counters.failed_commits = 4, 3, 2, 1
        clock.now += HOUR
        async with serving(store, batcher, clock) as address, grpc.aio.insecure_channel(address) as channel:
            stub: Any = FleetServiceStub(channel)
            found = (await stub.GetFleet(pb.GetFleetRequest())).aggregator
        assert from_timestamp(found.start_time) == NOW
        assert found.version == version()
        assert (found.reports_stored, found.reports_duplicate) == (4, 3)
        assert (found.reports_rejected, found.commits_failed) == (2, 1)

    asyncio.run(serve())


def test_the_processes_of_a_host_can_be_ranked_by_another_measure(store: DuckDbStore) -> None:
    """Growth is the measure where none is given; an unknown one is refused by its name."""
    taken = [process(100, 9, fd_open=1, fd_limit=100), process(200, 1, fd_open=99, fd_limit=100)]
    store_samples(store, "web-1", [sample(NOW, processes=taken)])

    async def scenario(stub: Any) -> None:
        for by, pids in ((pb.RANK_BY_UNSPECIFIED, [100, 200]), (pb.RANK_BY_FD_SHARE, [200, 100])):
            answer = await stub.GetHost(pb.GetHostRequest(name="web-1", by=by))
            assert [row.pid for row in answer.processes] == pids
        code, details = await refused(stub.GetHost(pb.GetHostRequest(name="web-1", by=99)))  # type: ignore[arg-type]
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith("by is not")

    ask(store, scenario)


def test_many_questions_at_once_are_all_answered(store: DuckDbStore) -> None:
    """More than are worked on at a time."""
    store_leaking(store, "web-1", 1)

    async def scenario(stub: Any) -> None:
        answers = await asyncio.gather(*(stub.RankHosts(pb.RankHostsRequest()) for _ in range(20)))
        assert [len(answer.hosts) for answer in answers] == [1] * 20

    ask(store, scenario)


def test_a_name_that_is_far_too_long_is_refused(store: DuckDbStore) -> None:
    """It would not fit the answer."""

    async def scenario(stub: Any) -> None:
        code, details = await refused(stub.GetHost(pb.GetHostRequest(name="x" * 100_000)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith("name ")

    ask(store, scenario)


def test_names_that_come_close_are_safe_to_show(store: DuckDbStore) -> None:
    """Whoever shows the details of an error need not know where they come from."""
    said = hello()
    said.host.hostname = "web\n1\u202e"
    put_host(store, record(said), NOW)

    async def scenario(stub: Any) -> None:
        _, details = await refused(stub.GetHost(pb.GetHostRequest(name="web1")))
        assert r"web\n1\u202e" in details

    ask(store, scenario)


def store_explained(store: DuckDbStore) -> None:
    """A host with a process that leaks, and everything that a sample can say of it."""
    samples = []
    for tick in range(4):
        one = explained(
            process(100, 5 * tick, sockets=50, fd_open=100 + 10 * tick, fd_limit=1_130), sample_pb2.CAUSE_LEAK
        )
        one.fd_limit_hard, one.ports_share = 4_096, 0.5
        taken = sample(NOW - (3 - tick) * MINUTE, 5 * tick, processes=[one, process(200, 0)])
        taken.ports.add(namespace="1", destination="10.0.0.5:443", used=90, available=100, pid=100)
        taken.time_wait.add(namespace="1", destination="10.0.0.5:443", count=7).owner.pid = 100
        taken.time_wait.add(namespace="1", listener="0.0.0.0:80", count=9).owner.pid = 200
        taken.namespaces.add(id="1", name="host", read=True)
        samples.append(taken)
    store_samples(store, "web-1", samples)


def test_every_ranking_says_why_and_when(store: DuckDbStore) -> None:
    """Cause, stuck sockets, forecast and ports; of a process, ages and limits, too."""
    store_explained(store)

    async def scenario(stub: Any) -> None:
        (host,) = (await stub.RankHosts(pb.RankHostsRequest())).hosts
        row, other = (await stub.RankProcesses(pb.RankProcessesRequest())).processes
        (app,) = (await stub.RankApps(pb.RankAppsRequest())).apps
        (group,) = (await stub.RankGroups(pb.RankGroupsRequest(label="role"))).groups
        for ranked in (host, row, app, group):
            assert (ranked.cause, ranked.stuck) == (sample_pb2.CAUSE_LEAK, 15)
            # Ten a minute, 1,000 left; CLOSE_WAIT grows by five a minute.
            assert ranked.fd_forecast.seconds == pytest.approx(6_000)
            assert ranked.fd_forecast.earliest_seconds == pytest.approx(6_000)
            assert ranked.fd_forecast.latest_seconds == pytest.approx(6_000)
            assert ranked.fd_forecast.growth_per_hour == pytest.approx(600)
            assert ranked.fd_forecast.close_wait_share == pytest.approx(0.5)
        assert (host.ports_share, row.ports_share, app.ports_share, group.ports_share) == (0.9, 0.5, 0.5, 0.9)
        assert row.close_wait_age == sample_pb2.SocketAges(p50_seconds=3_600, p99_seconds=7_200, max_seconds=10_800)
        assert (row.fd_limit_hard, row.sockets) == (4_096, 50)
        assert (other.cause, other.stuck) == (sample_pb2.CAUSE_UNSPECIFIED, 0)
        for name in ("fd_forecast", "ports_share", "close_wait_age", "fd_limit_hard", "sockets"):
            assert not other.HasField(name)

    ask(store, scenario)


def test_a_process_is_explained(store: DuckDbStore) -> None:
    """With its place over the window, its latest sample, and the sockets and ports that are its."""
    store_explained(store)

    async def scenario(stub: Any) -> None:
        answer = await stub.ExplainProcess(pb.ExplainProcessRequest(name="web-1", pid=100))
        assert answer == await stub.ExplainProcess(pb.ExplainProcessRequest(name=host_id("web-1"), pid=100))
        assert answer.host.hostname == "web-1"
        assert (answer.rank.pid, answer.latest.pid) == (100, 100)
        assert answer.rank.close_wait.growth_per_hour == pytest.approx(300)
        assert [group.count for group in answer.time_wait] == [7]
        assert [budget.used for budget in answer.ports] == [90]
        assert answer.verdict.startswith("It leaks: 15 sockets")
        assert "ss -tanpo state close-wait | grep 'pid=100,'" in answer.commands
        assert {step.question for step in answer.steps} > {"Who closed first?", "Do they stay?"}
        assert answer.remedies
        host = await stub.GetHost(pb.GetHostRequest(name="web-1"))
        assert list(host.latest.processes) == []
        assert [budget.used for budget in host.latest.ports] == [90]
        assert len(host.latest.time_wait) == 2

    ask(store, scenario)


def test_a_process_whose_samples_are_older_than_the_window_is_explained(store: DuckDbStore) -> None:
    """From its latest sample, whose figures are known; of the window nothing is."""
    one = explained(process(100, 9, sockets=12, fd_open=64, fd_limit=64))
    store_samples(store, "web-1", [sample(NOW - HOUR, processes=[one])])

    async def scenario(stub: Any) -> None:
        question = pb.ExplainProcessRequest(name="web-1", pid=100, window=Duration(seconds=60))
        answer = await stub.ExplainProcess(question)
        assert answer.rank.silent
        assert (answer.rank.pid, answer.rank.app, answer.rank.hostname) == (100, "gateway.service", "web-1")
        assert answer.rank.close_wait == pb.CloseWaitTrend(current=9)
        assert (answer.rank.cause, answer.rank.stuck, answer.rank.sockets) == (sample_pb2.CAUSE_LEAK, 9, 12)
        assert (answer.rank.fd_open, answer.rank.fd_limit, answer.rank.fd_share) == (64, 64, 1)
        assert answer.rank.fd_forecast == pb.FdForecast()
        assert not answer.rank.HasField("time_wait")
        assert answer.rank.close_wait_age == one.close_wait_age
        grows = next(step.finding for step in answer.steps if step.question == "Does their number grow?")
        assert grows == "Not to be told: none of its samples is of the window."
        assert answer.verdict.startswith("It leaks: 9 sockets")
        assert answer.unseen[0].startswith("The host fell silent")

    ask(store, scenario)


def test_what_can_not_be_explained_is_not_found(store: DuckDbStore) -> None:
    """A host or a process that is not there, one that only said hello; and a window that is too long is refused."""
    store_explained(store)
    put_host(store, record(hello("new")), NOW)

    async def scenario(stub: Any) -> None:
        for name, pid, said in (
            ("web-1", 300, "process 300 is not in the latest sample of web-1"),
            ("web-1", 0, "process 0 is not"),
            ("new", 100, "process 100 is not in the latest sample of new"),
            ("wbe-1", 100, "no host 'wbe-1' has reported; did you mean web-1"),
        ):
            code, details = await refused(stub.ExplainProcess(pb.ExplainProcessRequest(name=name, pid=pid)))
            assert code == grpc.StatusCode.NOT_FOUND
            assert details.startswith(said)
        question = pb.ExplainProcessRequest(name="web-1", pid=100, window=Duration(seconds=-1))
        code, details = await refused(stub.ExplainProcess(question))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith("window is")

    ask(store, scenario)


def store_troubled(store: DuckDbStore) -> None:
    """A host whose clock is an hour behind, whose agent leaves processes out, and which lost samples."""
    batch = Batch()
    key = host_key("web-1")
    batch.hosts[key] = record(hello())
    for sequence in range(1, 4):
        at = NOW - (3 - sequence) * MINUTE
        counted = sample(at - HOUR, 5, processes=[process(100, 5)] if sequence < 3 else [])
        if sequence == 3:
            counted.degradation = sample_pb2.DEGRADATION_COUNTS_ONLY
        batch.add(key, report(sequence=sequence, taken=counted), at, skew=HOUR)
    reasons = ingest_service_pb2.LossReason
    batch.add_loss(key, Lost(EPOCH, 4, 8, reasons.LOSS_REASON_TOO_OLD, NOW - 2 * MINUTE, NOW - MINUTE), NOW)
    batch.add_loss(key, Lost(EPOCH, None, 9, reasons.LOSS_REASON_SPOOL_CORRUPT), NOW)
    batch.add_loss(key, Lost(EPOCH, 10, 10, reasons.LOSS_REASON_TOO_OLD, NOW - 2 * HOUR, NOW - 2 * HOUR), NOW)
    store.write(batch)


def test_what_is_the_matter_with_a_host_is_answered(store: DuckDbStore) -> None:
    """Both its clocks, what its agent leaves out, and the samples of the window that are lost."""
    store_troubled(store)

    async def scenario(stub: Any) -> None:
        answer = await stub.GetHost(pb.GetHostRequest(name="web-1"))
        assert from_timestamp(answer.latest.sample_time) == NOW
        assert from_timestamp(answer.latest_agent_time) == NOW - HOUR
        assert from_duration(answer.clock_skew) == HOUR
        assert answer.latest.degradation == sample_pb2.DEGRADATION_COUNTS_ONLY
        unknown, old = answer.lost_samples
        assert not unknown.HasField("samples")
        assert not unknown.HasField("first_time")
        assert (unknown.reason, from_timestamp(unknown.received_time)) == (
            ingest_service_pb2.LOSS_REASON_SPOOL_CORRUPT,
            NOW,
        )
        assert (old.samples, old.reason) == (5, ingest_service_pb2.LOSS_REASON_TOO_OLD)
        assert (from_timestamp(old.first_time), from_timestamp(old.last_time)) == (NOW - 2 * MINUTE, NOW - MINUTE)
        (row,) = answer.processes
        assert (row.pid, from_timestamp(row.last_sample_time)) == (100, NOW - MINUTE)
        code, details = await refused(stub.ExplainProcess(pb.ExplainProcessRequest(name="web-1", pid=100)))
        assert code == grpc.StatusCode.NOT_FOUND
        assert details.startswith("the agent of web-1 leaves out processes for now")

    ask(store, scenario)


def test_a_clock_that_is_ahead_has_a_negative_skew(store: DuckDbStore) -> None:
    """As protobuf has it: no part of a duration is of another sign than the other."""
    batch = Batch()
    batch.hosts[host_key("web-1")] = record(hello())
    batch.add(host_key("web-1"), report(taken=sample(NOW + 6_500, 1)), NOW, skew=-6_500)
    store.write(batch)

    async def scenario(stub: Any) -> None:
        answer = await stub.GetHost(pb.GetHostRequest(name="web-1"))
        assert answer.clock_skew == Duration(seconds=-6, nanos=-500_000_000)
        assert from_timestamp(answer.latest_agent_time) == NOW + 6_500

    ask(store, scenario)


def test_the_fleet_names_the_hosts_that_something_is_the_matter_with(store: DuckDbStore) -> None:
    """And the machines that share a host id, the latest first."""
    store_troubled(store)
    old, new = (
        Conflict(host_id("web-1"), "web-1", "10.0.0.1:1", f"twin-{at}", "10.0.0.2:2", NOW + at) for at in (1, 2)
    )

    async def scenario(stub: Any) -> None:
        answer = await stub.GetFleet(pb.GetFleetRequest())
        key = host_id("web-1")
        assert list(answer.losing_hosts) == [pb.HostNotice(host_id=key, hostname="web-1", lost_samples=5)]
        assert list(answer.skewed_hosts) == [
            pb.HostNotice(host_id=key, hostname="web-1", clock_skew=Duration(seconds=3_600))
        ]
        assert list(answer.degraded_hosts) == [
            pb.HostNotice(host_id=key, hostname="web-1", degradation=sample_pb2.DEGRADATION_COUNTS_ONLY)
        ]
        coverage = answer.coverage
        assert (coverage.hosts_losing, coverage.hosts_skewed, coverage.hosts_degraded) == (1, 1, 1)
        first, second = answer.conflicts
        assert (first.hostname, first.peer, first.refused_hostname) == ("web-1", "10.0.0.1:1", "twin-2")
        assert (first.refused_peer, from_timestamp(first.last_time)) == ("10.0.0.2:2", NOW + 2)
        assert second.refused_hostname == "twin-1"

    ask(store, scenario, [old, new])


# As long as nobody interrupts it, this takes hours.
ENDLESS = "SELECT count(*) FROM range(1000000000) AS a, range(100000) AS b WHERE a.range * b.range % 7 = 3"


class Slow(Fleet):
    """Has rankings of hosts take forever, and of processes wait for `release`; the fleet is answered as ever."""

    def __init__(self, store: DuckDbStore, query_seconds: float = 30.0) -> None:
        super().__init__(store, FakeClock(), Counters(NOW), query_seconds=query_seconds)
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.release = threading.Event()

    def _rank_hosts(self, store: Question, _: pb.RankHostsRequest) -> pb.RankHostsResponse:
        self.begun.release()
        try:
            store.read(ENDLESS)
        except CalledOff:
            self.ended.release()
            raise
        return pb.RankHostsResponse()

    def _rank_processes(self, _: Question, __: pb.RankProcessesRequest) -> pb.RankProcessesResponse:
        self.begun.release()
        self.release.wait(60)
        return pb.RankProcessesResponse()


@asynccontextmanager
async def asking(fleet: Fleet) -> AsyncIterator[Any]:
    """A stub of a server of its service."""
    server = grpc.aio.server()
    add_FleetServiceServicer_to_server(FleetService(read_by(fleet, FakeClock())), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield FleetServiceStub(channel)
    finally:
        await server.stop(0)


async def acquired(semaphore: threading.Semaphore, times: int = 1) -> None:
    """Waits for another thread, without holding up this one."""
    for _ in range(times):
        assert await asyncio.to_thread(semaphore.acquire, timeout=20)


def test_a_question_that_takes_too_long_is_interrupted(store: DuckDbStore) -> None:
    """It is answered so, by the setting that says how long, and leaves its turn to others."""

    async def scenario() -> None:
        service = Slow(store, query_seconds=0.2)
        async with asking(service) as stub:
            for code, details in await asyncio.gather(
                *(refused(stub.RankHosts(pb.RankHostsRequest())) for _ in "1234")
            ):
                assert code == grpc.StatusCode.DEADLINE_EXCEEDED
                assert details.startswith("no answer within 200ms (limits.query_seconds")
            await acquired(service.ended, 2)  # the others had no turn
            assert (await stub.GetFleet(pb.GetFleetRequest())).coverage.hosts == 0

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_question_whose_asker_has_left_is_interrupted(store: DuckDbStore) -> None:
    """Ctrl-C, or the asker's own deadline: nobody would read the answer."""

    async def scenario() -> None:
        service = Slow(store)
        async with asking(service) as stub:
            call = stub.RankHosts(pb.RankHostsRequest())
            await acquired(service.begun)
            call.cancel()
            await acquired(service.ended)
            code, _ = await refused(stub.RankHosts(pb.RankHostsRequest(), timeout=0.2))
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED
            await acquired(service.ended)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_question_that_is_called_off_twice_keeps_its_turn_until_its_query_has_ended(store: DuckDbStore) -> None:
    """Its time is up, and its asker leaves at the same moment."""

    async def scenario() -> None:
        service = Slow(store)
        asked = asyncio.ensure_future(service.rank_hosts(pb.RankHostsRequest()))
        await acquired(service.begun)
        for _ in range(3):
            asked.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert service.ended.acquire(blocking=False)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_questions_wait_for_their_turn_but_not_too_many(store: DuckDbStore) -> None:
    """Three callers' at a time; of one caller 64 wait, of all 200. The aggregator's own come all the same."""

    async def scenario() -> None:
        service = Slow(store)

        async def ask(address: str) -> pb.RankProcessesResponse:
            caller_address.set(address)
            return await service.rank_processes(pb.RankProcessesRequest())

        def asked(address: str, times: int) -> list[asyncio.Task[pb.RankProcessesResponse]]:
            return [asyncio.create_task(ask(address)) for _ in range(times)]

        waiting = asked("10.0.0.1", 2 + 64)
        with pytest.raises(Overloaded, match=r"^64 of your questions wait for an answer; "):
            await asyncio.create_task(ask("10.0.0.1"))
        await acquired(service.begun, 2)
        for last, times in (2, 64), (3, 64), (4, 10):
            waiting += asked(f"10.0.0.{last}", times)
        with pytest.raises(Overloaded, match=r"^200 questions wait for an answer; "):
            await asyncio.create_task(ask("10.0.0.5"))
        await acquired(service.begun, 1)
        own = asyncio.create_task(service.rank_processes(pb.RankProcessesRequest()))
        await acquired(service.begun, 1)
        assert service.questions.in_hand == 205
        service.release.set()
        await asyncio.gather(own, *waiting)
        assert (service.questions.in_hand, service.questions.turned_away) == (0, 2)

    asyncio.run(asyncio.wait_for(scenario(), 60))
