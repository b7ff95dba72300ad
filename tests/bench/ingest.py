"""Measures what reports cost an aggregator: its processor time, its disk, and how many a second it commits.

A real `loiter serve` takes the reports of many hosts at once, each sent as fast as the aggregator reads. The sender
takes a processor of its own. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1.ingest_service_pb2_grpc import IngestServiceStub
from support.programs import BIN, CLEAN_ENVIRONMENT, free_port
from support.reports import hello, process, report, sample

PROCESSES = 20
INTERVAL_SECONDS = 10
DAY_SECONDS = 86_400
PATIENCE_SECONDS = 300


@contextmanager
def aggregator(folder: Path, port: int) -> Iterator[psutil.Process]:
    """Runs an aggregator that lets one host send all it has."""
    environment = {**CLEAN_ENVIRONMENT, "LOITER_LIMITS_REPORTS_PER_SECOND": "100000"}
    command = [str(BIN / "loiter"), "serve", "--config", "/dev/null", "--log-format", "text"]
    command += ["--listen", f"127.0.0.1:{port}", "--data-dir", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as program:
        assert program.stderr is not None
        try:
            while "listening on" not in program.stderr.readline():
                assert program.poll() is None, "the aggregator did not start"
            yield psutil.Process(program.pid)
        finally:
            program.terminate()


def reports(hostname: str, count: int) -> Iterator[pb.Report]:
    """The reports of a host over the last so many seconds, with processes whose figures change."""
    now = int(time.time() * 1_000)
    for sequence in range(1, count + 1):
        running = [
            process(
                100 + number,
                number % 5,
                name=f"program-{number}",
                app=f"program-{number}.service",
                established=10 + sequence % 7,
                time_wait=0,
                sockets=20 + number,
                fd_open=30 + number,
                fd_limit=1_024,
                fd_limit_hard=4_096,
            )
            for number in range(PROCESSES)
        ]
        taken = sample(now - 1_000 * (count - sequence), 40, time_wait=5, established=200, processes=running)
        yield report(hostname, sequence, taken)


async def send(stub: Any, number: int, count: int) -> None:
    """Sends the reports of one host, and waits until all are acknowledged."""
    hostname = f"host-{number:05}"
    call = stub.StreamReports()
    said = hello(hostname, now=int(time.time() * 1_000), instance=number + 1)
    await call.write(pb.StreamReportsRequest(hello=said))
    await call.read()
    for one in reports(hostname, count):
        await call.write(pb.StreamReportsRequest(report=one))
    acknowledged = 0
    while acknowledged < count:
        answer = await call.read()
        assert isinstance(answer, pb.StreamReportsResponse), "the stream ended"
        assert answer.HasField("report_ack"), answer
        acknowledged = answer.report_ack.sequence
    await call.done_writing()


async def send_all(port: int, hosts: int, count: int) -> None:
    """Sends the reports of all hosts, each by a stream of its own."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = IngestServiceStub(channel)  # whose types are of the blocking kind
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(send(stub, number, count) for number in range(hosts)))


def cpu_seconds(program: psutil.Process) -> float:
    """The processor time that a program has taken."""
    times = program.cpu_times()
    return times.user + times.system


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--reports", type=int, default=200, help="of each host")
    options = parser.parse_args()
    total = options.hosts * options.reports
    with tempfile.TemporaryDirectory(prefix="loiter-bench.") as name:
        folder, port = Path(name), free_port()
        with aggregator(folder, port) as program:
            before, started = cpu_seconds(program), time.perf_counter()
            asyncio.run(send_all(port, options.hosts, options.reports))
            took, cpu = time.perf_counter() - started, cpu_seconds(program) - before
            resident = program.memory_info().rss
        disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    per_day = disk / total * DAY_SECONDS / INTERVAL_SECONDS
    print(f"{datetime.now(UTC):%Y-%m-%d}, Linux {platform.release()}, {psutil.cpu_count()} CPUs\n")
    print(f"{total:,} reports of {options.hosts} hosts, with {PROCESSES} processes each.\n")
    print("| | |\n|---|---:|")
    print(f"| CPU of the aggregator for a report | {1e3 * cpu / total:.2f} ms |")
    print(f"| reports a second, as fast as they come | {total / took:,.0f} |")
    print(f"| disk for a report | {disk / total:,.0f} bytes |")
    print(f"| disk for a host and a day at {INTERVAL_SECONDS} s | {per_day / 1e6:.1f} MB |")
    print(f"| resident memory at the end | {resident / 1e6:,.0f} MB |")


if __name__ == "__main__":
    main()
