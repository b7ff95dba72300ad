"""A full disk stops writing, not reading: on a real one, a small tmpfs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loiter_aggregator.ranking.hosts import rank_hosts
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.database import BrokenDatabase
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from support.aggregators import batch_of, host_key, open_store, put_host, ranking, record
from support.full_disks import leave_no_room, small_disk
from support.reports import EPOCH, HOUR, NOW, hello, process, report, sample

KEY = host_key("web-1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB, of which 1 MB is taken by a file that can be deleted."""
    with small_disk(tmp_path / "disk", 6_000_000) as folder:
        yield folder


@contextmanager
def opened(disk: Path) -> Iterator[DuckDbStore]:
    """The store on a disk, closed before the disk goes away."""
    store = open_store(disk / "data")
    try:
        yield store
    finally:
        store.close()


def batch(sequence: int) -> Batch:
    """A sample with many processes, whose figures no compression makes small."""
    processes = [
        process(
            pid,
            sequence,
            name=f"p{sequence}.{pid}",
            established=pid * 77_777_777 % 2**32,
            fd_open=pid * sequence % 9_973,
        )
        for pid in range(1, 1_001)
    ]
    return batch_of(report(sequence=sequence, taken=sample(NOW + sequence, sequence, processes=processes)))


def fill(store: DuckDbStore) -> int:
    """Writes until the disk is full. Returns the last sequence that was stored."""
    put_host(store, record(hello()), NOW)
    for sequence in range(1, 1_000):
        try:
            store.write(batch(sequence))
        except StoreError:
            return sequence - 1
    raise AssertionError("the disk has no end")


def stored(store: DuckDbStore) -> list[int]:
    """The sequences that are in the store, one for each row."""
    return [sequence for (sequence,) in store.read("SELECT sequence FROM host_sample ORDER BY sequence")]


def test_a_full_disk_stops_writing_and_not_reading(disk: Path) -> None:
    """Again and again; what was stored is there once, and nothing of what was not."""
    with opened(disk) as store:
        last = fill(store)
        assert last > 3
        for _ in range(3):
            with pytest.raises(StoreError, match=r"cannot write to the store: the disk of .* is full"):
                store.write(batch(last + 1))
            assert store.high_water() == {(KEY, EPOCH): last}
            assert stored(store) == [*range(1, last + 1)]
            (host,) = rank_hosts(store, ranking())
            assert host.close_wait.current == last


def test_writing_goes_on_once_there_is_room(disk: Path) -> None:
    """Without a restart, and without a hole."""
    with opened(disk) as store:
        last = fill(store)
        (disk / "ballast").unlink()
        for sequence in (last + 1, last + 2):
            store.write(batch(sequence))
        assert stored(store) == [*range(1, last + 3)]
    with opened(disk) as store:
        assert stored(store) == [*range(1, last + 3)]
        assert store.high_water() == {(KEY, EPOCH): last + 2}


def test_a_store_on_a_full_disk_can_be_closed_and_opened(disk: Path) -> None:
    """It answers, and takes more once there is room."""
    with opened(disk) as store:
        last = fill(store)
    leave_no_room(disk)
    with opened(disk) as store:
        assert stored(store) == [*range(1, last + 1)]
        with pytest.raises(StoreError, match="is full"):
            store.write(batch(last + 1))
        (disk / "ballast").unlink()
        (disk / "rest").unlink()
        store.write(batch(last + 1))
        assert stored(store) == [*range(1, last + 2)]


def test_what_duckdb_does_not_survive_the_store_does(disk: Path) -> None:
    """A checkpoint that the disk has no room for has DuckDB give the file up: it is opened anew."""
    with opened(disk) as store:
        last = fill(store)
        leave_no_room(disk)
        with pytest.raises(BrokenDatabase, match="is full"):
            store.read("FORCE CHECKPOINT")
        assert stored(store) == [*range(1, last + 1)]
        with pytest.raises(StoreError, match="is full"):
            store.write(batch(last + 1))
        (disk / "ballast").unlink()
        (disk / "rest").unlink()
        store.write(batch(last + 1))
        assert store.high_water() == {(KEY, EPOCH): last + 1}
        assert stored(store) == [*range(1, last + 2)]


KILLED = """
import sys
from pathlib import Path
from aggregator.test_store_on_a_full_disk import batch, fill, open_store
from loiter_aggregator.store.database import BrokenDatabase
from loiter_aggregator.store.duckdb_store import StoreError

store = open_store(Path(sys.argv[1]) / "data")
last = fill(store)
print(last, flush=True)
while True:
    try:
        store.write(batch(last + 1))
    except StoreError:
        print("full", flush=True)
    else:
        last += 1
        print(last, flush=True)
"""


def test_a_writer_that_is_killed_on_a_full_disk_leaves_what_it_stored(disk: Path) -> None:
    """While it tries again: the store opens where there is still no room, and goes on where there is."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(disk)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ) as writer:
        assert writer.stdout is not None
        last = int(writer.stdout.readline())
        for _ in range(3):
            assert writer.stdout.readline() == "full\n"
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    with opened(disk) as store:
        assert stored(store) == [*range(1, last + 1)]
        assert store.high_water() == {(KEY, EPOCH): last}
        (disk / "ballast").unlink()
        store.write(batch(last + 1))
        assert stored(store) == [*range(1, last + 2)]


def test_a_full_disk_stops_rolling_and_sealing_and_nothing_is_lost(tmp_path: Path) -> None:
    """All stays as it was, no file is left behind, and it goes on once there is room."""
    now = NOW + 48 * HOUR
    with small_disk(tmp_path / "disk", 20_000_000) as disk, opened(disk) as store:
        put_host(store, record(hello()), NOW)
        for sequence in range(1, 6):
            store.write(batch(sequence))
        leave_no_room(disk)
        with pytest.raises(StoreError, match=r"cannot write to the store: the disk of .* is full"):
            store.roll(now)
        assert store.read("SELECT count(*) FROM process_minute") == [(0,)]
        (disk / "rest").unlink()
        while store.roll(now):
            pass
        leave_no_room(disk)
        with pytest.raises(StoreError, match=r"cannot seal what is old: .* is full"):
            store.seal(now, hot=HOUR)
        assert not list((disk / "data" / "sealed").glob("*"))
        assert stored(store) == [1, 2, 3, 4, 5]
        (disk / "rest").unlink()
        assert store.seal(now, hot=HOUR) > 0
        assert stored(store) == [1, 2, 3, 4, 5]
        assert store.read("SELECT sum(samples) FROM process_hour") == [(5_000,)]
