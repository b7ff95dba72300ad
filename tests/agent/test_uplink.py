"""The stream to an aggregator, against a small one of our own: what is sent, what is sent again, what is logged."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.v1.ingest_service_pb2_grpc import IngestServiceServicer, add_IngestServiceServicer_to_server
from loiter_agent.spool import Spool
from loiter_agent.uplink import Uplink

HOST = sample_pb2.Host(host_id="ab" * 16, hostname="web-1")
TIMEOUT_SECONDS = 20

Context = grpc.aio.ServicerContext[pb.StreamReportsRequest, pb.StreamReportsResponse]
Behaviour = Callable[["Aggregator", pb.Report], Awaitable[pb.StreamReportsResponse | None]]


class NoWait(random.Random):
    """Draws no time at all, and notes between what it was to draw."""

    def __init__(self) -> None:
        super().__init__(1)
        self.bounds: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        self.bounds.append(b)
        return 0.0


class BrokenStream(Exception):
    """Ends a stream the way a stopping aggregator does."""


class Aggregator(IngestServiceServicer):
    """Notes what arrives, and answers each report as it is told to."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.hellos: list[pb.Hello] = []
        self.reports: list[int] = []
        self.streams: list[list[int]] = []
        self.changed = asyncio.Condition()

    async def StreamReports(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[pb.StreamReportsRequest], context: Context
    ) -> AsyncIterator[pb.StreamReportsResponse]:
        async for request in request_iterator:
            if request.WhichOneof("request") == "hello":
                self.hellos.append(request.hello)
                self.streams.append([])
                yield pb.StreamReportsResponse(hello_ack=pb.HelloAck())
            else:
                self.reports.append(request.report.sequence)
                self.streams[-1].append(request.report.sequence)
                try:
                    answer = await self.behaviour(self, request.report)
                except BrokenStream:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
                if answer is not None:
                    yield answer
            async with self.changed:
                self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what arrives to make it true."""
        async with self.changed:
            await self.changed.wait_for(condition)


def acknowledgement(report: pb.Report) -> pb.StreamReportsResponse:
    return pb.StreamReportsResponse(report_ack=pb.ReportAck(spool_epoch=report.spool_epoch, sequence=report.sequence))


def rejection(report: pb.Report, reason: str) -> pb.StreamReportsResponse:
    rejected = pb.ReportRejection(spool_epoch=report.spool_epoch, sequence=report.sequence, code=3, reason=reason)
    return pb.StreamReportsResponse(report_rejection=rejected)


async def acknowledge(_: Aggregator, report: pb.Report) -> pb.StreamReportsResponse:
    return acknowledgement(report)


async def say_nothing(_: Aggregator, report: pb.Report) -> None:
    del report


class Scene:
    """A spool, an uplink and an aggregator on a free port of the loopback address."""

    def __init__(self, behaviour: Behaviour, reports: int = 0) -> None:
        self.aggregator = Aggregator(behaviour)
        self.spool = Spool(HOST.host_id, "boot", 1_000)
        self.random = NoWait()
        self.uplink = Uplink(self.spool, self.random)
        self.add(reports)

    def add(self, reports: int) -> None:
        for _ in range(reports):
            self.spool.append(sample_pb2.Sample())

    @asynccontextmanager
    async def running(self, *before: str) -> AsyncIterator[None]:
        """Runs the aggregator and the uplink, which is to try other addresses before."""
        server = grpc.aio.server()
        add_IngestServiceServicer_to_server(self.aggregator, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self.address = f"127.0.0.1:{port}"
        self.uplink.configure((*before, self.address), HOST, 2.5)
        self.task = asyncio.create_task(self.uplink.run())
        try:
            yield
        finally:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            await server.stop(None)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Runs a scene, which must end by itself."""

    async def timed() -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await scene()

    asyncio.run(timed())


def test_the_stream_opens_with_a_hello_and_reports_follow_in_order() -> None:
    """The hello says who reports and how often."""

    async def scene() -> None:
        stage = Scene(acknowledge, reports=3)
        async with stage.running():
            await stage.spool.drained()
            stage.add(2)
            await stage.spool.drained()
        (hello,) = stage.aggregator.hellos
        assert hello.host == HOST
        assert hello.interval.ToMilliseconds() == 2_500
        assert hello.agent_time.seconds > 0
        assert stage.aggregator.reports == [1, 2, 3, 4, 5]
        assert stage.spool.dropped == 0

    play(scene)


