"""The aggregator's end of an agent's stream, over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1.ingest_service_pb2_grpc import IngestServiceStub
from loiter_aggregator.clock import from_timestamp, to_timestamp
from loiter_aggregator.ingest.service import IngestService
from loiter_aggregator.ranking.fleet import fleet_coverage
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, host_key, serving
from support.reports import EPOCH, HOUR, NOW, SECOND, full_report, hello, open_stream, process, report, sample, send
from support.streams import Agent, NotedBatcher

WEB_1 = host_key("web-1")


Scenario = Callable[[str, NotedBatcher], Awaitable[None]]


def run(store: DuckDbStore, clock: FakeClock, scenario: Scenario) -> None:
    """Runs a scenario against a server of its own."""

    async def serve() -> None:
        batcher = NotedBatcher(store, clock)
        async with serving(store, batcher, clock) as address:
            await asyncio.wait_for(scenario(address, batcher), 30)

    asyncio.run(serve())


def stored(store: DuckDbStore) -> list[int]:
    """CLOSE_WAIT of the samples in the store, which is their sequence."""
    return [count for (count,) in store.read("SELECT close_wait FROM host_sample ORDER BY ts")]


def test_a_stream_opens_delivers_and_is_acknowledged(store: DuckDbStore, clock: FakeClock) -> None:
    """With the generated stub: the hello is answered by the clock, reports by one acknowledgement."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = IngestServiceStub(channel).StreamReports()
            await call.write(open_stream(hello(labels={"role": "web"})))
            opened = await call.read()
            assert from_timestamp(opened.hello_ack.aggregator_time) == NOW
            for sequence in (1, 2):
                await call.write(send(report(sequence=sequence)))
            await batcher.taken(2)
            await batcher.commit()
            answer = await call.read()
            assert answer.report_ack == pb.ReportAck(spool_epoch=EPOCH, sequence=2)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK

    run(store, clock, scenario)
    assert stored(store) == [1, 2]
    assert store.read("SELECT host_key, hostname, interval_ms, last_seen FROM host") == [(WEB_1, "web-1", 10_000, NOW)]
    assert store.read("SELECT host_key, name, value FROM host_label") == [(WEB_1, "role", "web")]


def test_a_report_is_acknowledged_after_the_commit_and_not_before(store: DuckDbStore, clock: FakeClock) -> None:
    """The rejection of a later report comes first: that needs no commit."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.greet()
            await agent.send(send(report(sequence=1)))
            await agent.send(b"\xff")
            await agent.rejection()
            assert stored(store) == []
            await batcher.commit()
            assert stored(store) == [1]
            assert await agent.ack() == (EPOCH, 1)

    run(store, clock, scenario)


def test_a_stream_must_open_with_a_hello(store: DuckDbStore, clock: FakeClock) -> None:
    """A report, nothing, or bytes that are no message end it with INVALID_ARGUMENT, in words."""

    async def scenario(address: str, _: NotedBatcher) -> None:
        for message, reason in (
            (send(report()), "the first message is not a hello"),
            (pb.StreamReportsRequest(), "the first message is not a hello"),
            (b"\xff\xff\xff", "not a StreamReportsRequest"),
        ):
            async with Agent(address) as agent:
                await agent.send(message)
                code, details = await agent.refusal()
                assert code == grpc.StatusCode.INVALID_ARGUMENT
                assert reason in details
        async with Agent(address) as agent:
            await agent.call.done_writing()
            assert await agent.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, "the stream ended without a hello")

    run(store, clock, scenario)
    assert stored(store) == []


def test_a_stream_that_ends_before_its_hello_is_told_the_time_and_is_no_mistake(
    store: DuckDbStore, clock: FakeClock
) -> None:
    """`loiter-agent check` asks so whether it would be let in."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.call.done_writing()
            await agent.refusal()
            assert dict(await agent.call.trailing_metadata()) == {"loiter-time": str(clock())}
        assert batcher.counters.rejected == 0

    run(store, clock, scenario)
    assert stored(store) == []


