"""Streams of many hosts side by side: wrong clocks, twins, floods, and those who are not who they say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.access.principal import ANYONE, Principal, Right, caller
from loiter_aggregator.config import LimitSettings
from loiter_aggregator.ingest.answers import Context
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.room import Amount, Room
from loiter_aggregator.ingest.service import IngestService
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from support.aggregators import FakeClock, host_key
from support.reports import (
    EPOCH,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    hello,
    host_id,
    lasting,
    loss,
    open_stream,
    process,
    report,
    sample,
    send,
)
from support.streams import Agent, NotedBatcher, until

DAY = 24 * HOUR


class Ingest(IngestService):
    """The service as after the check of a certificate, which gives every caller the same rights."""

    principal = ANYONE

    async def stream_reports(self, _: object, context: Context) -> None:
        """Serves as ever."""
        caller.set(self.principal)
        await super().stream_reports(_, context)


@dataclass
class Aggregator:
    """One that listens."""

    address: str
    ingest: Ingest
    batcher: NotedBatcher


class Seconds:
    """A clock in seconds that stands until it is moved."""

    now = 1_000.0

    def __call__(self) -> float:
        """Reads it."""
        return self.now


@asynccontextmanager
async def serving(
    store: Any, clock: FakeClock, *, seconds: Seconds | None = None, **more: Any
) -> AsyncIterator[Aggregator]:
    """Listens on a free port. The clock since boot goes with the time of day."""
    batcher = NotedBatcher(store, clock, **more)
    ingest = Ingest(batcher, clock, since_boot=lambda: clock.now - NOW + 9 * DAY, monotonic=seconds or time.monotonic)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((ingest.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.timeout(60):
            yield Aggregator(f"127.0.0.1:{port}", ingest, batcher)
    finally:
        await server.stop(0)


def _taken(at_since_boot: int, one: pb.Report) -> pb.Report:
    one.taken_since_boot.CopyFrom(lasting(at_since_boot))
    return one


def test_a_clock_that_is_stepped_back_amid_a_stream_is_set_right(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Both clocks are kept, the order stays, and it is said once. What waited since before is right as it is."""
    caplog.set_level("INFO")

    async def scenario() -> None:
        async with serving(store, clock) as aggregator, Agent(aggregator.address) as agent:
            await agent.greet(hello(instance=5), sent=DAY)
            for number in range(1, 5):
                clock.now += 10 * SECOND
                wrong = 2 * HOUR if number > 2 else 0
                one = _taken(DAY + clock.now - NOW, report(sequence=number, taken=sample(clock.now - wrong, number)))
                await agent.send(send(one, sent=DAY + clock.now - NOW))
                await aggregator.batcher.taken(1)
            waited = _taken(DAY + 15 * SECOND, report(sequence=1, epoch=3, taken=sample(NOW + 15 * SECOND, 99)))
            await agent.send(send(waited, sent=DAY + clock.now - NOW))
            await aggregator.batcher.taken(1)
            await aggregator.batcher.commit()

    asyncio.run(scenario())
    rows = store.read("SELECT ts, skew, ts - skew FROM host_sample WHERE close_wait < 99 ORDER BY sequence")
    times = [NOW + number * 10 * SECOND for number in range(1, 5)]
    skews = [0, 0, 2 * HOUR, 2 * HOUR]
    assert rows == [(at, skew, at - skew) for at, skew in zip(times, skews, strict=True)]
    assert store.read("SELECT ts, skew FROM host_sample WHERE close_wait = 99") == [(NOW + 15 * SECOND, 0)]
    assert [message for message in caplog.messages if "clock" in message] == [
        "the clock of web-1 is 2h slow; its samples are set right"
    ]


