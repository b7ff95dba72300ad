"""Measures how long an aggregator that was killed takes to be back, with 10,000 hosts in its store.

A writer fills the store as an aggregator does to which 10,000 hosts report every ten seconds: a thousand samples a
commit, a commit for each second, but without waiting for the second. Before, the store gets what a day leaves behind:
hosts with labels, epochs, names of processes, and samples. Then the writer is killed with -9 amid a commit, when the
write-ahead log is about as long as it gets. What it left is copied for every round, and opened. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from loiter.v1 import sample_pb2
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.database import CHECKPOINT_BYTES
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.schema import HOST_SAMPLE, PROCESS_SAMPLE
from support.aggregators import host_key, record
from support.programs import BIN, CLEAN_ENVIRONMENT, Command, free_port
from support.reports import NOW, SECOND, hello, process, report, sample

HOSTS = 10_000
INTERVAL_SECONDS = 10
PROCESSES = 20
COMMITS = 60
EPOCHS = 4
DAY_SECONDS = 86_400
MEMORY = "2GB"


def name(number: int) -> str:
    """The name of a host."""
    return f"host-{number:05}.example.net"


def fill_day(store: DuckDbStore, seconds: int) -> None:
    """Puts in what a day leaves: every host with labels, its epochs, its names of processes, and samples.

    The samples are made by SQL, and are of the last so many seconds.
    """
    batch = Batch()
    for number in range(HOSTS):
        said = record(hello(name(number), labels={"role": f"role-{number % 50}", "site": f"site-{number % 7}"}))
        batch.hosts[said.host_key] = said
        batch.add(said.host_key, report(name(number), 1, tick(number, NOW), epoch=2), NOW)
        batch.high_water |= {(said.host_key, 2 + epoch): 2_000 for epoch in range(EPOCHS)}
    store.write(batch)
    for table, columns, rows in (("host_sample", HOST_SAMPLE, 1), ("process_sample", PROCESS_SAMPLE, PROCESSES)):
        kept = {"ts", "received", "host_key", "pid", "identity_key", "start_time"}
        made = ", ".join(
            column if column in kept else f"CAST(hash(tick, host_key, {at}) % 200 AS {kind}) AS {column}"
            for at, (column, (kind, _)) in enumerate(columns.items())
        )
        started = NOW - DAY_SECONDS * SECOND
        # A statement may hold the memory of what it writes: one for each ten minutes.
        for since in range(0, seconds, 600):
            store.read(
                f"""
                INSERT INTO {table} BY NAME SELECT {made} FROM (
                    SELECT tick, host_key, pid, {started} AS start_time, hash(host_key % 500, pid) AS identity_key,
                        {NOW - (seconds - since) * SECOND} + tick * {INTERVAL_SECONDS * SECOND} AS ts, ts AS received
                    FROM range({min(600, seconds - since) // INTERVAL_SECONDS}) AS ticks (tick), host,
                        range({rows}) AS processes (pid))"""
            )
    store.read("CHECKPOINT")


def tick(number: int, at: int) -> sample_pb2.Sample:
    """A sample of a host."""
    processes = [
        process(
            1_000 + index,
            (at // SECOND + index) % 97,
            name=f"worker-{index}",
            app=f"app-{number % 500}-{index}.service",
            established=(number * index) % 1_009,
            sockets=(number + index) % 503,
            fd_open=(at // SECOND * index) % 1_013,
            fd_limit=65_536,
        )
        for index in range(PROCESSES)
    ]
    return sample(at, number % 911, time_wait=number % 887, established=number % 601, processes=processes)


def write(folder: Path, day_seconds: int) -> None:
    """Fills a store, says so, and goes on writing until it is killed."""
    store = DuckDbStore(folder, MEMORY)
    fill_day(store, day_seconds)
    commits, a_commit = 0, HOSTS // INTERVAL_SECONDS
    while True:
        batch = Batch()
        now = NOW + commits * SECOND
        for number in range(commits % INTERVAL_SECONDS * a_commit, (commits % INTERVAL_SECONDS + 1) * a_commit):
            sequence = 1 + commits // INTERVAL_SECONDS
            batch.add(host_key(name(number)), report(name(number), sequence, tick(number, now), epoch=1), now)
        started = time.perf_counter()
        store.write(batch)
        commits += 1
        log = log_bytes(folder)
        print(f"{commits} {time.perf_counter() - started} {log}", flush=True)
        if commits >= COMMITS and log > CHECKPOINT_BYTES * 0.9:
            print("full", flush=True)


def log_bytes(folder: Path) -> int:
    """The size of the write-ahead log."""
    file = folder / "loiter.duckdb.wal"
    return file.stat().st_size if file.exists() else 0


def fill_and_kill(folder: Path, day_seconds: int) -> list[float]:
    """Has a process of its own fill a store, and kills it. Returns the seconds that its commits took."""
    command = [sys.executable, __file__, "--write", str(folder), "--day-seconds", str(day_seconds)]
    took = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if line == "full\n":
                time.sleep(0.05)  # amid the next one
                writer.send_signal(signal.SIGKILL)
                break
            took.append(float(line.split()[1]))
    assert writer.returncode == -signal.SIGKILL, "the writer failed"
    return took


@contextmanager
def copied(left: Path) -> Iterator[Path]:
    """A copy of what was left, for one round."""
    folder = left.with_name("round")
    shutil.copytree(left, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class Took:
    """How long something took, and how much of that a processor was at it, in seconds."""

    wall: float
    cpu: float


@contextmanager
def timed(measured: list[Took], whose: int) -> Iterator[None]:
    """Adds what the block took, the processor's time being that of RUSAGE_SELF or RUSAGE_CHILDREN (getrusage(2))."""
    started, before = time.perf_counter(), resource.getrusage(whose)
    yield
    wall, after = time.perf_counter() - started, resource.getrusage(whose)
    measured.append(Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def open_store(folder: Path, measured: list[Took]) -> None:
    """Opens the store, which reads its log and the names of processes."""
    with timed(measured, resource.RUSAGE_SELF):
        store = DuckDbStore(folder, MEMORY)
    store.close()


def read_marks(folder: Path, measured: list[Took]) -> None:
    """Reads the marks of all hosts from an open store."""
    store = DuckDbStore(folder, MEMORY)
    with timed(measured, resource.RUSAGE_SELF):
        marks = store.high_water()
    store.close()
    assert len(marks) == HOSTS * (EPOCHS + 1), len(marks)


def serve(folder: Path, measured: list[Took]) -> None:
    """Starts `loiter serve`, and kills it as soon as it takes a connection."""
    port = free_port()
    command: Command = [BIN / "loiter", "serve", "--listen", f"127.0.0.1:{port}", "--data-dir", folder]
    with (
        timed(measured, resource.RUSAGE_CHILDREN),
        subprocess.Popen(command, stderr=subprocess.DEVNULL, env=CLEAN_ENVIRONMENT) as program,
    ):
        try:
            while not takes_connections(port):
                assert program.poll() is None, "it did not start"
                time.sleep(0.002)
        finally:
            program.kill()


def takes_connections(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Fills, kills, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--day-seconds", type=int, default=600, help="of how many seconds samples are in the store")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write, arguments.day_seconds)
        return
    with tempfile.TemporaryDirectory(prefix="loiter-recovery-") as made:
        left, empty = Path(made) / "left", Path(made) / "empty"
        commits = fill_and_kill(left, arguments.day_seconds)
        DuckDbStore(empty, MEMORY).close()
        report_all(left, empty, commits, arguments.rounds)


def report_all(left: Path, empty: Path, commits: list[float], rounds: int) -> None:
    """Measures, and prints the table."""
    sizes = f"{(left / 'loiter.duckdb').stat().st_size / 1e6:,.0f} MB, {log_bytes(left) / 1e6:.1f} MB of it in the log"
    print(f"{datetime.now(UTC):%Y-%m-%d}, Linux {platform.release().partition('-')[0]}, {os.cpu_count()} CPUs\n")
    with copied(left) as folder:
        print(f"{HOSTS:,} hosts, {contents(folder)}; {sizes}.\n")
    print("| | median | min to max | CPU, median |\n|---|---:|---:|---:|")
    row("opening the store: its log is read, and the names of processes", left, open_store, rounds)
    row("the marks of all hosts; an aggregator reads those of one when it connects", left, read_marks, rounds)
    back = row("**`loiter serve`, from its start until it takes connections**", left, serve, rounds)
    row("the same with an empty store", empty, serve, rounds)
    print(f"\nGoal: `loiter serve` within a second; {'met' if back < 1 else 'missed'}.")
    print(
        f"A commit of {HOSTS // INTERVAL_SECONDS:,} samples took {statistics.median(commits):.2f} s, "
        f"at most {max(commits):.2f} s with a checkpoint."
    )


def row(title: str, kept: Path, measure: Callable[[Path, list[Took]], None], rounds: int) -> float:
    """Measures on copies of what was kept, prints a row, and returns the median."""
    measured: list[Took] = []
    for _ in range(rounds):
        with copied(kept) as folder:
            measure(folder, measured)
    wall = [took.wall for took in measured]
    median, cpu = statistics.median(wall), statistics.median(took.cpu for took in measured)
    print(f"| {title} | {median:.2f} s | {min(wall):.2f} to {max(wall):.2f} s | {cpu:.2f} s |", flush=True)
    return median


def contents(folder: Path) -> str:
    """What is in the store, in words."""
    store = DuckDbStore(folder, MEMORY)
    tables = ("host_sample", "process_sample", "high_water", "identity")
    counts = [store.read(f"SELECT count(*) FROM {table}")[0][0] for table in tables]
    store.close()
    return "{:,} samples with {:,} of processes, {:,} epochs, {:,} names of processes".format(*counts)


if __name__ == "__main__":
    main()