def test_a_bad_hello_is_refused_and_leaves_nothing_behind(store: DuckDbStore, clock: FakeClock) -> None:
    """The rule that it breaks is in the details."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        for said, reason in (
            (hello(interval_ms=1), "interval is not between"),
            (hello(labels={"no spaces": "x"}), "host.labels has a name"),
            (hello(""), "host.hostname is empty"),
            (pb.Hello(), "host.host_id"),
        ):
            async with Agent(address) as agent:
                await agent.send(open_stream(said))
                code, details = await agent.refusal()
                assert code == grpc.StatusCode.INVALID_ARGUMENT
                assert reason in details
        assert batcher.counters.rejected == 4

    run(store, clock, scenario)
    assert store.read("SELECT count(*) FROM host") == [(0,)]


def test_bytes_that_are_no_report_are_rejected_and_the_stream_goes_on(store: DuckDbStore, clock: FakeClock) -> None:
    """Hostile and truncated bytes harm neither the stream nor the store; the report after them is stored."""
    valid = send(full_report()).SerializeToString()
    hostile = [
        b"",
        b"\xff" * 50,
        b"\x12\xff\xff\xff\xff\x7f",  # a length that is not there
        b"\x0b" * 5_000,  # groups within groups
        valid[:-1],
        valid[: len(valid) // 2],
        valid.replace(b"gateway", b"gate\xffay"),  # not UTF-8
        bytes(reversed(valid)),
        open_stream(hello()).SerializeToString(),
    ]

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.greet()
            for data in hostile:
                await agent.send(data)
                rejection = await agent.rejection()
                assert rejection.code == 3
                assert (rejection.spool_epoch, rejection.sequence) == (0, 0)
                assert rejection.reason.startswith("the message is not a")
            assert batcher.counters.rejected == len(hostile)
            await agent.send(send(report(sequence=1)))
            await batcher.taken(1)
            await batcher.commit()
            assert await agent.ack() == (EPOCH, 1)

    run(store, clock, scenario)
    assert stored(store) == [1]
    assert store.read("SELECT count(*) FROM host") == [(1,)]


def test_a_report_that_breaks_a_rule_is_rejected_by_its_number(store: DuckDbStore, clock: FakeClock) -> None:
    """The agent learns which report, which code and which rule; the ones around it are stored."""
    twice = report(sequence=2, taken=sample(processes=[process(7), process(7)]))
    timeless = report(sequence=3)
    timeless.sample.ClearField("sample_time")

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.greet()
            await agent.send(send(report(sequence=1)))
            await agent.send(send(twice))
            await agent.send(send(timeless))
            await agent.send(send(report(sequence=4)))
            await batcher.taken(2)
            await batcher.commit()
            assert await agent.rejection() == pb.ReportRejection(
                spool_epoch=EPOCH, sequence=2, code=3, reason="process 7 is there twice"
            )
            assert await agent.rejection() == pb.ReportRejection(
                spool_epoch=EPOCH, sequence=3, code=3, reason="sample.sample_time is missing"
            )
            assert await agent.ack() == (EPOCH, 4)

    run(store, clock, scenario)
    assert stored(store) == [1, 4]


def test_a_report_of_another_host_is_rejected(store: DuckDbStore, clock: FakeClock) -> None:
    """A stream speaks for the host of its hello alone."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.greet(hello("web-1"))
            await agent.send(send(report("web-2", 1)))
            await batcher.rejected()
            await batcher.commit()
            rejection = await agent.rejection()
            assert (rejection.sequence, rejection.code) == (1, 3)
            assert rejection.reason == "host_id is not the one in the hello"

    run(store, clock, scenario)
    assert stored(store) == []


def test_reports_sent_again_after_a_reconnect_are_stored_once(store: DuckDbStore, clock: FakeClock) -> None:
    """The agent did not hear the acknowledgement: it sends again, and is acknowledged again."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.greet()
            for sequence in (1, 2):
                await agent.send(send(report(sequence=sequence)))
            await batcher.taken(2)
        await batcher.commit()
        async with Agent(address) as agent:
            await agent.greet()
            for sequence in (1, 2, 3):
                await agent.send(send(report(sequence=sequence)))
            await batcher.taken(3)
            await batcher.commit()
            assert await agent.ack() == (EPOCH, 3)
        assert (batcher.counters.stored, batcher.counters.duplicates) == (3, 2)

    run(store, clock, scenario)
    assert stored(store) == [1, 2, 3]


def test_two_epochs_on_one_stream_are_acknowledged_apart(store: DuckDbStore, clock: FakeClock) -> None:
    """A spool that started afresh counts from 1 again."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.greet()
            await agent.send(send(report(sequence=8)))
            await agent.send(send(report(sequence=1, epoch=EPOCH + 1)))
            await batcher.taken(2)
            await batcher.commit()
            assert sorted([await agent.ack(), await agent.ack()]) == [(EPOCH, 8), (EPOCH + 1, 1)]

    run(store, clock, scenario)


