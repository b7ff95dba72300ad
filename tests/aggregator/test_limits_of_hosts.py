"""What comes in too fast waits, what is too much is kept out, and who does neither is not hurt."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from loiter_aggregator.access.principal import ANYONE, Principal, Right
from loiter_aggregator.config import LimitSettings
from loiter_aggregator.ingest.admission import Admission, retry_info
from loiter_aggregator.ingest.batcher import Batcher, TooManyEpochs
from loiter_aggregator.ingest.callers import Caller, CallerLimits, TooManyNewHosts, identify
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.rates import HourlyBudget, TokenBucket
from loiter_aggregator.ingest.room import Amount, Room
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from support.aggregators import FakeClock, host_key, record
from support.reports import EPOCH, HOUR, NOW, hello, process, report, sample
from support.streams import until

WEB_1, WEB_2, WEB_3 = (host_key(f"web-{number}") for number in (1, 2, 3))


class Stream:
    """An agent's stream that does not listen."""

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Ignores it."""

    def reject(self, rejection: object) -> None:
        """Ignores it."""


class Monotonic:
    """A clock in seconds that stands until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        """Reads it."""
        return self.now


async def settle() -> None:
    """Lets every task go on until it waits for something that does not happen by itself."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_bucket_lets_a_burst_pass_and_then_so_many_a_second() -> None:
    """Who takes more waits in proportion."""
    bucket = TokenBucket(rate=10, burst=3, now=0)
    assert [bucket.take(0) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]
    assert bucket.take(0.2) == pytest.approx(0.1)
    assert not bucket.is_full(0.3)
    assert bucket.is_full(1.0)
    assert [bucket.take(3_600) for _ in range(4)] == [0, 0, 0, 0.1], "nothing is saved up"


def test_an_hourly_budget_is_of_one_host_in_one_hour() -> None:
    """The next hour begins anew, and remembers nobody."""
    budget = HourlyBudget(2)
    assert [budget.take(1, NOW) for _ in range(3)] == [True, True, False]
    assert budget.is_first_refusal(1)
    assert budget.take(2, NOW)
    assert not budget.take(1, NOW)
    assert not budget.is_first_refusal(1)
    assert budget.take(1, NOW + HOUR)


def _certificate(*names: str) -> Caller:
    return identify(Principal("certificate", frozenset({Right.INGEST}), frozenset(names), frozenset()), "10.0.0.1")


def test_callers_are_told_apart_by_certificate_and_else_by_address() -> None:
    """A token may be shared by a fleet. A machine may use any IPv6 address of its /64."""
    token = Principal("token", frozenset({Right.INGEST}))
    assert identify(token, "10.0.0.1") == identify(ANYONE, "10.0.0.1") != identify(token, "10.0.0.2")
    assert identify(token, "2001:db8:0:1::1") == identify(token, "2001:db8:0:1:ffff::2")
    assert identify(token, "2001:db8:0:1::1") != identify(token, "2001:db8:0:2::1")
    assert identify(token, "fe80::1%eth0") == identify(token, "fe80::2%eth0")
    assert identify(token, "unix:") == identify(token, "unix:")
    assert _certificate("web-1") != _certificate("web-2")
    assert _certificate("web-1") != identify(token, "10.0.0.1")


def test_the_streams_of_one_caller_are_bounded_and_those_of_others_are_not_hurt(clock: FakeClock) -> None:
    """One more is let in for each that leaves."""
    limits = CallerLimits(2, clock)
    here, there = identify(ANYONE, "10.0.0.1"), identify(ANYONE, "10.0.0.2")
    assert [limits.enter(here), limits.enter(here)] == [None, None]
    assert limits.enter(here) == "2 agents are connected from 10.0.0.1, as many as may be (limits.streams_per_address)"
    assert limits.enter(there) is None
    limits.leave(here)
    assert limits.enter(here) is None
    one, two = _certificate("web-1"), _certificate("web-1", "web-1.example")
    assert [limits.enter(one) is None for _ in range(11)] == [True] * 10 + [False]
    assert [limits.enter(two) is None for _ in range(21)] == [True] * 20 + [False]


def test_the_new_hosts_of_one_caller_are_bounded_by_the_hour(clock: FakeClock) -> None:
    """A certificate is of few, an address may be that of a site."""
    limits = CallerLimits(2, clock)
    one, address = _certificate("web-1"), identify(ANYONE, "10.0.0.1")
    for _ in range(10):
        limits.meet(one)
    with pytest.raises(TooManyNewHosts, match="10 new hosts with certificate within an hour"):
        limits.meet(one)
    limits.meet(_certificate("web-2"))
    for _ in range(10_000):
        limits.meet(address)
    with pytest.raises(TooManyNewHosts, match=r"10,000 new hosts from 10\.0\.0\.1 within an hour"):
        limits.meet(address)
    clock.now += HOUR
    limits.meet(one)


def test_a_host_that_has_used_up_its_share_waits_alone() -> None:
    """Until its own is taken away. A report of any size finds room where the host has nothing."""

    async def scenario() -> None:
        room = Room(bound=Amount(100, 10_000), share=Amount(10, 10_000))
        await room.enter(1, 30, 1)
        waiting = asyncio.create_task(room.enter(1, 1, 1))
        await settle()
        assert not waiting.done()
        assert room.longest_wait() == 0, "it is the host that is overloaded, not the aggregator"
        await room.enter(2, 10, 1)
        room.leave(1, 30, 1)
        await room.announce()
        await waiting
        assert room.rows == 11

    asyncio.run(scenario())


@pytest.mark.parametrize("amount", [Amount(2, 1_000), Amount(1_000, 2)])
def test_rows_and_bytes_are_bounded_over_all_hosts(amount: Amount) -> None:
    """Those who wait are let in in their order, and it is known for how long the first has."""

    async def scenario() -> None:
        monotonic = Monotonic()
        room = Room(bound=amount, share=Amount(1_000, 1_000), monotonic=monotonic)
        entered: list[int] = []

        async def enter(host: int) -> None:
            await room.enter(host, 1, 1)
            entered.append(host)

        waiting = [asyncio.create_task(enter(host)) for host in range(5)]
        await settle()
        assert entered == [0, 1]
        monotonic.now += 4
        assert room.longest_wait() == 4
        waiting[2].cancel()
        room.leave(0, 1, 1)
        await room.announce()
        await settle()
        assert entered == [0, 1, 3]
        room.leave(1, 1, 1)
        await room.announce()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert entered == [0, 1, 3, 4]
        assert room.longest_wait() == 0

    asyncio.run(scenario())


def test_what_is_pending_stays_bounded_while_the_store_fails(store: DuckDbStore, clock: FakeClock) -> None:
    """Streams wait, rows do not grow, and all is stored once there is room again, in order and once."""

    class FullOnDemand:
        def __init__(self) -> None:
            self.full = True

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def write(self, batch: Batch) -> None:
            if self.full:
                raise StoreError("the disk is full")
            store.write(batch)

    async def scenario() -> None:
        disk = FullOnDemand()
        room = Room(bound=Amount(50, 1_000_000), share=Amount(20, 1_000_000))
        batcher = Batcher(disk, clock, room=room)  # type: ignore[arg-type]  # it is a store in all but its disk

        async def deliver(hostname: str) -> None:
            for sequence in range(1, 41):
                await batcher.put(host_key(hostname), report(hostname, sequence), Stream())

        hosts = [f"web-{number}" for number in range(5)]
        delivering = [asyncio.create_task(deliver(hostname)) for hostname in hosts]
        await until(lambda: room.rows == 50)  # what was stored of the hosts is read by a thread
        for _ in range(10):
            await settle()
            with pytest.raises(StoreError):
                await batcher.commit()
            assert room.rows == 50
        assert store.read("SELECT count(*) FROM host_sample") == [(0,)]
        disk.full = False
        while not all(task.done() for task in delivering):
            await batcher.commit()
            await settle()
        await batcher.commit()
        assert room.rows == 0

    asyncio.run(scenario())
    found = store.read("SELECT host_key, list(sequence ORDER BY rowid) FROM host_sample GROUP BY host_key")
    assert len(found) == 5
    assert all(sequences == list(range(1, 41)) for _, sequences in found)
    assert store.read("SELECT count(*) FROM lost_sample") == [(0,)]


def test_who_gave_up_waiting_for_room_shows_that_there_is_none_until_some_is_given_back() -> None:
    """An agent waits for its hello for ten seconds, and the next one would wait in vain as well."""

    async def scenario() -> None:
        monotonic = Monotonic()
        room = Room(bound=Amount(1, 100), share=Amount(10, 100), monotonic=monotonic)
        await room.enter(1, 1, 1)
        for _ in range(2):
            waiting = asyncio.create_task(room.enter(2, 1, 1))
            await settle()
            monotonic.now += 10
            waiting.cancel()
            await settle()
        assert room.longest_wait() == 20
        waiting = asyncio.create_task(room.enter(2, 1, 1))
        await settle()
        assert room.longest_wait() == 20
        room.leave(1, 1, 1)
        await room.announce()
        await waiting
        assert room.longest_wait() == 0

    asyncio.run(scenario())


def test_hellos_wait_for_room_too_while_the_store_fails(tmp_path: Path, clock: FakeClock) -> None:
    """What one host says of itself again and again takes the place of what it said, and no more room."""

    class Full(DuckDbStore):
        def write(self, _: Batch) -> None:
            raise StoreError("the disk is full")

    async def scenario() -> None:
        full = Full(tmp_path, "256MB")
        room = Room(bound=Amount(3, 1_000_000))
        batcher = Batcher(full, clock, room=room)
        for number in range(1, 5):
            await batcher.join(host_key(f"web-{number}"), Stream())
        for _ in range(20):
            await batcher.put_host(record(hello("web-1")))
        assert room.rows == 1
        for number in (2, 3):
            await batcher.put_host(record(hello(f"web-{number}")))
        waiting = asyncio.create_task(batcher.put_host(record(hello("web-4"))))
        await settle()
        with pytest.raises(StoreError):
            await batcher.commit()
        assert not waiting.done()
        assert room.rows == 3
        waiting.cancel()
        full.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_names_of_processes_beyond_the_budget_become_one(
    store: DuckDbStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Of that host, in that hour. What was stored before is stored as ever, and others are not hurt."""

    def named(*names: str) -> list[object]:
        return [process(100 + pid, 1, name=name, app=name) for pid, name in enumerate(names)]

    async def scenario() -> None:
        batcher = Batcher(store, clock, limits=LimitSettings(identities_per_hour=3))

        async def put(hostname: str, sequence: int, *names: str) -> None:
            taken = sample(clock() - 10 + sequence, processes=named(*names))  # type: ignore[arg-type]
            await batcher.put(host_key(hostname), report(hostname, sequence, taken), Stream())
            await batcher.commit()

        await put("web-1", 1, "a", "b", "a")
        await put("web-1", 2, "a", "c", "d", "e", "a")
        await put("web-2", 1, "d", "a", "f")
        clock.now += HOUR
        await put("web-1", 3, "e")

    asyncio.run(scenario())
    rows = store.read(
        "SELECT host_key, list(app ORDER BY ts, pid) FROM process_sample JOIN identity USING (identity_key) GROUP BY 1"
    )
    assert dict(rows) == {
        WEB_1: ["a", "b", "a", "a", "c", "(too many names)", "(too many names)", "a", "e"],
        WEB_2: ["d", "a", "f"],
    }
    assert len([message for message in caplog.messages if "names of processes" in message]) == 1


