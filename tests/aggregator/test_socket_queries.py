"""Asking agents for their sockets, over real connections: who is asked, what is taken in, and what is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from loiter.limits import MAX_LISTED_SOCKETS
from loiter.log_records import fields_of
from loiter.v1 import fleet_service_pb2, socket_pb2
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1.fleet_service_pb2_grpc import FleetServiceStub
from loiter_aggregator.ingest.answers import Answers
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.socket_queries import NoAnswer, SocketQueries, TooManyQuestions
from loiter_aggregator.ingest.validation import Invalid, check_socket_answer
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, serving, store_samples
from support.reports import EPOCH, NOW, hello, report, sample, send, stamp
from support.streams import Agent, NotedBatcher, until

Ask = Callable[..., Awaitable[fleet_service_pb2.ListSocketsResponse]]
Scenario = Callable[[str, NotedBatcher, Ask], Awaitable[None]]


def run(store: DuckDbStore, clock: FakeClock, scenario: Scenario) -> None:
    """Runs a scenario against an aggregator that has heard of web-1."""
    store_samples(store, "web-1", [sample(NOW - 1_000)])

    async def serve() -> None:
        batcher = NotedBatcher(store, clock)
        async with serving(store, batcher, clock) as address, grpc.aio.insecure_channel(address) as channel:
            stub: Any = FleetServiceStub(channel)

            async def ask(name: str = "web-1", **fields: Any) -> fleet_service_pb2.ListSocketsResponse:
                request = fleet_service_pb2.ListSocketsRequest(name=name, **fields)
                answer: fleet_service_pb2.ListSocketsResponse = await stub.ListSockets(request)
                return answer

            await asyncio.wait_for(scenario(address, batcher, ask), 20)

    asyncio.run(serve())


def answering(version: str = "0.3.0", answers: bool = True) -> pb.Hello:
    """The hello of an agent that answers, or does not."""
    said = hello()
    said.host.agent_version, said.answers_socket_queries = version, answers
    return said


def answer_of(query_id: int, sockets: int = 1, **fields: Any) -> pb.StreamReportsRequest:
    """An answer with so many sockets."""
    one = socket_pb2.Socket(state=socket_pb2.TCP_STATE_CLOSE_WAIT, local="10.0.0.1:80", peer="10.0.0.2:4000", pid=7)
    one.age.FromSeconds(90)
    found = socket_pb2.SocketAnswer(
        query_id=query_id, sockets=[one] * sockets, matching=sockets, sample_time=stamp(NOW)
    )
    found.MergeFrom(socket_pb2.SocketAnswer(**fields))
    return pb.StreamReportsRequest(socket_answer=found)


async def asked(agent: Agent) -> socket_pb2.SocketQuery:
    """Waits for the next question to an agent."""
    response = await agent.answer()
    assert response.WhichOneof("response") == "socket_query", response
    return response.socket_query


async def refusal(asking: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """What a question fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking
    return caught.value.code(), caught.value.details() or ""