def test_streams_of_many_hosts_are_acknowledged_each_by_itself(store: DuckDbStore, clock: FakeClock) -> None:
    """One commit takes in all of them."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        agents = [Agent(address) for _ in range(8)]
        for number, agent in enumerate(agents):
            await agent.greet(hello(f"web-{number}"))
            await agent.send(send(report(f"web-{number}", number + 1)))
        await batcher.taken(len(agents))
        await batcher.commit()
        assert [await agent.ack() for agent in agents] == [(EPOCH, number + 1) for number in range(8)]
        for agent in agents:
            await agent.__aexit__()

    run(store, clock, scenario)
    assert sorted(stored(store)) == list(range(1, 9))


def test_an_agent_that_went_away_does_not_disturb_the_commit(store: DuckDbStore, clock: FakeClock) -> None:
    """What it sent is stored, and other streams are served."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as gone:
            await gone.greet()
            await gone.send(send(report(sequence=1)))
            await batcher.taken(1)
        async with Agent(address) as agent:
            await agent.greet(hello("web-2"))
            await agent.send(send(report("web-2", 2)))
            await batcher.taken(1)
            await batcher.commit()
            assert await agent.ack() == (EPOCH, 2)

    run(store, clock, scenario)
    assert stored(store) == [1, 2]


def test_a_host_is_known_once_it_has_delivered(store: DuckDbStore, clock: FakeClock) -> None:
    """A hello alone makes no host that reports."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.greet()
            await batcher.commit()
            assert store.read("SELECT hostname, last_seen FROM host") == [("web-1", None)]
            assert fleet_coverage(store, {}, clock()).hosts == 0
            await agent.send(send(report(sequence=1)))
            await batcher.taken(1)
            await batcher.commit()
            assert fleet_coverage(store, {}, clock()).hosts_reporting == 1

    run(store, clock, scenario)


@pytest.mark.parametrize(("offset", "stored_at"), [(2 * HOUR, NOW), (-2 * HOUR, NOW), (1 * SECOND, NOW), (0, NOW)])
def test_the_samples_of_a_clock_that_is_wrong_are_set_right(
    store: DuckDbStore, clock: FakeClock, offset: int, stored_at: int
) -> None:
    """By the difference that the hello shows; and no sample is from our future."""

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        said = hello()
        said.agent_time.CopyFrom(to_timestamp(NOW + offset))
        taken = sample(NOW + offset)
        async with Agent(address) as agent:
            await agent.greet(said)
            await agent.send(send(report(taken=taken)))
            await batcher.taken(1)
            await batcher.commit()

    run(store, clock, scenario)
    assert store.read("SELECT ts FROM host_sample") == [(stored_at,)]


@pytest.mark.parametrize("seconds", [2**62, -(2**62), -1])
def test_a_hello_with_an_impossible_time_is_refused(store: DuckDbStore, clock: FakeClock, seconds: int) -> None:
    """Its samples could not be stored."""

    async def scenario(address: str, _: NotedBatcher) -> None:
        said = hello()
        said.agent_time.seconds = seconds
        async with Agent(address) as agent:
            await agent.send(open_stream(said))
            assert await agent.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, "agent_time is out of range")

    run(store, clock, scenario)


def test_streams_are_ended_in_order_when_the_aggregator_stops(store: DuckDbStore, clock: FakeClock) -> None:
    """What is durable is acknowledged; then the agent is told to come back."""

    async def scenario() -> None:
        batcher = NotedBatcher(store, clock)
        ingest = IngestService(batcher, clock)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((ingest.handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with Agent(f"127.0.0.1:{port}") as agent:
            await agent.greet()
            await agent.send(send(report(sequence=1)))
            await batcher.taken(1)
            await batcher.commit()
            await ingest.end_streams()
            assert await agent.ack() == (EPOCH, 1)
            code, details = await agent.refusal()
            assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the aggregator is stopping")
        await server.stop(None)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_hostile_names_are_escaped_in_the_log(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A host name can not write to the terminal of who reads the log, nor start a line of its own."""

    async def scenario(address: str, _: NotedBatcher) -> None:
        said = hello()
        said.host.hostname = "\x1b[2Jweb\nERROR all is lost"
        async with Agent(address) as agent:
            await agent.greet(said)
            await agent.send(b"\xff")
            await agent.rejection()

    run(store, clock, scenario)
    assert any(r"\x1b[2Jweb\nERROR" in message for message in caplog.messages)
    assert not any("\x1b" in message or "\n" in message for message in caplog.messages)


