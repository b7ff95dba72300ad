"""Reports are committed together, acknowledged once they are durable, and stored once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.room import Amount, Room
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError, UnfitError
from loiter_aggregator.store.schema import HOST_SAMPLE
from support.aggregators import FakeClock, host_key, open_store, record
from support.reports import EPOCH, HOUR, NOW, SECOND, hello, process, report, sample

WEB_1 = host_key("web-1")
WEB_2 = host_key("web-2")
_CLOSE_WAIT = list(HOST_SAMPLE).index("close_wait")


@dataclass(eq=False)
class Stream:
    """What an agent's stream was told, in order."""

    acknowledged: list[tuple[int, int]] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    on_acknowledged: Callable[[], object] = lambda: None

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Notes it."""
        self.acknowledged.append((epoch, sequence))
        self.on_acknowledged()

    def reject(self, rejection: pb.ReportRejection) -> None:
        """Notes it."""
        self.rejected.append(rejection.sequence)


class FailingStore(DuckDbStore):
    """A store whose next writes fail."""

    failures = 0

    def write(self, batch: Batch) -> None:
        """Fails as often as it is told to."""
        if self.failures:
            self.failures -= 1
            raise StoreError("the disk is full")
        super().write(batch)


def _stored(store: DuckDbStore) -> list[tuple[int, int]]:
    """The samples in the store by host key and CLOSE_WAIT, which is the sequence."""
    return [
        (key, count)
        for key, count in store.read(
            "SELECT host_key, close_wait FROM host_sample ORDER BY host_key = $web, ts", {"web": WEB_2}
        )
    ]


def test_a_report_is_acknowledged_only_after_the_commit(store: DuckDbStore, clock: FakeClock) -> None:
    """One acknowledgement stands for all reports before it."""

    async def scenario() -> None:
        batcher, stream = Batcher(store, clock), Stream()
        for sequence in (1, 2, 3):
            await batcher.put(WEB_1, report(sequence=sequence), stream)
        assert stream.acknowledged == []
        assert _stored(store) == []
        await batcher.commit()
        assert stream.acknowledged == [(EPOCH, 3)]
        assert _stored(store) == [(WEB_1, 1), (WEB_1, 2), (WEB_1, 3)]

    asyncio.run(scenario())


def test_a_report_is_durable_when_it_is_acknowledged(store: DuckDbStore, clock: FakeClock) -> None:
    """At the moment of the call, the mark is in the store."""
    marks: list[dict[tuple[int, int], int]] = []

    async def scenario() -> None:
        batcher = Batcher(store, clock)
        await batcher.put(WEB_1, report(), Stream(on_acknowledged=lambda: marks.append(store.high_water())))
        await batcher.commit()

    asyncio.run(scenario())
    assert marks == [{(WEB_1, EPOCH): 1}]


def test_the_time_of_arrival_is_the_aggregators(store: DuckDbStore, clock: FakeClock) -> None:
    """Whatever the agent's clock says."""

    async def scenario() -> None:
        batcher = Batcher(store, clock)
        await batcher.put(WEB_1, report(taken=sample(5)), Stream())
        clock.now += SECOND
        await batcher.put(WEB_1, report(sequence=2, taken=sample(6)), Stream())
        await batcher.commit()

    asyncio.run(scenario())
    assert store.read("SELECT ts, received FROM host_sample ORDER BY ts") == [(5, NOW), (6, NOW + SECOND)]


def test_each_stream_hears_of_its_own_reports(store: DuckDbStore, clock: FakeClock) -> None:
    """Hosts are committed together and acknowledged apart."""

    async def scenario() -> None:
        batcher, first, second = Batcher(store, clock), Stream(), Stream()
        await batcher.put(WEB_1, report("web-1", 4), first)
        await batcher.put(WEB_2, report("web-2", 9), second)
        await batcher.commit()
        assert first.acknowledged == [(EPOCH, 4)]
        assert second.acknowledged == [(EPOCH, 9)]

    asyncio.run(scenario())