def test_one_acknowledgement_lets_go_of_all_before_it() -> None:
    """The aggregator need not answer each report."""

    async def every_tenth(_: Aggregator, report: pb.Report) -> pb.StreamReportsResponse | None:
        return acknowledgement(report) if report.sequence % 10 == 0 else None

    async def scene() -> None:
        stage = Scene(every_tenth, reports=200)
        async with stage.running():
            await stage.spool.drained()
        assert stage.aggregator.reports == list(range(1, 201))

    play(scene)


def test_reports_that_are_not_acknowledged_are_held_back_beyond_a_window() -> None:
    """64 are on their way at most; the rest waits in the spool."""

    async def scene() -> None:
        stage = Scene(say_nothing, reports=100)
        async with stage.running():
            await stage.aggregator.until(lambda: len(stage.aggregator.reports) == 64)
            stage.add(1)
            await asyncio.sleep(0)
        assert stage.aggregator.reports == list(range(1, 65))
        assert len(stage.spool) == 101

    play(scene)


def test_a_rejection_drops_that_report_and_the_stream_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """The reason is logged, and can do the log no harm."""

    async def reject_second(_: Aggregator, report: pb.Report) -> pb.StreamReportsResponse:
        return rejection(report, "bad \x1b[2J name") if report.sequence == 2 else acknowledgement(report)

    async def scene() -> None:
        stage = Scene(reject_second, reports=3)
        async with stage.running():
            await stage.spool.drained()
        assert stage.aggregator.reports == [1, 2, 3]
        assert len(stage.aggregator.hellos) == 1
        assert stage.spool.dropped == 1

    with caplog.at_level(logging.ERROR):
        play(scene)
    assert [record.getMessage() for record in caplog.records] == [r"report 2 was rejected: bad \x1b[2J name"]


def test_rejections_free_their_place_in_the_window() -> None:
    """Many in a row do not stop the stream."""

    async def reject(_: Aggregator, report: pb.Report) -> pb.StreamReportsResponse:
        return rejection(report, "no")

    async def scene() -> None:
        stage = Scene(reject, reports=150)
        async with stage.running():
            await stage.spool.drained()
        assert stage.spool.dropped == 150

    play(scene)


def test_after_a_break_what_is_not_acknowledged_is_sent_again() -> None:
    """And what is acknowledged is not. Each stream begins with a hello."""

    async def break_at_fourth(aggregator: Aggregator, report: pb.Report) -> pb.StreamReportsResponse | None:
        if len(aggregator.streams) == 1:
            if report.sequence == 4:
                while len(stages[0].spool) > 2:  # noqa: ASYNC110 - the acknowledgement is on its way
                    await asyncio.sleep(0)
                raise BrokenStream
            return acknowledgement(report) if report.sequence == 2 else None
        return acknowledgement(report)

    stages: list[Scene] = []

    async def scene() -> None:
        stage = Scene(break_at_fourth, reports=4)
        stages.append(stage)
        async with stage.running():
            await stage.spool.drained()
        assert stage.aggregator.streams == [[1, 2, 3, 4], [3, 4]]
        assert len(stage.aggregator.hellos) == 2

    play(scene)