def test_an_agent_is_asked_and_its_answer_handed_on(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Between its reports, which are acknowledged as ever; and the log says who asked for what."""
    caplog.set_level(logging.INFO, "loiter_aggregator.fleet.sockets")

    async def scenario(address: str, batcher: NotedBatcher, ask: Ask) -> None:
        async with Agent(address) as agent:
            await agent.greet(answering())
            await agent.send(send(report(sequence=1)))
            asking = asyncio.ensure_future(ask(pid=7, states=[socket_pb2.TCP_STATE_CLOSE_WAIT]))
            query = await asked(agent)
            assert (query.pid, list(query.states), query.limit) == (7, [socket_pb2.TCP_STATE_CLOSE_WAIT], 100)
            await agent.send(send(report(sequence=2)))
            await agent.send(answer_of(query.query_id))
            found = await asking
            assert (found.host.hostname, found.answer.matching, found.answer.sockets[0].age.seconds) == ("web-1", 1, 90)
            await batcher.taken(2)
            await batcher.commit()
            assert await agent.ack() == (EPOCH, 2)
            assert batcher.counters.rejected == batcher.counters.socket_answers_dropped == 0

    run(store, clock, scenario)
    (record,) = [record for record in caplog.records if record.name == "loiter_aggregator.fleet.sockets"]
    assert record.getMessage() == "anyone asks for the sockets of web-1: process 7, close_wait"
    facts = fields_of(record)
    assert (facts["principal"], facts["host"], facts["pid"], facts["states"]) == ("anyone", "web-1", 7, "close_wait")


def test_why_a_host_can_not_be_asked_is_said(store: DuckDbStore, clock: FakeClock) -> None:
    """Not known, not connected, too old, switched off: and no such agent is ever sent a question."""

    async def scenario(address: str, _: NotedBatcher, ask: Ask) -> None:
        code, details = await refusal(ask("web-2"))
        assert code == grpc.StatusCode.NOT_FOUND
        assert "did you mean web-1?" in details
        code, details = await refusal(ask())
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert "web-1 is not connected" in details
        assert "its last report came at 2027-01-15T07:59:59Z" in details
        for said, words in (
            (answering("0.1.0", answers=False), "is of release 0.1.0: it takes 0.3.0 or later"),
            (answering("0.2.0", answers=False), "is of release 0.2.0: it takes 0.3.0 or later"),
            (answering("\x1b[2J", answers=False), r"is of release \x1b[2J"),
            (answering("0.3.0", answers=False), "is set not to list sockets (answer_sockets is false there)"),
        ):
            async with Agent(address) as agent:
                await agent.greet(said)
                code, details = await refusal(ask())
                assert code == grpc.StatusCode.FAILED_PRECONDITION
                assert words in details
                await agent.send(b"\xff")
                assert (await agent.rejection()).code  # the first that came: no question before it
        for fields in ({"limit": MAX_LISTED_SOCKETS + 1}, {"states": [0]}, {"states": [99]}, {"states": [8] * 99}):
            assert (await refusal(ask(**fields)))[0] == grpc.StatusCode.INVALID_ARGUMENT

    run(store, clock, scenario)


def test_what_an_agent_can_not_read_is_an_answer_in_words(store: DuckDbStore, clock: FakeClock) -> None:
    """Made safe to show, for agents may be anybody's."""

    async def scenario(address: str, _: NotedBatcher, ask: Ask) -> None:
        async with Agent(address) as agent:
            await agent.greet(answering())
            asking = asyncio.ensure_future(ask(pid=9))
            await agent.send(answer_of((await asked(agent)).query_id, 0, error="no process 9\x1b[2J"))
            code, details = await refusal(asking)
            assert code == grpc.StatusCode.FAILED_PRECONDITION
            assert details == r"the agent of web-1 lists no sockets: no process 9\x1b[2J"

    run(store, clock, scenario)


def test_who_waits_is_told_at_once_when_the_stream_breaks(store: DuckDbStore, clock: FakeClock) -> None:
    """So are those who wait for their turn behind."""

    async def scenario(address: str, _: NotedBatcher, ask: Ask) -> None:
        async with Agent(address) as agent:
            await agent.greet(answering())
            asking = [asyncio.ensure_future(ask()) for _ in range(2)]
            await asked(agent)
        for one in asking:
            code, details = await refusal(one)
            assert code == grpc.StatusCode.FAILED_PRECONDITION
            assert "the connection broke" in details or "is not connected" in details

    run(store, clock, scenario)


def test_an_answer_that_nobody_waits_for_is_dropped_and_counted(store: DuckDbStore, clock: FakeClock) -> None:
    """One that was never asked for, a second one, one with another number; the stream goes on."""

    async def scenario(address: str, batcher: NotedBatcher, ask: Ask) -> None:
        async with Agent(address) as agent:
            await agent.greet(answering())
            await agent.send(answer_of(1))
            await until(lambda: batcher.counters.socket_answers_dropped == 1)
            asking = asyncio.ensure_future(ask())
            number = (await asked(agent)).query_id
            await agent.send(answer_of(number + 1, matching=66))
            await agent.send(answer_of(number))
            await agent.send(answer_of(number))
            assert (await asking).answer.matching == 1
            await until(lambda: batcher.counters.socket_answers_dropped == 3)
            assert batcher.counters.rejected == 0

    run(store, clock, scenario)


def test_an_answer_that_breaks_a_rule_is_refused_and_reports_go_on(store: DuckDbStore, clock: FakeClock) -> None:
    """The rule is told to who asked."""

    async def scenario(address: str, batcher: NotedBatcher, ask: Ask) -> None:
        async with Agent(address) as agent:
            await agent.greet(answering())
            asking = asyncio.ensure_future(ask(limit=2))
            await agent.send(answer_of((await asked(agent)).query_id, 3))
            _, details = await refusal(asking)
            assert "its answer breaks a rule: sockets has more than the 2 that were asked for" in details
            await agent.send(send(report(sequence=1)))
            await batcher.taken(1)
            await batcher.commit()
            assert await agent.ack() == (EPOCH, 1)

    run(store, clock, scenario)


def test_who_asks_too_often_is_turned_away(store: DuckDbStore, clock: FakeClock) -> None:
    """Ten at once, then one a second; no agent hears of the others."""

    async def scenario(_: str, batcher: NotedBatcher, ask: Ask) -> None:
        del batcher
        codes = [(await refusal(ask()))[0] for _ in range(12)]
        assert codes[:10] == [grpc.StatusCode.FAILED_PRECONDITION] * 10
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes[10:]

    run(store, clock, scenario)


def nobody() -> Answers:
    """What goes back on a stream that nobody reads: nothing is sent."""
    unread: Any = None
    return Answers(unread)


def test_an_agent_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    """Neither are more questions kept for it than a few."""

    async def scenario() -> None:
        queries = SocketQueries(Counters(NOW), seconds=0.05)
        line = queries.open(1, answering(), nobody())
        outcomes = await asyncio.gather(
            *(queries.ask(1, socket_pb2.SocketQuery(limit=1)) for _ in range(6)), return_exceptions=True
        )
        assert [type(one) for one in outcomes] == [TimeoutError] * 4 + [TooManyQuestions] * 2
        assert (line.in_hand, line.asked, line.answered) == (0, None, None)
        late = socket_pb2.SocketAnswer(query_id=1)
        queries.take(line, late)
        asking = asyncio.ensure_future(queries.ask(1, socket_pb2.SocketQuery(limit=1)))
        await asyncio.sleep(0)
        newer = queries.open(1, answering(), nobody())
        queries.close(line)
        with pytest.raises(NoAnswer):
            await asking
        assert newer.open  # the end of an older stream is not the end of the newer one
        with pytest.raises(TimeoutError):
            await queries.ask(1, socket_pb2.SocketQuery(limit=1))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"error": "x" * 257}, "error is longer"),
        ({"matching": 0}, "matching is less than the sockets"),
        ({"unattributed": 2}, "unattributed is more than the sockets"),
        ({"sockets": [socket_pb2.Socket(state=socket_pb2.TcpState.ValueType(14))]}, "state of a socket is not known"),
        ({"sockets": [socket_pb2.Socket(peer="x" * 257)]}, "peer of a socket is longer"),
        ({"sockets": [socket_pb2.Socket(app="x" * 257)]}, "app of a socket is longer"),
        ({"sockets": [socket_pb2.Socket(pid=0)]}, "a socket is of pid 0"),
        ({"sockets": [socket_pb2.Socket(age=Duration(seconds=-1))]}, "age of a socket is out of range"),
        ({"sockets": [socket_pb2.Socket(idle=Duration(nanos=10**9))]}, "idle of a socket is out of range"),
        ({"sample_time": stamp(4_200_000_000_000)}, "sample_time is out of range"),
    ],
)
def test_an_answer_is_checked(change: dict[str, Any], rule: str) -> None:
    """Sizes, counts, times and texts."""
    query = socket_pb2.SocketQuery(limit=5)
    good = answer_of(1).socket_answer
    check_socket_answer(good, query)
    bad = socket_pb2.SocketAnswer()
    bad.CopyFrom(good)
    bad.MergeFrom(socket_pb2.SocketAnswer(**{"matching": 5, **change}))
    with pytest.raises(Invalid, match=rule):
        check_socket_answer(bad, query)
    with pytest.raises(Invalid, match="sample_time is missing"):
        check_socket_answer(socket_pb2.SocketAnswer(), query)


def test_an_answer_is_of_what_was_asked_for() -> None:
    """No other process, and no other state."""
    found = answer_of(1).socket_answer
    close_wait, listen = socket_pb2.TCP_STATE_CLOSE_WAIT, socket_pb2.TCP_STATE_LISTEN
    check_socket_answer(found, socket_pb2.SocketQuery(limit=5, pid=7, states=[listen, close_wait]))
    with pytest.raises(Invalid, match="a socket is of a process that was not asked for"):
        check_socket_answer(found, socket_pb2.SocketQuery(limit=5, pid=8))
    with pytest.raises(Invalid, match="a socket is in a state that was not asked for"):
        check_socket_answer(found, socket_pb2.SocketQuery(limit=5, states=[listen]))