def test_a_report_that_comes_twice_is_stored_once_and_acknowledged_twice(store: DuckDbStore, clock: FakeClock) -> None:
    """In one batch, and again after the commit, as after a reconnect."""

    async def scenario() -> None:
        batcher, first, second = Batcher(store, clock), Stream(), Stream()
        for _ in range(2):
            await batcher.put(WEB_1, report(), first)
        await batcher.commit()
        await batcher.put(WEB_1, report(), second)
        assert second.acknowledged == []
        await batcher.commit()
        assert first.acknowledged == [(EPOCH, 1)]
        assert second.acknowledged == [(EPOCH, 1)]
        assert _stored(store) == [(WEB_1, 1)]
        assert batcher.counters.stored == 1
        assert batcher.counters.duplicates == 2

    asyncio.run(scenario())


def test_a_report_from_before_a_restart_is_stored_once(tmp_path: Path, clock: FakeClock) -> None:
    """What was stored is read from the store, not remembered."""

    async def life(sequences: tuple[int, ...]) -> list[tuple[int, int]]:
        store, stream = open_store(tmp_path), Stream()
        batcher = Batcher(store, clock)
        for sequence in sequences:
            await batcher.put(WEB_1, report(sequence=sequence), stream)
        await batcher.commit()
        stored = _stored(store)
        store.close()
        assert stream.acknowledged == [(EPOCH, sequences[-1])]
        return stored

    assert asyncio.run(life((1, 2))) == [(WEB_1, 1), (WEB_1, 2)]
    assert asyncio.run(life((1, 2, 3))) == [(WEB_1, 1), (WEB_1, 2), (WEB_1, 3)]


def test_two_epochs_of_a_host_are_apart(store: DuckDbStore, clock: FakeClock) -> None:
    """A spool that starts afresh counts from 1 again, and its reports are new."""

    async def scenario() -> None:
        batcher, stream = Batcher(store, clock), Stream()
        await batcher.put(WEB_1, report(sequence=5), stream)
        await batcher.put(WEB_1, report(sequence=1, epoch=EPOCH + 1), stream)
        await batcher.commit()
        assert sorted(stream.acknowledged) == [(EPOCH, 5), (EPOCH + 1, 1)]
        assert sorted(_stored(store)) == [(WEB_1, 1), (WEB_1, 5)]
        assert store.high_water() == {(WEB_1, EPOCH): 5, (WEB_1, EPOCH + 1): 1}

    asyncio.run(scenario())


def test_a_batch_that_can_not_be_stored_is_kept_and_acknowledged_later(tmp_path: Path, clock: FakeClock) -> None:
    """Nothing is acknowledged meanwhile, what comes in meanwhile is added, and nothing is lost or stored twice."""

    async def scenario() -> None:
        store = FailingStore(tmp_path, "256MB")
        store.failures = 2
        batcher, first, second = Batcher(store, clock), Stream(), Stream()
        await batcher.put(WEB_1, report(taken=sample(NOW, 1, processes=[process(100, 1)])), first)
        with pytest.raises(StoreError, match="the disk is full"):
            await batcher.commit()
        await batcher.put(WEB_1, report(sequence=1), second)  # sent again, on another stream
        await batcher.put(WEB_1, report(sequence=2), second)
        await batcher.put(WEB_2, report("web-2", 1), first)
        with pytest.raises(StoreError):
            await batcher.commit()
        assert first.acknowledged == second.acknowledged == []
        assert _stored(store) == []

        await batcher.commit()
        assert first.acknowledged == [(EPOCH, 1), (EPOCH, 1)]
        assert second.acknowledged == [(EPOCH, 2)]
        assert _stored(store) == [(WEB_1, 1), (WEB_1, 2), (WEB_2, 1)]
        assert store.read("SELECT count(*) FROM identity") == [(1,)]
        assert (batcher.counters.stored, batcher.counters.failed_commits) == (3, 2)
        store.close()

    asyncio.run(scenario())