def test_an_aggregator_that_is_away_is_logged_once_and_once_when_one_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not at every try. The aggregators are tried in turn."""

    async def scene() -> None:
        stage = Scene(acknowledge, reports=2)
        async with stage.running("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1"):
            await stage.spool.drained()
        # The bound doubles with every failure in a row.
        assert stage.random.bounds == [2.0, 4.0, 8.0]

    with caplog.at_level(logging.INFO, "loiter_agent"):
        play(scene)
    ours = [record for record in caplog.records if record.name.startswith("loiter_agent")]
    levels = [record.levelname for record in ours]
    messages = [record.getMessage() for record in ours]
    assert levels == ["WARNING", "INFO"]
    assert messages[0].startswith("cannot report to 127.0.0.1:1 (UNAVAILABLE")
    assert "up to 1000 reports are kept" in messages[0]
    assert "again after" in messages[1]
    assert "2 reports to send, 0 dropped" in messages[1]


def test_a_greeting_does_not_end_the_row_of_failures() -> None:
    """An aggregator that answers and then ends the stream is waited out longer each time."""

    async def break_twice(aggregator: Aggregator, report: pb.Report) -> pb.StreamReportsResponse:
        if len(aggregator.streams) < 3:
            raise BrokenStream
        return acknowledgement(report)

    async def scene() -> None:
        stage = Scene(break_twice, reports=1)
        async with stage.running():
            await stage.spool.drained()
        assert stage.random.bounds == [2.0, 4.0]

    play(scene)


def test_a_server_that_does_not_speak_the_protocol_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """It answers the hello with something else; no report is sent to it."""

    class Stranger(Aggregator):
        async def StreamReports(  # noqa: N802 - gRPC's name
            self, request_iterator: AsyncIterator[pb.StreamReportsRequest], context: Context
        ) -> AsyncIterator[pb.StreamReportsResponse]:
            del context
            async for request in request_iterator:
                self.reports.append(request.report.sequence)
                yield pb.StreamReportsResponse(report_ack=pb.ReportAck())
                async with self.changed:
                    self.changed.notify_all()

    async def scene() -> None:
        stage = Scene(acknowledge, reports=1)
        stage.aggregator = Stranger(acknowledge)
        async with stage.running():
            await stage.aggregator.until(lambda: len(stage.aggregator.reports) == 3)
        assert stage.aggregator.reports[:3] == [0, 0, 0]
        assert len(stage.spool) == 1

    with caplog.at_level(logging.WARNING, "loiter_agent"):
        play(scene)
    (record,) = [record for record in caplog.records if record.name.startswith("loiter_agent")]
    assert "does not speak this protocol" in record.getMessage()


def test_a_new_configuration_opens_a_new_stream_at_once() -> None:
    """As the new host, without a pause."""

    async def scene() -> None:
        stage = Scene(acknowledge, reports=1)
        async with stage.running():
            await stage.spool.drained()
            renamed = sample_pb2.Host(host_id=HOST.host_id, hostname="web-2")
            stage.uplink.configure((stage.address,), renamed, 5.0)
            stage.add(1)
            await stage.spool.drained()
        assert [hello.host.hostname for hello in stage.aggregator.hellos] == ["web-1", "web-2"]
        assert stage.random.bounds == []

    play(scene)


def test_an_uplink_that_is_cancelled_ends_its_stream() -> None:
    """Nothing goes on behind its back."""

    async def scene() -> None:
        stage = Scene(say_nothing, reports=1)
        async with stage.running():
            await stage.aggregator.until(lambda: stage.aggregator.reports == [1])
            others = len(asyncio.all_tasks())
        assert stage.task.cancelled()
        assert len(asyncio.all_tasks()) < others

    play(scene)


def test_backoff_is_random_between_nothing_and_a_bound_that_has_an_end() -> None:
    """Full jitter: hosts that lost their aggregator together do not come back together."""
    uplink = Uplink(Spool(HOST.host_id, "boot", 1), random.Random(7))
    for failures, bound in ((0, 1), (1, 2), (3, 8), (5, 30), (100, 30), (100_000, 30)):
        uplink._failures = failures
        drawn = [uplink._backoff() for _ in range(200)]
        assert all(0 <= seconds <= bound for seconds in drawn)
        assert max(drawn) > 0.9 * bound
        assert min(drawn) < 0.1 * bound


def test_one_cancellation_ends_an_uplink_that_finds_nobody_at_whatever_moment_it_comes() -> None:
    """Its waits are of no length here, so that the cancellation also comes as one of them runs out."""

    async def scene() -> None:
        for moment in range(120):
            uplink = Uplink(Spool(HOST.host_id, "boot", 10), NoWait())
            uplink.configure(("127.0.0.1:1",), HOST, 10.0)
            task = asyncio.create_task(uplink.run())
            for _ in range(moment):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait((task,), timeout=TIMEOUT_SECONDS)
            assert done, f"still running, cancelled at {moment}"

    play(scene)