def test_a_loss_and_an_earlier_boot_are_set_right_too(store: DuckDbStore, clock: FakeClock) -> None:
    """By what the clock is off now."""

    async def scenario() -> None:
        async with serving(store, clock) as aggregator, Agent(aggregator.address) as agent:
            await agent.greet(hello(instance=5, now=NOW - 3 * HOUR), sent=DAY)
            old = _taken(77 * DAY, report(sequence=1, taken=sample(NOW - 5 * HOUR)))
            old.boot_id = "00000000-0000-4000-8000-000000000000"
            await agent.send(send(old, sent=DAY))
            lost = loss(2, 3, first_at=NOW - 4 * HOUR, last_at=NOW - 3 * HOUR - MINUTE)
            lost.boot_id = old.boot_id
            await agent.send(send(lost, sent=DAY))
            await aggregator.batcher.taken(2)
            await aggregator.batcher.commit()

    asyncio.run(scenario())
    assert store.read("SELECT ts, skew FROM host_sample") == [(NOW - 2 * HOUR, 3 * HOUR)]
    assert store.read("SELECT first_ts, last_ts FROM lost_sample") == [(NOW - HOUR, NOW - MINUTE)]


def test_the_interval_of_a_host_is_that_of_its_latest_sample(store: DuckDbStore, clock: FakeClock) -> None:
    """An agent over its budget ticks less often, which is no silence."""

    async def scenario() -> None:
        async with serving(store, clock) as aggregator, Agent(aggregator.address) as agent:
            await agent.greet()
            for sequence, at, interval in ((1, NOW, 40 * SECOND), (2, NOW - HOUR, 10 * SECOND)):
                taken = sample(at)
                taken.interval.CopyFrom(lasting(interval))
                await agent.send(send(report(sequence=sequence, taken=taken)))
            await aggregator.batcher.taken(2)
            await aggregator.batcher.commit()

    asyncio.run(scenario())
    assert store.read("SELECT interval_ms FROM host") == [(40 * SECOND,)]


