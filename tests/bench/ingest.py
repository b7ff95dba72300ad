"""Measures what a report costs an aggregator, and where the time goes.

A real `loiter serve` takes the reports of many hosts at once: first of few that send as fast as it reads, then of many
at a steady pace, each by a connection of its own. The senders are a process apart, and their processor time is not
counted. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from support.programs import BIN, CLEAN_ENVIRONMENT, free_port
from support.reports import hello, host_id, lasting, process, report, sample

INTERVAL_SECONDS = 10
DAY_SECONDS = 86_400
PATIENCE_SECONDS = 300
METHOD = "/loiter.v1.IngestService/StreamReports"
COLLECTORS = ("tcp", "processes", "host_fds", "time_wait", "ports", "namespaces")
# What is committed together, about.
BATCH_REPORTS = 1_000


@dataclass(frozen=True, slots=True)
class Load:
    """So many hosts that send so many reports each, one every `pace` seconds; 0: as fast as they are read."""

    hosts: int
    reports: int
    processes: int
    pace: float = 0.0

    @property
    def total(self) -> int:
        """How many reports there are."""
        return self.hosts * self.reports


@dataclass(frozen=True, slots=True)
class Cost:
    """What a load took: seconds of the clock and of processors, bytes, and how long acknowledgements took."""

    took: float
    cpu: float
    of_loop: float
    disk: int
    resident: int
    acknowledged: Sequence[float]


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


def message(hostname: str, sequence: int, processes: int, taken: int) -> bytes:
    """A report as an ordinary host sends it, with processes whose figures change; taken at a time in milliseconds."""
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
        for number in range(processes)
    ]
    coverage = sample_pb2.Coverage(sockets_attributed=240, sockets_ownerless=5, processes=180, namespaces=1)
    one = sample(
        taken, 40, time_wait=5, established=200, listen=12, fd_allocated=4_096, processes=running, coverage=coverage
    )
    one.cost.cpu_seconds, one.cost.wall_seconds, one.cost.process_cpu_seconds = 0.005, 0.006, 0.005 * sequence
    one.cost.resident_bytes, one.cost.cpu_share, one.cost.cpu_budget = 44_000_000, 0.0005, 0.01
    for name in COLLECTORS:
        one.collectors.add(name=name, duration_seconds=0.001)
    one.time_wait_limits.max_buckets, one.time_wait_limits.reuse, one.time_wait_limits.seconds = 262_144, 2, 60.0
    one.namespaces.add(id="4026531833", name="host", read=True, sampler=sample_pb2.SAMPLER_SOCK_DIAG)
    one.interval.CopyFrom(lasting(1_000 * INTERVAL_SECONDS))
    whole = report(hostname, sequence, one)
    whole.taken_since_boot.CopyFrom(lasting(taken))
    return pb.StreamReportsRequest(report=whole, sent_since_boot=lasting(taken)).SerializeToString()


async def send(channel: grpc.aio.Channel, number: int, load: Load, ready: asyncio.Barrier) -> list[float]:
    """Sends the reports of one host, and waits until all are acknowledged. Returns how long that took of each."""
    hostname, now = f"host-{number:06}", int(time.time() * 1_000)
    call: Any = channel.stream_stream(METHOD)()
    said = pb.StreamReportsRequest(hello=hello(hostname, now=now, instance=number + 1), sent_since_boot=lasting(now))
    await call.write(said.SerializeToString())
    await call.read()
    taken = now - 1_000 * load.reports
    reports = [message(hostname, one, load.processes, taken + 1_000 * one) for one in range(1, load.reports + 1)]
    await ready.wait()  # all have greeted
    await ready.wait()  # they may begin
    began, sent, waits = time.monotonic(), list[float](), list[float]()

    async def hear() -> None:
        while len(waits) < load.reports:
            answer = pb.StreamReportsResponse.FromString(await call.read())
            assert answer.HasField("report_ack"), answer
            heard = time.monotonic()
            waits.extend(heard - sent[place] for place in range(len(waits), answer.report_ack.sequence))

    hearing = asyncio.create_task(hear())
    for place, data in enumerate(reports):
        if load.pace:
            due = began + (place + number / load.hosts) * load.pace
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        sent.append(time.monotonic())
        await call.write(data)
    await hearing
    await call.done_writing()
    return waits


async def send_all(port: int, load: Load, greeted: Any, begin: Any) -> tuple[float, list[float]]:
    """Greets with all hosts, says so, and once told to begins to send their reports.

    Returns how long that took, and how long each report was not acknowledged.
    """
    ready = asyncio.Barrier(load.hosts + 1)
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(load.hosts if load.pace else 1)
    ]
    async with asyncio.timeout(PATIENCE_SECONDS):
        numbered = zip(range(load.hosts), itertools.cycle(channels), strict=False)
        tasks = [asyncio.create_task(send(channel, number, load, ready)) for number, channel in numbered]
        await ready.wait()
        gc.freeze()
        greeted.set()
        await asyncio.to_thread(begin.wait)
        await ready.wait()
        began = time.perf_counter()
        waits = [wait for waits in await asyncio.gather(*tasks) for wait in waits]
    return time.perf_counter() - began, waits


def _send(port: int, load: Load, greeted: Any, begin: Any, said: Any) -> None:
    said.put(asyncio.run(send_all(port, load, greeted, begin)))


def measure(load: Load) -> Cost:
    """Puts a load on an aggregator of its own."""
    with tempfile.TemporaryDirectory(prefix="loiter-bench.") as name:
        folder, port = Path(name), free_port()
        context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        greeted, begin, said = context.Event(), context.Event(), context.Queue()
        with aggregator(folder, port) as program:
            sender = context.Process(target=_send, args=(port, load, greeted, begin, said))
            sender.start()
            assert greeted.wait(PATIENCE_SECONDS), "the hosts did not connect"
            time.sleep(2.0)  # until what they said of themselves is committed
            before, loop = cpu_seconds(program), loop_seconds(program)
            begin.set()
            took, waits = said.get(timeout=PATIENCE_SECONDS)
            cpu, loop = cpu_seconds(program) - before, loop_seconds(program) - loop
            resident = program.memory_info().rss
            sender.join()
        disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Cost(took, cpu, loop, disk, resident, waits)


def cpu_seconds(program: psutil.Process) -> float:
    """The processor time that a program has taken."""
    times = program.cpu_times()
    return times.user + times.system


def loop_seconds(program: psutil.Process) -> float:
    """Of that, what the thread of the event loop has taken."""
    return next(one.user_time + one.system_time for one in program.threads() if one.id == program.pid)


def parts(load: Load) -> dict[str, float]:
    """What each part of taking in a report costs by itself, in seconds."""
    # Here, as the sender needs nothing of the store.
    from loiter_aggregator.ingest.validation import check_report, check_sent
    from loiter_aggregator.store.batch import Batch
    from loiter_aggregator.store.duckdb_store import DuckDbStore

    now = int(time.time() * 1_000)
    names = [f"host-{number:06}" for number in range(BATCH_REPORTS)]
    ids = list(map(host_id, names))
    sent = [[message(name, tick, load.processes, now + tick) for name in names] for tick in range(1, 8)]
    spent: dict[str, list[float]] = {}

    def spend(part: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        spent.setdefault(part, []).append((time.process_time() - began) / BATCH_REPORTS)
        return result

    def decode(messages: list[bytes]) -> list[pb.StreamReportsRequest]:
        return list(map(pb.StreamReportsRequest.FromString, messages))

    def check(requests: list[pb.StreamReportsRequest]) -> None:
        for request, whose in zip(requests, ids, strict=True):
            check_sent(request)
            check_report(request.report, whose)

    def check_and_gather(requests: list[pb.StreamReportsRequest]) -> Batch:
        batch = Batch()
        for key, (request, whose) in enumerate(zip(requests, ids, strict=True), 1):
            check_sent(request)
            processes = check_report(request.report, whose)  # as in the service, not kept any longer than this
            batch.add(key, request.report, now, processes=processes)
        return batch

    def make_columns(batch: Batch) -> None:
        batch.host_columns(), batch.process_columns(), batch.latest_columns()

    with tempfile.TemporaryDirectory(prefix="loiter-bench.") as name:
        store = DuckDbStore(Path(name), "2GB")
        for tick in sent:
            requests = spend("decode", partial(decode, tick))
            spend("check, which is a part of the next", partial(check, requests))
            batch = spend("check and make rows", partial(check_and_gather, requests))
            spend("make columns, which is a part of the commit", partial(make_columns, batch))
            spend("commit", partial(store.write, batch))
        store.close()
    return {part: statistics.median(seconds) for part, seconds in spent.items()}


def show(title: str, load: Load, cost: Cost) -> None:
    """Prints what a load took."""
    per_day = cost.disk / load.total * DAY_SECONDS / INTERVAL_SECONDS
    waits = sorted(cost.acknowledged)
    print(f"\n{load.total:,} reports of {load.hosts:,} hosts, with {load.processes} processes each, {title}.\n")
    print("| | |\n|---|---:|")
    print(f"| CPU of the aggregator for a report | {1e6 * cost.cpu / load.total:.0f} µs |")
    print(f"| of that, of the event loop's thread | {1e6 * cost.of_loop / load.total:.0f} µs |")
    print(f"| reports a second | {load.total / cost.took:,.0f} |")
    print(f"| CPU of the aggregator | {100 * cost.cpu / cost.took:.0f} % of a core |")
    median, p99 = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    print(f"| acknowledged after, median and p99 | {median:.2f} s, {p99:.2f} s |")
    print(f"| disk for a report | {cost.disk / load.total:,.0f} bytes |")
    print(f"| disk for a host and a day at {INTERVAL_SECONDS} s | {per_day / 1e6:.1f} MB |")
    print(f"| resident memory at the end | {cost.resident / 1e6:,.0f} MB |")


def show_parts(load: Load, cost: Cost) -> None:
    """Prints where the time of the first load went."""
    spent, all_in, loop = parts(load), cost.cpu / load.total, cost.of_loop / load.total
    in_loop = sum(spent[part] for part in ("decode", "check and make rows"))
    spent["the rest of the event loop: gRPC's, streams, acknowledgements"] = loop - in_loop
    spent["threads of gRPC and of the store, less the commit"] = all_in - loop - spent["commit"]
    print(f"\nWhere the time goes, of a report with {load.processes} processes:\n")
    print("| | CPU |\n|---|---:|")
    for part, seconds in spent.items():
        print(f"| {part} | {1e6 * seconds:.0f} µs |")
    print(f"| **all in** | {1e6 * all_in:.0f} µs |")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=100, help="that send as fast as they can")
    parser.add_argument("--reports", type=int, default=200, help="of each of them")
    parser.add_argument("--processes", type=int, default=10, help="in each report")
    parser.add_argument("--paced-hosts", type=int, default=2_000, help="that send at a pace; 0 to leave them out")
    parser.add_argument("--pace", type=float, default=2.0, help="seconds between two reports of one of them")
    parser.add_argument("--paced-reports", type=int, default=10, help="of each of them")
    options = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, Linux {platform.release()}, {psutil.cpu_count()} CPUs")
    flood = Load(options.hosts, options.reports, options.processes)
    cost = measure(flood)
    show("as fast as they come", flood, cost)
    show_parts(flood, cost)
    if options.paced_hosts:
        paced = Load(options.paced_hosts, options.paced_reports, options.processes, options.pace)
        show(f"one every {options.pace:g} s, each by a connection of its own", paced, measure(paced))


if __name__ == "__main__":
    main()