def test_what_comes_in_during_a_commit_that_fails_comes_after_it(tmp_path: Path, clock: FakeClock) -> None:
    """The mark that is stored in the end is the later one."""

    class Interrupted(DuckDbStore):
        during: Batcher
        loop: asyncio.AbstractEventLoop
        stream = Stream()
        fails = True

        def write(self, batch: Batch) -> None:
            if self.fails:
                self.fails = False
                put = self.during.put(WEB_1, report(sequence=2), self.stream)
                asyncio.run_coroutine_threadsafe(put, self.loop).result()
                raise StoreError("the disk is full")
            super().write(batch)

    async def scenario() -> None:
        store = Interrupted(tmp_path, "256MB")
        batcher = store.during = Batcher(store, clock)
        store.loop = asyncio.get_running_loop()
        await batcher.put(WEB_1, report(sequence=1), store.stream)
        with pytest.raises(StoreError):
            await batcher.commit()
        await batcher.commit()
        assert store.stream.acknowledged == [(EPOCH, 1), (EPOCH, 2)]
        assert _stored(store) == [(WEB_1, 1), (WEB_1, 2)]
        assert store.high_water() == {(WEB_1, EPOCH): 2}
        store.close()

    asyncio.run(scenario())


def test_a_duplicate_of_what_is_being_committed_waits_for_the_next_commit(tmp_path: Path, clock: FakeClock) -> None:
    """It is acknowledged, and not before the report it repeats is durable."""

    class Interrupted(DuckDbStore):
        during: Batcher
        loop: asyncio.AbstractEventLoop
        again = Stream()

        def write(self, batch: Batch) -> None:
            put = self.during.put(WEB_1, report(), self.again)
            asyncio.run_coroutine_threadsafe(put, self.loop).result()
            assert self.again.acknowledged == []
            super().write(batch)

    async def scenario() -> None:
        store, stream = Interrupted(tmp_path, "256MB"), Stream()
        batcher = store.during = Batcher(store, clock)
        store.loop = asyncio.get_running_loop()
        await batcher.put(WEB_1, report(), stream)
        await batcher.commit()
        await batcher.commit()
        assert store.again.acknowledged == [(EPOCH, 1)]
        assert _stored(store) == [(WEB_1, 1)]
        store.close()

    asyncio.run(scenario())


def test_stop_commits_what_has_come_in(store: DuckDbStore, clock: FakeClock) -> None:
    """`run` returns when that is acknowledged, however long it was to wait."""

    async def scenario() -> None:
        batcher, stream = Batcher(store, clock, commit_seconds=3_600), Stream()
        running = asyncio.create_task(batcher.run())
        await batcher.put(WEB_1, report(), stream)
        batcher.stop()
        await running
        assert stream.acknowledged == [(EPOCH, 1)]
        assert _stored(store) == [(WEB_1, 1)]

    asyncio.run(scenario())


def test_run_commits_again_and_again_without_being_told(store: DuckDbStore, clock: FakeClock) -> None:
    """A report is acknowledged while `run` goes on."""

    async def scenario() -> None:
        batcher = Batcher(store, clock, commit_seconds=0.001)
        running = asyncio.create_task(batcher.run())
        for sequence in (1, 2):
            acknowledged = asyncio.Event()
            await batcher.put(WEB_1, report(sequence=sequence), Stream(on_acknowledged=acknowledged.set))
            await acknowledged.wait()
        assert not running.done()
        batcher.stop()
        await running

    asyncio.run(scenario())