def test_a_host_that_draws_epoch_after_epoch_is_told_to_come_back_later(store: DuckDbStore, clock: FakeClock) -> None:
    """Each would be remembered for a month. No agent starts so often."""

    async def scenario() -> None:
        batcher = Batcher(store, clock)
        for epoch in range(1, 1_201):
            await batcher.put(WEB_1, report(epoch=epoch), Stream())
        with pytest.raises(TooManyEpochs):
            await batcher.put(WEB_1, report(epoch=1_201), Stream())
        await batcher.put(WEB_1, report(sequence=2, epoch=7), Stream())
        await batcher.put(WEB_2, report("web-2", epoch=1_201), Stream())
        before = batcher.room.rows
        clock.now += HOUR
        await batcher.put(WEB_1, report(epoch=1_201), Stream())
        assert batcher.room.rows == before + 1
        await batcher.commit()
        assert batcher.room.rows == 0

    asyncio.run(scenario())


def test_only_hosts_that_are_connected_or_on_their_way_are_remembered(store: DuckDbStore, clock: FakeClock) -> None:
    """The marks of the others are in the store, and are read from there when they are back."""

    async def scenario() -> None:
        batcher, stream = Batcher(store, clock), Stream()
        for number in range(40):
            await batcher.put(host_key(f"web-{number}"), report(f"web-{number}"), stream)
        assert len(batcher._hosts) == 40
        await batcher.join(WEB_1, stream)
        await batcher.commit()
        assert len(batcher._hosts) == 1
        await batcher.put(WEB_1, report(sequence=2), stream)
        batcher.leave(WEB_1, stream)
        assert len(batcher._hosts) == 1, "its report is on its way"
        await batcher.put(WEB_1, report(sequence=2), stream)
        await batcher.commit()
        assert len(batcher._hosts) == 0
        # All at once, as when the aggregator is started anew.
        await asyncio.gather(
            *(batcher.put(host_key(f"web-{number}"), report(f"web-{number}"), stream) for number in range(40))
        )
        assert batcher.counters.duplicates == 41

    asyncio.run(scenario())
    assert store.read("SELECT count(*) FROM host_sample") == [(41,)]


