"""Measures the levels of the store: bytes a row, what rolling and sealing cost, and how long a writer waits for them.

Fills a store with a seeded fleet whose figures vary (tests/support/varied_fleet.py), rolls it minute by minute as the
aggregator does, and seals it, while another thread commits small batches. Prints Markdown.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import duckdb
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.levels import KINDS, LEVELS, MINUTE
from support.aggregators import batch_of
from support.reports import process, report, sample
from support.varied_fleet import STEP_MS, add_hosts, add_samples

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
MEMORY = "2GB"
GOALS = {"host_sample": 20, "process_sample": 4}


class Writer:
    """Commits a report of ten hosts all the time, and notes how long each commit took."""

    def __init__(self, store: DuckDbStore, now: int) -> None:
        """Takes a store, and when the samples are taken: later than all that is rolled."""
        self._store, self._now = store, now
        self._stop = threading.Event()
        self._sequence = 0
        self.seconds: list[float] = []

    @contextmanager
    def busy(self) -> Iterator[list[float]]:
        """Writes while the block runs. Yields how long the commits take, in seconds."""
        self.seconds = []
        self._stop.clear()
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self.seconds
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._sequence += 1
            taken = sample(self._now, 3, processes=[process(100 + number, 1) for number in range(10)])
            batch = batch_of(
                *(report(f"new-{number}", self._sequence, taken) for number in range(10)), received=self._now
            )
            began = time.perf_counter()
            self._store.write(batch)
            self.seconds.append(time.perf_counter() - began)


def fill(store: DuckDbStore, hosts: int, minutes: int, start: int) -> None:
    """Stores so many minutes of the fleet."""
    store.close()
    with duckdb.connect(str(store.file)) as connection:
        add_hosts(connection, hosts, start)
        ticks = MINUTE_MS // STEP_MS
        for minute in range(minutes):
            for kind in KINDS:
                add_samples(connection, hosts, range(minute * ticks, (minute + 1) * ticks), start, f"{kind}_sample")
        connection.execute("CHECKPOINT")


def measured(name: str, rows: int, waits: list[float], work: Callable[[], object]) -> None:
    """Prints what some work costs, and how long commits took meanwhile."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    waits = sorted(waits) or [0.0]
    middle = waits[len(waits) // 2]
    per_million = f"{1e6 * cpu / rows:.2f} s" if rows else ""
    print(f"| {name} | {rows:,} | {took:.1f} s | {per_million} | {1e3 * middle:.0f} ms | {1e3 * waits[-1]:.0f} ms |")


def roll(store: DuckDbStore, until: int) -> None:
    """Rolls all that ends by a time."""
    while store.maintenance.roll(until):
        pass


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=2_000)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="of the store, which is kept; without, a temporary one")
    options = parser.parse_args()
    start = 1_800_000_000_000 // (24 * HOUR_MS) * 24 * HOUR_MS
    with tempfile.TemporaryDirectory(prefix="loiter-bench.") as name:
        folder = options.folder or Path(name)
        fill(DuckDbStore(folder, MEMORY), options.hosts, options.minutes, start)
        store = DuckDbStore(folder, MEMORY)
        print(f"{datetime.now(UTC):%Y-%m-%d}, Linux {platform.release()}, {psutil.cpu_count()} CPUs\n")
        print(f"{options.hosts:,} hosts of ten processes, {options.minutes} minutes at {STEP_MS // 1_000} s.\n")
        measure_work(store, options.hosts, options.minutes, start)
        measure_sizes(store)
        measure_views(store, start, options.minutes)
        store.close()


def measure_work(store: DuckDbStore, hosts: int, minutes: int, start: int) -> None:
    """What rolling and sealing cost. CPU is of the writer's commits, too."""
    print("| work | rows | time | CPU a million rows | commits meanwhile | longest |\n|---|---:|---:|---:|---:|---:|")
    writer = Writer(store, start + 30 * 24 * HOUR_MS)
    rows = 11 * hosts
    with writer.busy() as waits:
        time.sleep(3)
        measured("none", 0, waits, lambda: time.sleep(3))
    for minute in range(minutes):
        end = start + (minute + 1) * MINUTE_MS
        with writer.busy() as waits:
            if minute in (1, minutes - 2):
                measured("roll a minute", rows * 6, waits, partial(store.maintenance.roll, end))
            roll(store, end)
    with writer.busy() as waits:
        measured("roll an hour of five minutes", rows * 12, waits, lambda: roll(store, start + 24 * HOUR_MS))
    with writer.busy() as waits:
        sealed = sum(count for (count,) in store.read(_COUNTS))
        measured("seal all", sealed, waits, lambda: store.seal(start + 48 * HOUR_MS, HOUR_MS))


_COUNTS = " UNION ALL ".join(f"SELECT count(*) FROM {level.table(kind)}" for level in LEVELS for kind in KINDS)


def measure_sizes(store: DuckDbStore) -> None:
    """What a sealed row takes."""
    print("\n| sealed | rows | bytes a row | goal |\n|---|---:|---:|---:|")
    for table, rows, size in store.read(
        "SELECT table_name, sum(row_count), sum(byte_count) FROM sealed GROUP BY table_name ORDER BY min(rowid)"
    ):
        print(f"| {table} | {int(rows):,} | {size / rows:.2f} | {GOALS.get(table, '')} |")


def measure_views(store: DuckDbStore, start: int, minutes: int) -> None:
    """What it costs to read hot and sealed rows under one name."""
    print("\n| question | time |\n|---|---:|")
    until = start + minutes * MINUTE_MS
    for name, sql, since in (
        ("a host, by key", "SELECT 1", start),
        ("nothing of sealed hours", f"SELECT count(*) FROM host_sample WHERE ts > {until}", until + 24 * HOUR_MS),
        ("one row of sealed hours", "SELECT host_key FROM host_sample LIMIT 1", start),
        ("a sum over hosts", "SELECT sum(close_wait) FROM host_sample", start),
        ("a sum over processes", "SELECT sum(close_wait) FROM process_sample", start),
        ("the same of minutes", f"SELECT sum(sy) FROM process_{MINUTE.name}", start),
    ):
        times = []
        for _ in range(7):
            began = time.perf_counter()
            store.question(since, since + 24 * HOUR_MS).read(sql)
            times.append(time.perf_counter() - began)
        print(f"| {name} | {1e3 * sorted(times)[3]:.1f} ms |")


if __name__ == "__main__":
    main()
