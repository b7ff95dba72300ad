"""What systemd hears of an aggregator: that rounds of its committing loop are completed, and what they stored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loiter.sd_notify import from_environment
from loiter_aggregator.heartbeat import Heartbeat
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from support.aggregators import FakeClock, open_store, record
from support.reports import hello
from support.service_manager import ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as one:
        yield one


class Moment:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_feeds_the_watchdog_in_time_and_not_with_each_round(tmp_path: Path, manager: ServiceManager) -> None:
    store, moment = open_store(tmp_path / "store"), Moment()
    notifier = from_environment(manager.environment(watchdog_seconds=20))
    heartbeat = Heartbeat(notifier, Batcher(store, FakeClock()), store.file, moment)
    for second in range(21):
        moment.now = float(second)
        heartbeat.beat()
    store.close()
    assert manager.count("WATCHDOG=1") == 5, "at 0, 5, 10, 15 and 20 s"


def test_the_status_says_how_much_comes_in_and_what_is_wrong(tmp_path: Path, manager: ServiceManager) -> None:
    moment = Moment()
    file = tmp_path / "loiter.duckdb"
    file.write_bytes(b"")
    file.with_name("loiter.duckdb.wal").write_bytes(b"x" * 1_200_000)
    store = open_store(tmp_path / "store")
    batcher = Batcher(store, FakeClock())
    heartbeat = Heartbeat(from_environment(manager.environment()), batcher, file, moment)
    heartbeat.beat()
    moment.now = 10.0
    batcher.counters.streams, batcher.counters.stored = 1_204, 1_200
    heartbeat.beat()
    moment.now = 20.0
    batcher.failure = "the disk is full"
    file.with_name("loiter.duckdb.wal").unlink()
    file.unlink()
    heartbeat.beat()
    store.close()
    assert manager.heard() == [
        "STATUS=0 agents connected, 0 reports a second, store 1.2 MB",
        "STATUS=1,204 agents connected, 120 reports a second, store 1.2 MB",
        "STATUS=nothing is stored: the disk is full, 1,204 agents connected, 0 reports a second",
    ]


class FullDisk(DuckDbStore):
    """A store whose disk takes nothing."""

    def write(self, batch: Batch) -> None:  # noqa: ARG002 - as the method of the class has it
        raise StoreError("the disk is full")


@pytest.mark.parametrize("full", [False, True])
def test_rounds_are_completed_whether_anything_could_be_stored_or_not(tmp_path: Path, full: bool) -> None:
    """A restart makes no room on a disk. What is wrong is remembered until it is mended."""
    store = (FullDisk if full else DuckDbStore)(tmp_path, "256MB")

    async def rounds() -> str | None:
        batcher = Batcher(store, FakeClock(), commit_seconds=0.001)
        await batcher.put_host(record(hello("web-1")))
        completed = asyncio.Event()
        batcher.on_round = completed.set
        running = asyncio.create_task(batcher.run())
        async with asyncio.timeout(20):
            await completed.wait()
            batcher.stop()
            await running
        return batcher.failure

    failure = asyncio.run(rounds())
    store.close()
    assert failure == ("the disk is full" if full else None)


class HangingDisk(DuckDbStore):
    """A store whose disk does not answer until it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "256MB")
        self.asked, self.answer = threading.Event(), threading.Event()

    def write(self, batch: Batch) -> None:
        self.asked.set()
        assert self.answer.wait(20)
        super().write(batch)


def test_a_round_that_hangs_is_not_completed(tmp_path: Path) -> None:
    """Whatever else the aggregator still does: then nothing feeds the watchdog."""
    store = HangingDisk(tmp_path)

    async def rounds() -> tuple[int, int]:
        batcher, completed = Batcher(store, FakeClock(), commit_seconds=0.001), 0

        def count() -> None:
            nonlocal completed
            completed += 1

        batcher.on_round = count
        await batcher.put_host(record(hello("web-1")))
        running = asyncio.create_task(batcher.run())
        assert await asyncio.to_thread(store.asked.wait, 20)
        for _ in range(1_000):
            await asyncio.sleep(0)
        while_it_hung = completed
        batcher.stop()
        store.answer.set()
        await running
        return while_it_hung, completed

    while_it_hung, completed = asyncio.run(rounds())
    store.close()
    assert while_it_hung == 0
    assert completed >= 1