def test_marks_that_can_not_be_read_are_asked_for_again(store: DuckDbStore, clock: FakeClock) -> None:
    """The stream that asked is told, nothing is taken in, and no room is kept."""

    class Unreadable:
        broken = True

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def high_water(self, host: int | None = None) -> dict[tuple[int, int], int]:
            if self.broken:
                raise StoreError("the disk is on fire")
            return store.high_water(host)

    async def scenario() -> None:
        unreadable = Unreadable()
        batcher = Batcher(unreadable, clock)  # type: ignore[arg-type]  # it is a store in all but its disk
        with pytest.raises(StoreError, match="on fire"):
            await batcher.put(WEB_1, report(), Stream())
        assert batcher.room.rows == 0
        unreadable.broken = False
        await batcher.put(WEB_1, report(), Stream())
        await batcher.commit()

    asyncio.run(scenario())
    assert store.high_water() == {(WEB_1, EPOCH): 1}


def _admission(
    limit: int = 3, longest_wait: Callable[[], float] = lambda: 0.0
) -> tuple[Admission, Counters, Monotonic]:
    counters, monotonic = Counters(started=NOW), Monotonic()
    return Admission(limit, counters, longest_wait, random.Random(1), monotonic), counters, monotonic


def test_agents_beyond_the_limit_are_turned_away_with_one_line_an_episode(caplog: pytest.LogCaptureFixture) -> None:
    """At the limit one is let in for each that leaves, which ends nothing; a minute without refusals does."""
    caplog.set_level("WARNING")
    admission, counters, monotonic = _admission()
    for open_streams in (3, 2, 3, 3, 2, 3):
        counters.streams = open_streams
        assert (admission.refusal() is None) == (open_streams < 3)
        monotonic.now += 10
    assert counters.streams_overloaded == 4
    assert len(caplog.messages) == 1
    assert "3 agents are connected, as many as may be (limits.streams)" in caplog.messages[0]
    monotonic.now += 61
    counters.streams = 0
    assert admission.refusal() is None
    assert caplog.messages[1] == "agents are let in again; 4 were told to come back later"