def test_run_outlives_a_store_that_fails_and_says_so_once(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on trying, and the log is not filled with one trouble."""

    async def scenario() -> None:
        store = FailingStore(tmp_path, "256MB")
        store.failures = 3
        batcher, acknowledged = Batcher(store, clock, commit_seconds=0.001), asyncio.Event()
        running = asyncio.create_task(batcher.run())
        await batcher.put(WEB_1, report(), Stream(on_acknowledged=acknowledged.set))
        await acknowledged.wait()
        batcher.stop()
        await running
        assert _stored(store) == [(WEB_1, 1)]
        assert batcher.counters.failed_commits == 3
        store.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    trouble, mended = (one for one in caplog.messages if "reports" in one)
    assert "the disk is full; reports are not acknowledged" in trouble
    assert "takes reports again" in mended


def test_a_stream_waits_while_too_much_is_on_its_way(store: DuckDbStore, clock: FakeClock) -> None:
    """The queue is bounded: a put returns when a commit has made room, and its report is not lost."""

    async def scenario() -> None:
        batcher, stream = Batcher(store, clock, room=Room(bound=Amount(rows=2, size=1_000_000))), Stream()
        for sequence in (1, 2):
            await batcher.put(WEB_1, report(sequence=sequence), stream)
        third = asyncio.create_task(batcher.put(WEB_1, report(sequence=3), stream))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not third.done()
        await batcher.commit()
        await third
        await batcher.commit()
        assert stream.acknowledged == [(EPOCH, 2), (EPOCH, 3)]
        assert _stored(store) == [(WEB_1, 1), (WEB_1, 2), (WEB_1, 3)]

    asyncio.run(scenario())


class PoisonedStore(DuckDbStore):
    """A store with a mistake: it chokes on some CLOSE_WAIT counts and hostnames. The disk may fill up meanwhile."""

    poison: frozenset[object] = frozenset()
    writes_left = 1_000

    def write(self, batch: Batch) -> None:
        """Fails for the whole batch."""
        self.writes_left -= 1
        if self.writes_left < 0:
            raise StoreError("the disk is full")
        found = {row[_CLOSE_WAIT] for row in batch.host_rows} | {host.hostname for host in batch.hosts.values()}
        if found & self.poison:
            raise OverflowError("Python int too large")
        super().write(batch)


def test_a_report_that_can_not_be_stored_does_not_keep_the_others_from_it(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is found, rejected, and recorded as lost, while all others are stored with their processes, and once."""

    async def scenario() -> None:
        store = PoisonedStore(tmp_path, "256MB")
        batcher = Batcher(store, clock)
        streams = {host_key(f"web-{number}"): Stream() for number in range(5)}
        for number, (key, stream) in enumerate(streams.items()):
            await batcher.join(key, stream)
            await batcher.put_host(record(hello(f"web-{number}")))
            for sequence in range(1, 11):
                processes = [process(pid, name=f"p{sequence}") for pid in range(1, sequence)]
                taken = sample(NOW, 100 * number + sequence, processes=processes)
                await batcher.put(key, report(f"web-{number}", sequence, taken), stream)
        store.poison = frozenset({303})
        await batcher.commit()
        poisoned = host_key("web-3")
        assert {key: stream.acknowledged for key, stream in streams.items()} == {key: [(EPOCH, 10)] for key in streams}
        assert [stream.rejected for stream in streams.values()] == [[], [], [], [3], []]
        expected = sorted(100 * host + one for host in range(5) for one in range(1, 11) if 100 * host + one != 303)
        assert store.read("SELECT close_wait FROM host_sample ORDER BY close_wait") == [(one,) for one in expected]
        assert store.read(
            "SELECT host_key, name, count(*) FROM process_sample JOIN identity USING (identity_key) GROUP BY ALL "
            "ORDER BY host_key, count(*)"
        ) == [
            (key, f"p{sequence}", sequence - 1)
            for key in sorted(streams)
            for sequence in range(2, 11)
            if (key, sequence) != (poisoned, 3)
        ]
        assert store.read("SELECT host_key, spool_epoch, first_sequence, last_sequence, reason FROM lost_sample") == [
            (poisoned, EPOCH, 3, 3, pb.LOSS_REASON_REJECTED)
        ]
        assert store.high_water() == {(key, EPOCH): 10 for key in streams}
        assert store.read("SELECT count(*) FROM host_latest") == store.read("SELECT count(*) FROM host") == [(5,)]
        assert (batcher.counters.stored, batcher.counters.rejected, batcher.counters.samples_lost) == (49, 1, 1)
        assert batcher.room.rows == 0
        store.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert caplog.messages == [
        "a report of web-3 can not be stored (OverflowError: Python int too large); it is counted as lost"
    ]


def test_the_store_follows_the_clock_though_all_that_came_in_was_given_up(tmp_path: Path, clock: FakeClock) -> None:
    """What a store does not take though it never took a report is not for the report; the agents send it again."""

    async def scenario() -> None:
        store = PoisonedStore(tmp_path, "256MB")
        steady = FakeClock(5)
        batcher, stream = Batcher(store, clock, steady_clock=steady), Stream()
        await batcher.put_host(record(hello("web-2")))
        await batcher.put(WEB_2, report("web-2", 1, sample(NOW, 1)), stream)
        await batcher.commit()
        batcher.counters.stored = 0
        store.poison = frozenset({2})
        await batcher.put(WEB_1, report(sequence=2), stream)
        clock.now -= HOUR
        await batcher.put(WEB_1, report(sequence=3), stream)
        with pytest.raises(OverflowError):
            await batcher.commit()
        await batcher.commit()
        assert store.read("SELECT last_seen FROM host") == [(NOW - HOUR,)]
        store.close()

    asyncio.run(scenario())


def test_no_sample_is_stored_before_it_was_taken(store: DuckDbStore, clock: FakeClock) -> None:
    """As far as its age says, though the clock was set back in between."""

    async def scenario() -> None:
        batcher = Batcher(store, clock, steady_clock=FakeClock(5))
        await batcher.put(WEB_1, report(sequence=1), Stream())
        clock.now -= HOUR
        await batcher.commit()
        assert (batcher.counters.lag_seconds.count, batcher.counters.lag_seconds.total) == (1, 0.0)

    asyncio.run(scenario())


def test_a_disk_that_is_full_while_a_report_at_fault_is_looked_for_loses_nothing(
    tmp_path: Path, clock: FakeClock
) -> None:
    """What was stored of the batch is not stored again, and nothing of it acknowledged before all of it is durable."""

    async def scenario() -> None:
        store = PoisonedStore(tmp_path, "256MB")
        batcher, stream = Batcher(store, clock), Stream()
        for sequence in range(1, 17):
            await batcher.put(WEB_1, report(sequence=sequence), stream)
        store.poison = frozenset({13})
        for _ in range(30):
            store.writes_left = 1
            with suppress(StoreError):
                await batcher.commit()
            marks = store.high_water().get((WEB_1, EPOCH), 0)
            assert _stored(store) == [(WEB_1, one) for one in range(1, marks + 1) if one != 13]
            assert stream.acknowledged == ([] if marks < 16 else [(EPOCH, 16)])
        assert stream.acknowledged
        assert store.read("SELECT first_sequence, last_sequence FROM lost_sample") == [(13, 13)]
        store.close()

    asyncio.run(scenario())


def test_what_a_host_says_of_itself_can_be_left_out_as_well(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its reports are stored, and those of others."""

    async def scenario() -> None:
        store = PoisonedStore(tmp_path, "256MB")
        store.poison = frozenset({"web-1"})
        batcher, stream = Batcher(store, clock), Stream()
        for hostname in ("web-1", "web-2"):
            await batcher.put_host(record(hello(hostname)))
            await batcher.put(host_key(hostname), report(hostname), stream)
        await batcher.commit()
        assert sorted(_stored(store)) == sorted([(WEB_1, 1), (WEB_2, 1)])
        assert store.read("SELECT hostname FROM host") == [("web-2",)]
        store.close()

    asyncio.run(scenario())
    assert any("what web-1 says of itself can not be stored" in message for message in caplog.messages)


def test_what_the_tables_do_not_take_is_told_from_a_store_that_does_not_work(store: DuckDbStore) -> None:
    """DuckDB converts a number that is too large for its column to an error."""
    with pytest.raises(UnfitError), store._transaction() as connection:
        connection.execute("INSERT INTO high_water VALUES (-1, 1, 1, 1)")
    with pytest.raises(StoreError) as caught, store._transaction() as connection:
        connection.execute("INSERT INTO no_table VALUES (1)")
    assert not isinstance(caught.value, UnfitError)


def test_a_commit_of_nothing_does_not_touch_the_store(tmp_path: Path, clock: FakeClock) -> None:
    """An idle aggregator writes nothing."""
    store = FailingStore(tmp_path, "256MB")
    store.failures = 1
    asyncio.run(Batcher(store, clock).commit())
    assert store.failures == 1
    store.close()
