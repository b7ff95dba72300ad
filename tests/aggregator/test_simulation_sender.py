"""A simulated agent delivers as a real one does: nothing is lost, and nothing gets another number."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.ingest.admission import retry_info
from loiter_aggregator.simulation.counts import Board, Boards, Count
from loiter_aggregator.simulation.encoding import Messages
from loiter_aggregator.simulation.plan import Kind, Plan
from loiter_aggregator.simulation.sender import Sender, Shared
from support.streams import until

SERVICE = "loiter.v1.IngestService"
HELLO_ACK = pb.StreamReportsResponse(hello_ack=pb.HelloAck())

# What a stream does with a message; it may abort.
Take = Callable[["Aggregator", pb.StreamReportsRequest, Any], Any]


class Aggregator:
    """A server of gRPC that does with reports what the test says, and notes what came by which stream."""

    def __init__(self, take: Take) -> None:
        self.take = take
        self.hellos: list[pb.Hello] = []
        self.reports: list[list[pb.Report]] = []

    async def stream(self, _: object, context: Any) -> None:
        """Serves one stream."""
        self.hellos.append(pb.StreamReportsRequest.FromString(await context.read()).hello)
        self.reports.append([])
        await context.write(HELLO_ACK.SerializeToString())
        while isinstance(data := await context.read(), bytes):
            request = pb.StreamReportsRequest.FromString(data)
            self.reports[-1].append(request.report)
            await self.take(self, request, context)


async def acknowledge(_: Aggregator, request: pb.StreamReportsRequest, context: Any) -> None:
    """Says that a report is durable."""
    ack = pb.ReportAck(spool_epoch=request.report.spool_epoch, sequence=request.report.sequence)
    await context.write(pb.StreamReportsResponse(report_ack=ack).SerializeToString())


@asynccontextmanager
async def serving(aggregator: Aggregator) -> AsyncIterator[Callable[[], Any]]:
    """Yields what opens a stream."""
    server = grpc.aio.server()
    handler: Any = grpc.stream_stream_rpc_method_handler(aggregator.stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"StreamReports": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.stream_stream(f"/{SERVICE}/StreamReports")
    finally:
        await server.stop(0)


def past(kind: Kind | None = None) -> Plan:
    """One host that has run for an hour; a silent one has fallen silent meanwhile, and so comes to an end."""
    start = time.time_ns() // 1_000_000 - 7_300_000
    return Plan(hosts=1, start=start, shares={} if kind is None else {kind: 1.0})


def deliver(aggregator: Aggregator) -> tuple[Board, list[str]]:
    """Runs the agent of a silent host to its end."""
    board, said = Boards(1, 1).board(0), list[str]()

    async def run() -> None:
        async with asyncio.timeout(60), serving(aggregator) as open_stream:
            shared = Shared(past(Kind.SILENT), board, Messages(), asyncio.Semaphore(1), said.append)
            await Sender(shared, 1, open_stream).run()

    asyncio.run(run())
    return board, said


def names(reports: list[pb.Report]) -> list[tuple[int, int]]:
    """What names them."""
    return [(report.spool_epoch, report.sequence) for report in reports]


def test_all_that_is_past_is_delivered_once_and_in_order() -> None:
    """From the first report to the last, all of them acknowledged."""
    aggregator = Aggregator(acknowledge)
    board, _ = deliver(aggregator)
    (reports,) = aggregator.reports
    assert [report.sequence for report in reports] == list(range(1, len(reports) + 1))
    assert board.counts[Count.SENT] == board.counts[Count.ACKNOWLEDGED] == len(reports) >= 30
    assert board.counts[Count.RESENT] == board.counts[Count.STREAMS] == 0


def test_what_was_not_acknowledged_comes_again_just_as_it_was() -> None:
    """The stream breaks with as many on their way as there may be, after ten that were acknowledged."""

    async def take(aggregator: Aggregator, request: pb.StreamReportsRequest, context: Any) -> None:
        if len(aggregator.reports) == 1 and request.report.sequence > 10:
            if request.report.sequence == 10 + 32:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the cable was pulled")
            return
        await acknowledge(aggregator, request, context)

    aggregator = Aggregator(take)
    board, said = deliver(aggregator)
    first, second = aggregator.reports
    assert names(second)[0][1] == 11
    by_name = dict(zip(names(first), first, strict=True))
    assert all(by_name[name] == report for name, report in zip(names(second), second, strict=True) if name in by_name)
    assert [position.sequence for position in aggregator.hellos[1].settled] == [10]
    assert board.counts[Count.RECONNECTS] == 1
    assert board.counts[Count.RESENT] == 32
    assert board.counts[Count.SENT] == board.counts[Count.ACKNOWLEDGED] == len({*names(first), *names(second)})
    assert said == ["UNAVAILABLE: the cable was pulled"]


def test_it_comes_back_when_it_is_told_to() -> None:
    """Not before the time that RetryInfo names."""
    times = list[float]()

    async def take(aggregator: Aggregator, request: pb.StreamReportsRequest, context: Any) -> None:
        if len(times) < len(aggregator.reports):  # the first of a stream
            times.append(time.monotonic())
        if len(aggregator.reports) == 1:
            if request.report.sequence == 32:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", retry_info("busy", 1.5))
            return
        await acknowledge(aggregator, request, context)

    aggregator = Aggregator(take)
    deliver(aggregator)
    assert len(aggregator.reports) == 2
    assert times[1] - times[0] >= 1.5


def test_a_rejected_report_is_counted_and_not_sent_again() -> None:
    """The others are acknowledged."""

    async def take(aggregator: Aggregator, request: pb.StreamReportsRequest, context: Any) -> None:
        report = request.report
        if report.sequence == 5:
            rejection = pb.ReportRejection(spool_epoch=report.spool_epoch, sequence=5, code=3, reason="no")
            await context.write(pb.StreamReportsResponse(report_rejection=rejection).SerializeToString())
        else:
            await acknowledge(aggregator, request, context)

    aggregator = Aggregator(take)
    board, said = deliver(aggregator)
    assert board.counts[Count.REJECTED] == 1
    assert board.counts[Count.ACKNOWLEDGED] == board.counts[Count.SENT] - 1
    assert [sequence for _, sequence in names(aggregator.reports[0])].count(5) == 1
    assert said == ["a report was rejected: no"]


def test_no_more_is_on_its_way_than_an_agent_has() -> None:
    """An aggregator that acknowledges nothing has 32 reports of a host; those are what is missing at the end."""
    board = Boards(1, 1).board(0)

    async def run() -> int:
        enough = asyncio.Event()

        async def take(aggregator: Aggregator, _: pb.StreamReportsRequest, __: Any) -> None:
            if len(aggregator.reports[0]) >= 32:
                enough.set()

        aggregator = Aggregator(take)
        async with asyncio.timeout(60), serving(aggregator) as open_stream:
            shared = Shared(past(), board, Messages(), asyncio.Semaphore(1), lambda _: None)
            running = asyncio.create_task(Sender(shared, 1, open_stream).run())
            await enough.wait()
            await asyncio.sleep(0)  # it would send the next now
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return len(aggregator.reports[0])

    assert asyncio.run(run()) == 32
    assert board.counts[Count.SENT] == 32
    assert board.counts[Count.ACKNOWLEDGED] == 0


def test_a_restarting_host_names_the_epochs_that_it_brings() -> None:
    """All of its past comes by one stream, as a spool would bring it, and the hello says where each epoch begins."""
    aggregator, board = Aggregator(acknowledge), Boards(1, 1).board(0)

    async def run() -> None:
        async with asyncio.timeout(60), serving(aggregator) as open_stream:
            shared = Shared(past(Kind.RESTARTING), board, Messages(), asyncio.Semaphore(1), lambda _: None)
            sender = Sender(shared, 1, open_stream)
            running = asyncio.create_task(sender.run())
            await until(lambda: board.counts[Count.ACKNOWLEDGED] >= 600)
            sender.stop()
            await running

    asyncio.run(run())
    settled = {position.spool_epoch: position.sequence for position in aggregator.hellos[0].settled}
    epochs = {epoch for epoch, _ in names(aggregator.reports[0])}
    assert len(epochs) > 1
    assert epochs <= settled.keys()
    assert set(settled.values()) == {0}
    assert board.counts[Count.SENT] == board.counts[Count.ACKNOWLEDGED]