def test_a_store_that_has_taken_no_sample_at_all_loses_nothing(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """By a mistake of ours. All is given up and every stream ended: agents send again, and then that is stored."""

    class Stumbling(DuckDbStore):
        stumbles = True

        def write(self, batch: Batch) -> None:
            if self.stumbles and batch.host_rows:
                raise OverflowError("a mistake of ours")
            super().write(batch)

    store = Stumbling(tmp_path, "256MB")

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.greet()
            await agent.send(send(report(sequence=1)))
            await agent.send(send(report(sequence=2)))
            await batcher.taken(2)
            with pytest.raises(OverflowError):
                await batcher.commit()
            code, details = await agent.refusal()
            assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "connect again")
        store.stumbles = False
        async with Agent(address) as agent:
            await agent.greet()
            for sequence in (1, 2, 3):
                await agent.send(send(report(sequence=sequence)))
            await batcher.taken(3)
            await batcher.commit()
            assert await agent.ack() == (EPOCH, 3)
        assert batcher.counters.duplicates == 0
        assert batcher.room.rows == 0

    run(store, clock, scenario)
    assert stored(store) == [1, 2, 3]
    assert store.read("SELECT count(*) FROM lost_sample") == [(0,)]
    assert not [record for record in caplog.records if record.name.startswith("loiter") and record.exc_info]
    store.close()


def test_a_report_that_can_not_be_stored_is_rejected_and_its_stream_goes_on(tmp_path: Path, clock: FakeClock) -> None:
    """The agent hears which, before the acknowledgement that covers it."""

    class Choking(DuckDbStore):
        def write(self, batch: Batch) -> None:
            if any(row[-2] == 2 for row in batch.host_rows):
                raise OverflowError("a mistake of ours")
            super().write(batch)

    store = Choking(tmp_path, "256MB")

    async def scenario(address: str, batcher: NotedBatcher) -> None:
        async with Agent(address) as agent:
            await agent.greet()
            for sequence in (1, 2, 3):
                await agent.send(send(report(sequence=sequence)))
            await batcher.taken(3)
            await batcher.commit()
            rejection = await agent.rejection()
            assert (rejection.spool_epoch, rejection.sequence, rejection.code) == (EPOCH, 2, 3)
            assert rejection.reason == "the report can not be stored (OverflowError: a mistake of ours)"
            assert await agent.ack() == (EPOCH, 3)

    run(store, clock, scenario)
    assert stored(store) == [1, 3]
    store.close()


class _SlowHello:
    """Stands for the connection of a stream: its hello comes at the moment that a test chooses."""

    def __init__(self) -> None:
        self.hello: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def peer(self) -> str:
        return "ipv4:10.0.0.1:4242"

    async def read(self) -> bytes:
        if not self.hello.done():
            return await self.hello
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def write(self, _: object) -> None:
        await asyncio.sleep(0)

    async def abort(self, code: grpc.StatusCode, details: str, *_: object) -> None:
        raise grpc.aio.AbortError(code, details)


@pytest.mark.parametrize("steps", range(8))
def test_a_stream_whose_hello_comes_as_the_aggregator_stops_ends_too(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    """Whichever comes first, by any turn of the event loop."""

    async def scenario() -> None:
        ingest = IngestService(NotedBatcher(store, clock), clock)
        connection: Any = _SlowHello()
        stream = asyncio.create_task(ingest.stream_reports(None, connection))
        for _ in range(5):
            await asyncio.sleep(0)
        connection.hello.set_result(open_stream(hello()).SerializeToString())
        for _ in range(steps):
            await asyncio.sleep(0)
        await ingest.end_streams()
        with pytest.raises(grpc.aio.AbortError, match="the aggregator is stopping"):
            await stream

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert "did not end" not in caplog.text
