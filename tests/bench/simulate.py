"""Measures what the report of a simulated host costs whoever sends it, beside bare gRPC messages of the same bytes.

All in one run, to a server that acknowledges each report and does nothing else. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import platform
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import psutil

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.simulation.counts import Boards, Count
from loiter_aggregator.simulation.encoding import Messages, Reports
from loiter_aggregator.simulation.hosts import SimulatedHost
from loiter_aggregator.simulation.plan import Plan
from loiter_aggregator.simulation.sender import Sender, Shared

SERVICE = "loiter.v1.IngestService"
METHOD = f"/{SERVICE}/StreamReports"
TICKS = 64
WARM_UP_SECONDS = 3.0
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


async def acknowledge(_: object, context: Any) -> None:
    """Acknowledges what comes by one stream."""
    while isinstance(data := await context.read(), bytes):
        request = pb.StreamReportsRequest.FromString(data)
        answer = pb.StreamReportsResponse(hello_ack=pb.HelloAck())
        if request.HasField("report"):
            ack = pb.ReportAck(spool_epoch=request.report.spool_epoch, sequence=request.report.sequence)
            answer = pb.StreamReportsResponse(report_ack=ack)
        await context.write(answer.SerializeToString())


def serve(port: Any) -> None:
    """The body of the process that acknowledges."""

    async def run() -> None:
        server = grpc.aio.server()
        handler: Any = grpc.stream_stream_rpc_method_handler(acknowledge)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"StreamReports": handler}),))
        port.value = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


def encode(plan: Plan) -> float:
    """The CPU microseconds that a report takes to be made."""
    messages = Messages()
    hosts = [SimulatedHost(plan, number) for number in plan.numbers]
    reports = [(host.life, Reports(plan, host, messages)) for host in hosts]
    count, began = 0, 0.0
    for tick in range(TICKS + 1):
        if tick == 1:  # the first makes what stays
            count, began = 0, time.process_time()
        for life, one in reports:
            run = life.run(tick)
            if run is not None:
                one.report(tick, run, 1)
                count += 1
    return 1e6 * (time.process_time() - began) / count


async def measured(count: Callable[[], int], seconds: float, sending: Awaitable[Any]) -> float:
    """The CPU microseconds of this process for each of what is counted, once it is warm."""
    task = asyncio.ensure_future(sending)
    await asyncio.sleep(WARM_UP_SECONDS)
    before, cpu = count(), time.process_time()
    await asyncio.sleep(seconds)
    cost = 1e6 * (time.process_time() - cpu) / (count() - before)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return cost


async def bare(channels: list[grpc.aio.Channel], hosts: int, seconds: float) -> float:
    """Messages of a report's bytes, one a second on each stream, and what comes back read."""
    plan = Plan(hosts=1, start=0, shares={})
    host = SimulatedHost(plan, 1)
    run = host.life.run(0)
    assert run is not None
    data, sent = Reports(plan, host, Messages()).report(0, run, 1), 0

    async def send(number: int) -> None:
        nonlocal sent
        call: Any = channels[number % len(channels)].stream_stream(METHOD)()

        async def read() -> None:
            while isinstance(await call.read(), bytes):
                pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(number / hosts)
        while True:
            await call.write(data)
            sent += 1
            assert not reading.done()
            await asyncio.sleep(1.0)

    return await measured(lambda: sent, seconds, asyncio.gather(*(send(number) for number in range(hosts))))


async def simulated(channels: list[grpc.aio.Channel], hosts: int, seconds: float) -> float:
    """The agents of simulated hosts, with an interval of a second."""
    plan = Plan(hosts=hosts, start=time.time_ns() // 1_000_000, interval=1_000)
    board = Boards(1, hosts).board(0)
    shared = Shared(plan, board, Messages(), asyncio.Semaphore(64), lambda _: None)
    senders = [Sender(shared, n, channels[n % len(channels)].stream_stream(METHOD)) for n in plan.numbers]
    return await measured(
        lambda: board.counts[Count.SENT], seconds, asyncio.gather(*(sender.run() for sender in senders))
    )


async def both(port: int, hosts: int, per_connection: int, seconds: float) -> tuple[float, float]:
    """The bare messages and the simulated reports, over as many connections."""
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OWN_CONNECTION)
        for _ in range(-(-hosts // per_connection))
    ]
    costs = await bare(channels, hosts, seconds), await simulated(channels, hosts, seconds)
    for channel in channels:
        await channel.close()
    return costs


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    server = context.Process(target=serve, args=(port,), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.05)
    print(f"{datetime.now(UTC):%Y-%m-%d}, Linux {platform.release()}, {psutil.cpu_count()} CPUs\n")
    print(f"{options.hosts:,} hosts at 1 s, CPU of the sender for a report.\n")
    print("| | bare gRPC message | simulated report | × |\n|---|---:|---:|---:|")
    print(f"| made only | | {encode(Plan(hosts=options.hosts, start=0)):.0f} µs | |")
    for per_connection in (1, 100):
        cost, ours = asyncio.run(both(port.value, options.hosts, per_connection, options.seconds))
        print(f"| sent, {per_connection} to a connection | {cost:.0f} µs | {ours:.0f} µs | {ours / cost:.2f} |")
    server.terminate()


if __name__ == "__main__":
    main()