def test_agents_are_turned_away_while_those_that_are_connected_wait_for_room() -> None:
    """A short wait is how a busy second passes."""
    waited = 3.0
    admission, _, _ = _admission(longest_wait=lambda: waited)
    assert admission.refusal() is None
    waited = 3.1
    assert admission.refusal() == "the store does not keep up with what comes in"


def test_the_more_are_turned_away_the_further_apart_they_come_back() -> None:
    """With jitter, so that they do not come back together."""
    admission, counters, _ = _admission(limit=0)
    few = [admission.retry_seconds() for _ in range(100) if admission.refusal()]
    for _ in range(20_000):
        admission.refusal()
    many = [admission.retry_seconds() for _ in range(100)]
    assert len(set(few)) > 90
    assert 5 <= min(few) <= max(few) < 12
    assert 5 <= min(many) < 60 < max(many) <= 305
    assert counters.streams_overloaded == 20_100


def test_the_time_to_come_back_is_told_as_grpc_tells_it() -> None:
    """google.rpc.RetryInfo in a google.rpc.Status."""
    ((key, value),) = retry_info("too much to do", 7.5)
    assert key == "grpc-status-details-bin"
    status = Status.FromString(value)
    assert (status.code, status.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "too much to do")
    found = RetryInfo()
    assert status.details[0].Unpack(found)
    assert found.retry_delay.ToMilliseconds() == 7_500