def test_a_cloned_machine_is_refused_and_named(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With what to do about it. Nothing of it is stored; the first goes on."""
    clone = hello(instance=6)
    clone.host.hostname = "clo\x1bne"

    async def scenario() -> None:
        async with serving(store, clock) as aggregator, Agent(aggregator.address) as first:
            await first.greet(hello(instance=5), sent=DAY)
            for _ in range(2):
                async with Agent(aggregator.address) as second:
                    await second.send(open_stream(clone, sent=DAY))
                    code, details = await second.refusal()
                    assert code == grpc.StatusCode.ALREADY_EXISTS
                    assert "web-1 at 127.0.0.1 reports under the same host id" in details
                    assert "set host_id" in details
                    assert "systemd-machine-id-setup" in details
                assert aggregator.ingest.conflicts() == []
            clock.now += SECOND
            await first.send(send(report(sequence=1), sent=DAY + SECOND))
            await aggregator.batcher.taken(1)
            await aggregator.batcher.commit()
            assert await first.ack() == (EPOCH, 1)
            (conflict,) = aggregator.ingest.conflicts()
            assert (conflict.host_id, conflict.hostname, conflict.refused_hostname, conflict.refused_peer) == (
                host_id("web-1"),
                "web-1",
                "clo\x1bne",
                "127.0.0.1",
            )

    asyncio.run(scenario())
    assert store.read("SELECT hostname FROM host") == [("web-1",)]
    assert len([message for message in caplog.messages if r"clo\x1bne" in message and "same host id" in message]) == 1


def test_a_twin_does_not_enter_by_a_restart_of_the_aggregator(store: DuckDbStore, clock: FakeClock) -> None:
    """As far as the store tells: a machine with another name and another boot, while the first may be alive."""
    clone = hello(instance=6)
    clone.host.hostname = "clone"
    clone.host.boot_id = "00000000-0000-4000-8000-000000000000"

    async def code_of(aggregator: Aggregator) -> tuple[grpc.StatusCode, str]:
        async with Agent(aggregator.address) as agent:
            await agent.send(open_stream(clone))
            return await agent.refusal()

    async def scenario() -> None:
        async with serving(store, clock) as aggregator, Agent(aggregator.address) as first:
            await first.greet(hello(instance=5))
            await first.send(send(report()))
            await aggregator.batcher.taken(1)
            await aggregator.batcher.commit()
        clock.now += 5 * MINUTE  # while no aggregator runs, nobody can report
        async with serving(store, clock) as aggregator:
            clock.now += 30 * SECOND
            code, details = await code_of(aggregator)
            assert code == grpc.StatusCode.ALREADY_EXISTS
            assert details.startswith("web-1 reports under the same host id")
            await aggregator.batcher.commit()
            assert store.read("SELECT hostname FROM host") == [("web-1",)]
            clock.now += SECOND
            async with Agent(aggregator.address) as agent:
                await agent.greet(clone)

    asyncio.run(scenario())


def test_one_caller_does_not_take_all_streams(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever hosts it says it is. Another one is let in."""

    async def scenario() -> None:
        limits = LimitSettings(streams_per_address=2)
        async with (
            serving(store, clock, limits=limits) as aggregator,
            Agent(aggregator.address) as one,
            Agent(aggregator.address) as two,
        ):
            await one.greet(hello("web-1"))
            await two.greet(hello("web-2"))
            for _ in range(3):
                why, seconds = await _told_to_come_later(aggregator.address, "web-3")
                assert why.startswith("2 agents are connected from 127.0.0.1")
                assert seconds == 60
            await _let_in(aggregator, _certificate("web-3"), hello("web-3"))
            assert aggregator.batcher.counters.streams_overloaded == 3

    asyncio.run(scenario())
    assert len([message for message in caplog.messages if "from 127.0.0.1, as many as may be" in message]) == 1


def test_one_certificate_does_not_bring_new_hosts_without_end(store: DuckDbStore, clock: FakeClock) -> None:
    """Ten an hour; those that are known are not counted."""

    async def scenario() -> None:
        async with serving(store, clock) as aggregator:
            aggregator.ingest.principal = _certificate("web-1")
            for number in range(11):
                said = hello("web-1")
                said.host.host_id = host_id(f"made up {number}")
                if number < 10:
                    await _let_in(aggregator, _certificate("web-1"), said)
            why, seconds = await _told_to_come_later(aggregator.address, "web-1")
            assert why == "10 new hosts with certificate within an hour, as many as may be"
            assert seconds == 600
            await aggregator.batcher.commit()
            said.host.host_id = host_id("made up 0")
            await _let_in(aggregator, _certificate("web-1"), said)
            assert store.read("SELECT count(*) FROM host") == [(10,)]

    asyncio.run(scenario())


def test_a_wrong_clock_is_said_once_however_often_the_host_connects(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is known of it between the hello and the first sample, be that of an earlier boot."""
    caplog.set_level("INFO")

    async def scenario() -> None:
        async with serving(store, clock) as aggregator:
            for sequence in range(1, 4):
                async with Agent(aggregator.address) as agent:
                    await agent.greet(hello(instance=5, now=NOW - 2 * HOUR), sent=DAY)
                    earlier = _taken(77 * DAY, report(sequence=sequence, epoch=3, taken=sample(NOW - 5 * HOUR)))
                    earlier.boot_id = "00000000-0000-4000-8000-000000000000"
                    await agent.send(send(earlier, sent=DAY))
                    one = _taken(DAY, report(sequence=sequence, taken=sample(NOW - 2 * HOUR)))
                    await agent.send(send(one, sent=DAY))
                    await aggregator.batcher.taken(2)

    asyncio.run(scenario())
    assert [message for message in caplog.messages if "clock" in message] == [
        "the clock of web-1 is 2h slow; its samples are set right"
    ]


def test_the_newer_stream_of_one_agent_takes_the_place_of_the_older(store: DuckDbStore, clock: FakeClock) -> None:
    """Which is ended; nothing is stored twice."""

    async def scenario() -> None:
        async with (
            serving(store, clock) as aggregator,
            Agent(aggregator.address) as old,
            Agent(aggregator.address) as new,
        ):
            await old.greet(hello(instance=5), sent=DAY)
            await old.send(send(report(sequence=1), sent=DAY))
            await aggregator.batcher.taken(1)
            await new.greet(hello(instance=5), sent=DAY)
            code, _ = await old.refusal()
            assert code == grpc.StatusCode.UNAVAILABLE
            for sequence in (1, 2):
                await new.send(send(report(sequence=sequence), sent=DAY))
            await aggregator.batcher.taken(2)
            await aggregator.batcher.commit()
            assert await new.ack() == (EPOCH, 2)
            assert aggregator.batcher.counters.streams == 1

    asyncio.run(scenario())
    assert store.read("SELECT sequence FROM host_sample ORDER BY sequence") == [(1,), (2,)]


def test_a_host_that_was_started_anew_waits_until_its_old_connection_is_found_dead(
    store: DuckDbStore, clock: FakeClock
) -> None:
    """Three intervals."""
    seconds = Seconds()

    async def scenario() -> None:
        async with serving(store, clock, seconds=seconds) as aggregator, Agent(aggregator.address) as old:
            await old.greet(hello(instance=5, interval_ms=2 * SECOND), sent=DAY)
            seconds.now += 5
            async with Agent(aggregator.address) as new:
                await new.send(open_stream(hello(instance=6), sent=SECOND))
                assert (await new.refusal())[0] == grpc.StatusCode.ALREADY_EXISTS
            seconds.now += 2
            async with Agent(aggregator.address) as new:
                await new.greet(hello(instance=6), sent=SECOND)
                assert (await old.refusal())[0] == grpc.StatusCode.UNAVAILABLE
            assert aggregator.ingest.conflicts() == []

    asyncio.run(scenario())


async def _told_to_come_later(address: str, hostname: str) -> tuple[str, float]:
    """Opens a stream that is turned away: why, and after how many seconds to come back."""
    async with Agent(address) as agent:
        with suppress(grpc.aio.AioRpcError):  # it may be over before anything is sent
            await agent.send(open_stream(hello(hostname)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.answer()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(caught.value.trailing_metadata() or ())
    retry = RetryInfo()
    assert Status.FromString(trailers["grpc-status-details-bin"]).details[0].Unpack(retry)
    return caught.value.details() or "", retry.retry_delay.ToMilliseconds() / 1_000


def test_agents_beyond_the_limit_are_told_when_to_come_back(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are connected are served, and once one leaves another is let in."""

    async def scenario() -> None:
        async with (
            serving(store, clock, limits=LimitSettings(streams=2)) as aggregator,
            Agent(aggregator.address) as one,
        ):
            await one.greet(hello("web-1"))
            async with Agent(aggregator.address) as two:
                await two.greet(hello("web-2"))
                for _ in range(5):
                    why, seconds = await _told_to_come_later(aggregator.address, "web-3")
                    assert why == "2 agents are connected, as many as may be (limits.streams)"
                    assert 5 <= seconds <= 15
                await two.send(send(report("web-2")))
                await aggregator.batcher.taken(1)
            counters = aggregator.batcher.counters
            await until(lambda: counters.streams == 1)
            async with Agent(aggregator.address) as three:
                await three.greet(hello("web-3"))
            assert counters.streams_overloaded == 5

    asyncio.run(scenario())
    assert len([message for message in caplog.messages if "come back later" in message]) == 1


def test_a_store_that_takes_nothing_stops_the_streams_and_turns_new_ones_away_until_it_does(
    store: DuckDbStore, clock: FakeClock
) -> None:
    """What is pending does not grow meanwhile, and afterwards all of it is stored once and in order."""

    class Disk:
        full = True

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def write(self, batch: Batch) -> None:
            if self.full:
                raise StoreError("the disk is full")
            store.write(batch)

    async def deliver(agent: Agent, hostname: str) -> None:
        for sequence in range(1, 101):
            await agent.send(send(report(hostname, sequence)))

    async def scenario() -> None:
        disk, seconds = Disk(), Seconds()
        room = Room(bound=Amount(40, 10_000_000), share=Amount(30, 10_000_000), monotonic=seconds)
        async with serving(disk, clock, room=room) as aggregator:
            agents = {f"web-{number}": Agent(aggregator.address) for number in range(4)}
            for hostname, agent in agents.items():
                await agent.greet(hello(hostname))
            sending = [asyncio.create_task(deliver(agent, hostname)) for hostname, agent in agents.items()]
            await until(lambda: room.rows == 40)
            for _ in range(3):
                with pytest.raises(StoreError):
                    await aggregator.batcher.commit()
            seconds.now += 1
            await until(lambda: room.longest_wait() > 0)
            seconds.now += 3
            assert room.rows == 40
            why, _ = await _told_to_come_later(aggregator.address, "late")
            assert why == "the store does not keep up with what comes in"
            disk.full = False
            while aggregator.batcher.counters.stored < 400:
                await aggregator.batcher.commit()
                await asyncio.sleep(0.01)
            await asyncio.gather(*sending)
            async with Agent(aggregator.address) as late:
                await late.greet(hello("late"))
            for agent in agents.values():
                await agent.__aexit__()

    asyncio.run(scenario())
    found = store.read("SELECT list(sequence ORDER BY rowid) FROM host_sample GROUP BY host_key")
    assert found == [(list(range(1, 101)),)] * 4


def test_a_host_that_floods_waits_and_the_others_do_not(store: DuckDbStore, clock: FakeClock) -> None:
    """It is read at its rate. Another one's reports are acknowledged in the next commit, as ever."""
    limits = LimitSettings(reports_per_second=20)
    big = [process(pid + 1, name=f"n{pid}") for pid in range(300)]

    async def flood(agent: Agent) -> None:
        sequence = 0
        while True:
            sequence += 1
            await agent.send(send(report("flood", sequence, sample(NOW, processes=big))))

    async def scenario() -> None:
        async with serving(store, clock, limits=limits, commit_seconds=0.1) as aggregator:
            committing = asyncio.create_task(aggregator.batcher.run())
            waits = []
            async with Agent(aggregator.address) as bad, Agent(aggregator.address) as good:
                await bad.greet(hello("flood"))
                await good.greet(hello("web-1"))
                flooding = asyncio.create_task(flood(bad))
                began = time.monotonic()
                for sequence in range(1, 11):
                    sent = time.monotonic()
                    await good.send(send(report(sequence=sequence)))
                    assert await good.ack() == (EPOCH, sequence)
                    waits.append(time.monotonic() - sent)
                lasted = time.monotonic() - began
                flooding.cancel()
                await asyncio.gather(flooding, return_exceptions=True)
            aggregator.batcher.stop()
            await committing
            stored = store.read("SELECT count(*) FROM host_sample WHERE host_key = $1", [host_key("flood")])[0][0]
            assert stored <= 2 * 20 + 20 * (lasted + 1) + 1
            assert sorted(waits)[5] < 1.0, waits

    asyncio.run(scenario())


def _certificate(*hostnames: str, ids: frozenset[str] = frozenset()) -> Principal:
    return Principal("certificate", frozenset({Right.INGEST}), frozenset(hostnames), ids)


async def _refused(aggregator: Aggregator, principal: Principal, said: pb.Hello) -> str:
    aggregator.ingest.principal = principal
    async with Agent(aggregator.address) as agent:
        await agent.send(open_stream(said))
        code, details = await agent.refusal()
        assert code == grpc.StatusCode.PERMISSION_DENIED
        return details


async def _let_in(aggregator: Aggregator, principal: Principal, said: pb.Hello) -> None:
    aggregator.ingest.principal = principal
    async with Agent(aggregator.address) as agent:
        await agent.greet(said)


def test_a_certificate_reports_as_the_host_that_it_names_and_as_no_other(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """By name in any case, also where the certificate has the host id. The refusal says which, on both sides."""

    async def scenario() -> None:
        async with serving(store, clock) as aggregator:
            details = await _refused(aggregator, _certificate("web-1", "web-1.example"), hello("web-2"))
            assert details == "the certificate is for web-1, web-1.example, not for web-2"
            await _refused(aggregator, _certificate(), hello("web-2"))
            named = _certificate("web-1", ids=frozenset({host_id("web-2")}))
            assert "not for web-2" in await _refused(aggregator, named, hello("web-2"))
            assert aggregator.batcher.counters.calls_refused == 3
            await aggregator.batcher.commit()
            assert store.read("SELECT count(*) FROM host") == [(0,)]
            upper = hello("web-2")
            upper.host.hostname = "WEB-2"
            await _let_in(aggregator, _certificate("web-2"), upper)
            await aggregator.batcher.commit()

    asyncio.run(scenario())
    assert any("the certificate is for web-1, web-1.example, not for web-2" in message for message in caplog.messages)
    names = store.read("SELECT hostname, certificate_name FROM host ORDER BY hostname")
    assert names == [("WEB-2", "web-2")]


@pytest.mark.parametrize("committed", [False, True])
def test_a_host_id_belongs_to_the_certificate_that_it_was_first_reported_under(
    store: DuckDbStore, clock: FakeClock, committed: bool
) -> None:
    """Another host's certificate does not take it over, unless it names the id itself."""
    stolen = hello("web-1")
    stolen.host.hostname = "web-2"
    thief = _certificate("web-2")

    async def scenario() -> None:
        async with serving(store, clock) as aggregator:
            await _let_in(aggregator, _certificate("web-1"), hello("web-1"))
            if committed:
                await aggregator.batcher.commit()
            details = await _refused(aggregator, thief, stolen)
            assert details.startswith(f"host id {host_id('web-1')} belongs to the certificate of web-1")
            await _let_in(aggregator, _certificate("web-1"), hello("web-1"))
            named = _certificate("web-2", ids=frozenset({host_id("web-1")}))
            await _let_in(aggregator, named, stolen)
            await aggregator.batcher.commit()

    asyncio.run(scenario())
    assert store.read("SELECT certificate_name FROM host") == [("web-1",)]


def test_the_samples_of_a_host_without_a_certificate_are_not_taken_over_by_another_name(
    store: DuckDbStore, clock: FakeClock
) -> None:
    """Where certificates are introduced, a host id is for the host that had it, or for a certificate that names it."""
    stolen = hello("web-1")
    stolen.host.hostname = "web-2"

    async def scenario() -> None:
        async with serving(store, clock) as aggregator:
            aggregator.ingest.principal = Principal("token", frozenset({Right.INGEST}))
            async with Agent(aggregator.address) as agent:
                await agent.greet(hello("web-1"))
                await agent.send(send(report()))
                await aggregator.batcher.taken(1)
            await aggregator.batcher.commit()
            details = await _refused(aggregator, _certificate("web-2"), stolen)
            assert details.startswith(
                f"host id {host_id('web-1')} has samples of web-1, and the certificate is for web-2"
            )
            await _let_in(aggregator, _certificate("web-1"), hello("web-1"))
            await aggregator.batcher.commit()
            named = _certificate("web-2", ids=frozenset({host_id("web-1")}))
            await _let_in(aggregator, named, stolen)

    asyncio.run(scenario())


def test_a_caller_without_a_certificate_is_bound_to_no_host(store: DuckDbStore, clock: FakeClock) -> None:
    """A token is of the whole fleet. The host's certificate stays known."""

    async def scenario() -> None:
        async with serving(store, clock) as aggregator:
            await _let_in(aggregator, _certificate("web-1"), hello("web-1"))
            await _let_in(aggregator, Principal("token", frozenset({Right.INGEST})), hello("web-1"))
            await aggregator.batcher.commit()

    asyncio.run(scenario())
    assert store.read("SELECT certificate_name FROM host") == [("web-1",)]


def test_a_stream_that_was_refused_is_said_once_a_minute(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it comes."""

    async def scenario() -> None:
        async with serving(store, clock) as aggregator:
            for _ in range(5):
                await _refused(aggregator, _certificate("web-1"), hello("web-2"))

    asyncio.run(scenario())
    assert len([message for message in caplog.messages if "stream of 127.0.0.1 refused" in message]) == 1


def test_a_thousand_rejections_that_are_not_read_stop_the_stream(store: DuckDbStore, clock: FakeClock) -> None:
    """They do not pile up."""

    async def scenario() -> None:
        limits = LimitSettings(reports_per_second=100_000)
        async with serving(store, clock, limits=limits) as aggregator, Agent(aggregator.address) as agent:
            await agent.greet()
            for _ in range(3_000):
                await agent.send(b"\xff")
            for _ in range(3_000):
                await agent.rejection()
            await agent.send(send(report()))
            await aggregator.batcher.taken(1)

    asyncio.run(scenario())


def test_the_batcher_forgets_a_stream_that_ended(store: DuckDbStore, clock: FakeClock) -> None:
    """Also while nothing can be committed."""

    async def scenario() -> None:
        async with serving(store, clock) as aggregator:
            batcher: Batcher = aggregator.batcher
            for _ in range(3):
                async with Agent(aggregator.address) as agent:
                    await agent.greet()
                    await agent.send(send(report()))
                    await aggregator.batcher.taken(1)
            await until(lambda: not batcher.counters.streams)
            assert not batcher._open.due
            assert len(batcher._hosts) == 1
            await batcher.commit()
            assert len(batcher._hosts) == 0

    asyncio.run(scenario())
