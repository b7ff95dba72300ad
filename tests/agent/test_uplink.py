"""The stream to an aggregator, against a small one of our own: what is sent, what is sent again, what is logged."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime, monotonic

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.v1.ingest_service_pb2_grpc import IngestServiceServicer, add_IngestServiceServicer_to_server
from loiter_agent.security import Security
from loiter_agent.spool import Spool
from loiter_agent.spool_database import Unwritable
from loiter_agent.spool_file import SpoolFile
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
    """Ends a stream the way a stopping aggregator does, or another that has a status and trailing metadata."""

    def __init__(
        self,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        details: str = "stopping",
        metadata: tuple[tuple[str, str | bytes], ...] = (),
    ) -> None:
        super().__init__()
        self.code, self.details, self.metadata = code, details, metadata


class Gate:
    """A clock that stands still while somebody sleeps, until it is opened: then each sleep takes its time at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.open = asyncio.Event()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await self.open.wait()
        self.now += seconds
        await asyncio.sleep(0)


class Aggregator(IngestServiceServicer):
    """Notes what arrives, and answers each report as it is told to."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        # How to answer hellos, in turn, instead of by an acknowledgement.
        self.refusals: deque[BrokenStream] = deque()
        self.hellos: list[pb.Hello] = []
        self.requests: list[pb.StreamReportsRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.reports: list[int] = []
        self.streams: list[list[int]] = []
        self.changed = asyncio.Condition()

    async def StreamReports(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[pb.StreamReportsRequest], context: Context
    ) -> AsyncIterator[pb.StreamReportsResponse]:
        self.metadata.append(dict(context.invocation_metadata() or ()))
        async for request in request_iterator:
            self.requests.append(request)
            try:
                if request.WhichOneof("request") == "hello":
                    self.hellos.append(request.hello)
                    self.streams.append([])
                    if self.refusals:
                        raise self.refusals.popleft()
                    yield pb.StreamReportsResponse(hello_ack=pb.HelloAck())
                else:
                    self.reports.append(request.report.sequence)
                    self.streams[-1].append(request.report.sequence)
                    if answer := await self.behaviour(self, request.report):
                        yield answer
            except BrokenStream as end:
                await context.abort(end.code, end.details, end.metadata)
            finally:
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

    def __init__(self, directory: Path, behaviour: Behaviour, gate: Gate | None = None) -> None:
        self.aggregator = Aggregator(behaviour)
        self.directory = directory
        self.spool = Spool(HOST.host_id, "boot", directory, 64_000_000, 86_400.0)
        self.random = NoWait()
        self.gate = gate or Gate()
        if gate is None:
            self.gate.open.set()
        self.uplink = Uplink(self.spool, self.random, self.gate.clock, self.gate.sleep)
        self.security = Security()

    async def new_epoch(self) -> None:
        """Waits until the stream is open, and new reports go into an epoch of their own."""
        while (await self.spool.lanes()).live.epoch == self.spool.instance:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)

    async def add(self, reports: int) -> None:
        for _ in range(reports):
            await self.spool.append(sample_pb2.Sample(), 1.0)

    @asynccontextmanager
    async def running(self, *before: str) -> AsyncIterator[None]:
        """Runs the aggregator and the uplink, which is to try other addresses before."""
        server = grpc.aio.server()
        add_IngestServiceServicer_to_server(self.aggregator, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self.address = f"127.0.0.1:{port}"
        self.uplink.configure((*before, self.address), HOST, 2.5, self.security)
        self.task = asyncio.create_task(self.uplink.run())
        try:
            yield
        finally:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            await server.stop(None)
            await self.spool.close()


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Runs a scene, which must end by itself."""

    async def timed() -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await scene()

    asyncio.run(timed())


def test_the_stream_opens_with_a_hello_and_reports_follow_in_order(tmp_path: Path) -> None:
    """The hello says who reports, how often and from where on; each message when it was sent."""

    async def scene() -> None:
        stage = Scene(tmp_path, acknowledge)
        await stage.add(3)
        began = clock_gettime(CLOCK_BOOTTIME)
        async with stage.running():
            await stage.spool.drained()
            await stage.add(2)
            await stage.spool.drained()
        (hello,) = stage.aggregator.hellos
        assert hello.host == HOST
        assert hello.interval.ToMilliseconds() == 2_500
        assert hello.agent_time.seconds > 0
        assert hello.instance == stage.spool.instance
        assert [(one.spool_epoch, one.sequence) for one in hello.settled] == [(stage.spool.instance, 0)]
        sent = [request.sent_since_boot.ToNanoseconds() / 1e9 for request in stage.aggregator.requests]
        assert began < sent[0]
        assert sent == sorted(sent)
        assert sent[-1] < clock_gettime(CLOCK_BOOTTIME)
        assert stage.aggregator.reports == [1, 2, 3, 4, 5]
        assert stage.spool.dropped == 0

    play(scene)


def test_one_acknowledgement_lets_go_of_all_before_it(tmp_path: Path) -> None:
    """The aggregator need not answer each report."""

    async def every_tenth(_: Aggregator, report: pb.Report) -> pb.StreamReportsResponse | None:
        return acknowledgement(report) if report.sequence % 10 == 0 else None

    async def scene() -> None:
        stage = Scene(tmp_path, every_tenth)
        await stage.add(200)
        async with stage.running():
            await stage.spool.drained()
        assert stage.aggregator.reports == list(range(1, 201))

    play(scene)


def test_reports_that_are_not_acknowledged_are_held_back_beyond_a_window(tmp_path: Path) -> None:
    """32 are on their way at most, of the old and of the new ones; the rest waits in the spool."""

    async def scene() -> None:
        stage = Scene(tmp_path, say_nothing)
        await stage.add(100)
        async with stage.running():
            await stage.aggregator.until(lambda: len(stage.aggregator.reports) == 32)
            assert stage.aggregator.reports == list(range(1, 33))
            await stage.add(40)
            await stage.aggregator.until(lambda: len(stage.aggregator.reports) == 64)
        assert stage.aggregator.reports[32:] == list(range(1, 33))
        assert len(stage.spool) == 140

    play(scene)


def test_a_rejection_drops_that_report_and_the_stream_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The reason is logged, and can do the log no harm."""

    async def reject_second(_: Aggregator, report: pb.Report) -> pb.StreamReportsResponse:
        return rejection(report, "bad \x1b[2J name") if report.sequence == 2 else acknowledgement(report)

    async def scene() -> None:
        stage = Scene(tmp_path, reject_second)
        await stage.add(3)
        async with stage.running():
            await stage.spool.drained()
        assert stage.aggregator.reports == [1, 2, 3]
        assert len(stage.aggregator.hellos) == 1
        assert stage.spool.dropped == 1

    with caplog.at_level(logging.ERROR):
        play(scene)
    assert [record.getMessage() for record in caplog.records] == [r"report 2 was rejected: bad \x1b[2J name"]


def test_rejections_free_their_place_in_the_window(tmp_path: Path) -> None:
    """Many in a row do not stop the stream."""

    async def reject(_: Aggregator, report: pb.Report) -> pb.StreamReportsResponse:
        return rejection(report, "no")

    async def scene() -> None:
        stage = Scene(tmp_path, reject)
        await stage.add(150)
        async with stage.running():
            await stage.spool.drained()
        assert stage.spool.dropped == 150

    play(scene)


def test_after_a_break_what_is_not_acknowledged_is_sent_again(tmp_path: Path) -> None:
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
        stage = Scene(tmp_path, break_at_fourth)
        await stage.add(4)
        stages.append(stage)
        async with stage.running():
            await stage.spool.drained()
        assert stage.aggregator.streams == [[1, 2, 3, 4], [3, 4]]
        assert len(stage.aggregator.hellos) == 2

    play(scene)


def test_an_aggregator_that_is_away_is_logged_once_and_once_when_one_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at every try. The aggregators are tried in turn."""

    async def scene() -> None:
        stage = Scene(tmp_path, acknowledge)
        await stage.add(2)
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
    assert "sampling goes on, reports are kept, and it is tried again" in messages[0]
    assert "again after" in messages[1]
    assert "2 reports to send, 0 dropped" in messages[1]


def test_a_greeting_does_not_end_the_row_of_failures(tmp_path: Path) -> None:
    """An aggregator that answers and then ends the stream is waited out longer each time."""

    async def break_twice(aggregator: Aggregator, report: pb.Report) -> pb.StreamReportsResponse:
        if len(aggregator.streams) < 3:
            raise BrokenStream
        return acknowledgement(report)

    async def scene() -> None:
        stage = Scene(tmp_path, break_twice)
        await stage.add(1)
        async with stage.running():
            await stage.spool.drained()
        assert stage.random.bounds == [2.0, 4.0]

    play(scene)


def test_a_server_that_does_not_speak_the_protocol_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
        stage = Scene(tmp_path, acknowledge)
        await stage.add(1)
        stage.aggregator = Stranger(acknowledge)
        async with stage.running():
            await stage.aggregator.until(lambda: len(stage.aggregator.reports) == 3)
        assert stage.aggregator.reports[:3] == [0, 0, 0]
        assert len(stage.spool) == 1

    with caplog.at_level(logging.WARNING, "loiter_agent"):
        play(scene)
    (record,) = [record for record in caplog.records if record.name.startswith("loiter_agent")]
    assert "does not speak this protocol" in record.getMessage()


def test_a_new_configuration_opens_a_new_stream_at_once(tmp_path: Path) -> None:
    """As the new host, without a pause."""

    async def scene() -> None:
        stage = Scene(tmp_path, acknowledge)
        await stage.add(1)
        async with stage.running():
            await stage.spool.drained()
            renamed = sample_pb2.Host(host_id=HOST.host_id, hostname="web-2")
            stage.uplink.configure((stage.address,), renamed, 5.0, Security())
            await stage.add(1)
            await stage.spool.drained()
        assert [hello.host.hostname for hello in stage.aggregator.hellos] == ["web-1", "web-2"]
        assert stage.random.bounds == []

    play(scene)


def test_an_uplink_that_is_cancelled_ends_its_stream(tmp_path: Path) -> None:
    """Nothing goes on behind its back."""

    async def scene() -> None:
        stage = Scene(tmp_path, say_nothing)
        await stage.add(1)
        async with stage.running():
            await stage.aggregator.until(lambda: stage.aggregator.reports == [1])
            others = len(asyncio.all_tasks())
        assert stage.task.cancelled()
        assert len(asyncio.all_tasks()) < others

    play(scene)


def test_one_cancellation_ends_an_uplink_that_finds_nobody_at_whatever_moment_it_comes(tmp_path: Path) -> None:
    """Its waits are of no length here, so that the cancellation also comes as one of them runs out."""

    async def scene() -> None:
        spool = Spool(HOST.host_id, "boot", tmp_path, 64_000_000, 86_400.0)
        for moment in range(120):
            uplink = Uplink(spool, NoWait())
            uplink.configure(("127.0.0.1:1",), HOST, 10.0, Security())
            task = asyncio.create_task(uplink.run())
            for _ in range(moment):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait((task,), timeout=TIMEOUT_SECONDS)
            assert done, f"still running, cancelled at {moment}"
        await spool.close()

    play(scene)


# Old reports and new ones


def epochs_of(stage: Scene) -> list[tuple[int, int]]:
    """Epoch and sequence of each report that arrived."""
    return [
        (request.report.spool_epoch, request.report.sequence)
        for request in stage.aggregator.requests
        if request.WhichOneof("request") == "report"
    ]


def test_new_reports_do_not_wait_for_old_ones(tmp_path: Path) -> None:
    """However many those are; and the old ones come in their order, 20 a second."""

    async def scene() -> None:
        gate = Gate()
        stage = Scene(tmp_path, acknowledge, gate)
        await stage.add(200)
        async with stage.running():
            await stage.new_epoch()
            await stage.add(3)
            await stage.aggregator.until(lambda: len(stage.aggregator.reports) == 3)
            arrived = epochs_of(stage)
            live = arrived[0][0]
            assert live != stage.spool.instance
            assert arrived == [(live, 1), (live, 2), (live, 3)]
            gate.open.set()
            await stage.aggregator.until(lambda: len(stage.aggregator.reports) == 100)
            await stage.add(2)
            await stage.spool.drained()
        arrived = epochs_of(stage)
        old = [number for epoch, number in arrived if epoch == stage.spool.instance]
        assert old == list(range(1, 201))
        assert [number for epoch, number in arrived if epoch == live] == [1, 2, 3, 4, 5]
        assert arrived.index((live, 5)) < arrived.index((stage.spool.instance, 200))
        assert gate.now == pytest.approx(199 / 20)
        (hello,) = stage.aggregator.hellos
        assert [(one.spool_epoch, one.sequence) for one in hello.settled] == [(stage.spool.instance, 0)]

    play(scene)


def test_what_a_former_agent_left_is_sent_with_its_losses(tmp_path: Path) -> None:
    """Epoch after epoch, beside the new ones; a loss takes the place of what was dropped."""

    async def scene() -> None:
        former = Spool(HOST.host_id, "boot", tmp_path, 2_000, 86_400.0)
        for _ in range(30):
            await former.append(sample_pb2.Sample(collectors=[sample_pb2.CollectorStatus(name="x" * 100)]), 1.0)
        dropped = former.dropped
        assert 0 < dropped < 30
        await former.close()
        stage = Scene(tmp_path, acknowledge)
        await stage.add(2)
        async with stage.running():
            await stage.spool.drained()
        arrived = epochs_of(stage)
        assert [number for epoch, number in arrived if epoch == former.instance] == list(range(dropped, 31))
        assert [number for epoch, number in arrived if epoch == stage.spool.instance] == [1, 2]
        (loss,) = [request.report for request in stage.aggregator.requests if request.report.HasField("loss")]
        assert (loss.loss.first_sequence, loss.sequence) == (1, dropped)
        (hello,) = stage.aggregator.hellos
        assert {one.spool_epoch: one.sequence for one in hello.settled} == {stage.spool.instance: 0, former.instance: 0}

    play(scene)


def test_what_can_not_be_read_at_the_moment_is_sent_with_the_next_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same stream, in its order; the disk is not asked again and again meanwhile."""
    read = SpoolFile.read
    failures: list[int] = []

    def failing(file: SpoolFile, epoch: int, after: int) -> list[pb.Report]:
        if epoch == stages[0].spool.instance and after == 16:
            failures.append(after)
            raise Unwritable("disk I/O error")
        return read(file, epoch, after)

    stages: list[Scene] = []

    async def scene() -> None:
        stage = Scene(tmp_path, acknowledge)
        stages.append(stage)
        await stage.add(40)
        async with stage.running():
            await stage.aggregator.until(lambda: len(stage.aggregator.reports) == 16)
            while len(stage.spool) > 24 or not failures:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0)
            for _ in range(1_000):
                await asyncio.sleep(0)
            assert len(failures) <= 1 + 16, "once, and once for each acknowledgement"
            monkeypatch.undo()
            await stage.add(1)
            await stage.spool.drained()
        assert len(stage.aggregator.hellos) == 1
        old = [number for epoch, number in epochs_of(stage) if epoch == stage.spool.instance]
        assert old == list(range(1, 41))

    monkeypatch.setattr(SpoolFile, "read", failing)
    play(scene)


def test_a_backlog_that_is_only_there_after_a_while_is_sent_on_the_same_stream(tmp_path: Path) -> None:
    """As that on a disk that is mounted after the agent has started."""

    async def scene() -> None:
        former = Spool(HOST.host_id, "boot", tmp_path / "former", 64_000_000, 86_400.0)
        for _ in range(3):
            await former.append(sample_pb2.Sample(), 1.0)
        await former.close()
        directory = tmp_path / "state"
        directory.write_text("in the way")
        stage = Scene(directory, acknowledge)
        await stage.add(2)
        async with stage.running():
            await stage.spool.drained()
            directory.unlink()
            (tmp_path / "former").rename(directory)
            await stage.add(1)
            await stage.spool.drained()
        assert len(stage.aggregator.hellos) == 1
        arrived = epochs_of(stage)
        assert [number for epoch, number in arrived if epoch == former.instance] == [1, 2, 3]
        assert [number for epoch, number in arrived if epoch == stage.spool.instance] == [1, 2, 3]

    play(scene)


def test_no_new_epoch_is_begun_where_no_aggregator_lets_the_agent_in(tmp_path: Path) -> None:
    """None answers, or one refuses: a long outage would make thousands."""

    async def scene() -> None:
        stage = Scene(tmp_path, acknowledge)
        await stage.add(50)
        stage.aggregator.refusals.extend(BrokenStream(grpc.StatusCode.UNAUTHENTICATED, "who?") for _ in range(3))
        async with stage.running(*["127.0.0.1:1"] * 5):
            await stage.spool.drained()
        assert len(stage.aggregator.hellos) == 4
        for hello in stage.aggregator.hellos:
            assert [one.spool_epoch for one in hello.settled] == [stage.spool.instance]

    play(scene)


def test_an_acknowledgement_of_what_was_never_sent_lets_go_of_nothing(tmp_path: Path) -> None:
    """An aggregator in error does not empty the spool."""

    async def exaggerate(_: Aggregator, report: pb.Report) -> pb.StreamReportsResponse:
        ack = pb.ReportAck(spool_epoch=report.spool_epoch, sequence=report.sequence + 1_000)
        return pb.StreamReportsResponse(report_ack=ack)

    async def scene() -> None:
        stage = Scene(tmp_path, exaggerate, Gate())
        await stage.add(17)
        async with stage.running():
            await stage.new_epoch()
            await stage.add(1)
            while len(stage.spool) == 18:  # noqa: ASYNC110 - the acknowledgement is on its way
                await asyncio.sleep(0)
            assert len(stage.spool) == 17

    play(scene)


# Refusals


def retry_info(
    seconds: float, code: grpc.StatusCode = grpc.StatusCode.RESOURCE_EXHAUSTED
) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata in which an aggregator says when to come back."""
    info = RetryInfo()
    info.retry_delay.FromMilliseconds(round(seconds * 1_000))
    status = Status(code=code.value[0])
    status.details.add().Pack(info)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def test_an_aggregator_with_too_much_to_do_is_left_alone_for_as_long_as_it_asks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At least; and no error is made of it."""

    async def scene() -> None:
        stage = Scene(tmp_path, acknowledge)
        await stage.add(1)
        stage.aggregator.refusals.append(
            BrokenStream(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams", retry_info(0.3))
        )
        began = monotonic()
        async with stage.running():
            await stage.spool.drained()
        assert monotonic() - began >= 0.3
        assert stage.random.bounds == [2.0]
        assert len(stage.aggregator.hellos) == 2

    with caplog.at_level(logging.INFO, "loiter_agent"):
        play(scene)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "RESOURCE_EXHAUSTED: too many streams" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.INVALID_ARGUMENT,
    ],
)
def test_a_refusal_is_an_error_that_says_which_once_and_it_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: grpc.StatusCode
) -> None:
    """After the longest wait, since somebody has to mend it; no restart is needed. Nothing is lost meanwhile."""

    async def scene() -> None:
        stage = Scene(tmp_path, acknowledge)
        await stage.add(3)
        stage.aggregator.refusals += [BrokenStream(code, "the first"), BrokenStream(code, "the first")]
        stage.aggregator.refusals += [BrokenStream(code, "the \x1b[2J second")]
        async with stage.running():
            await stage.spool.drained()
        assert stage.random.bounds == [30.0, 30.0, 30.0]
        assert stage.aggregator.reports == [1, 2, 3]
        assert stage.spool.dropped == 0

    with caplog.at_level(logging.INFO, "loiter_agent"):
        play(scene)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "INFO"]
    first, second, back = (record.getMessage() for record in caplog.records)
    assert f"{code.name}: the first" in first
    assert rf"{code.name}: the \x1b[2J second" in second
    assert "again after" in back


def test_who_is_refused_by_one_aggregator_tries_the_others_soon(tmp_path: Path) -> None:
    """Another may know better: it is not waited for as where all refuse."""

    async def scene() -> None:
        stage = Scene(tmp_path, acknowledge)
        await stage.add(1)
        refusing = Aggregator(acknowledge)
        refusing.refusals.append(BrokenStream(grpc.StatusCode.PERMISSION_DENIED, "no"))
        server = grpc.aio.server()
        add_IngestServiceServicer_to_server(refusing, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with stage.running(f"127.0.0.1:{port}"):
            await stage.spool.drained()
        await server.stop(None)
        assert stage.random.bounds == [2.0]
        assert len(refusing.hellos) == 1
        assert refusing.reports == []

    play(scene)


def test_where_an_aggregator_stops_the_next_one_is_tried_within_a_second(tmp_path: Path) -> None:
    """As in a rolling restart; what it did not acknowledge goes to the other."""

    async def scene() -> None:
        async def acknowledge_three(_: Aggregator, report: pb.Report) -> pb.StreamReportsResponse:
            while report.sequence == 4 and len(stage.spool) > 1:  # noqa: ASYNC110 - acknowledgements are on their way
                await asyncio.sleep(0)
            if report.sequence == 4:
                raise BrokenStream(metadata=retry_info(0.0, grpc.StatusCode.UNAVAILABLE))
            return acknowledgement(report)

        stage = Scene(tmp_path, acknowledge)
        await stage.add(4)
        stopping = Aggregator(acknowledge_three)
        server = grpc.aio.server()
        add_IngestServiceServicer_to_server(stopping, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with stage.running(f"127.0.0.1:{port}"):
            await stage.spool.drained()
        await server.stop(None)
        assert stage.random.bounds == [1.0]
        assert stopping.reports == [1, 2, 3, 4]
        assert stage.aggregator.reports == [4]
        (hello,) = stage.aggregator.hellos
        assert [one.sequence for one in hello.settled] == [3]

    play(scene)


def test_what_the_agent_is_to_show_is_read_for_each_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is missing is an error that names it, and mended without a restart."""

    async def scene() -> None:
        token = tmp_path / "token"
        stage = Scene(tmp_path / "state", acknowledge)
        await stage.add(1)
        stage.security = Security(token_file=token)
        async with stage.running():
            while len(stage.random.bounds) < 3:  # noqa: ASYNC110 - it is tried again and again
                await asyncio.sleep(0)
            assert stage.aggregator.hellos == []
            token.write_text("loiter_0123abcd_" + "5" * 64 + "\n")
            token.chmod(0o600)
            await stage.spool.drained()
        assert stage.aggregator.metadata[-1]["authorization"] == "Bearer loiter_0123abcd_" + "5" * 64

    with caplog.at_level(logging.INFO, "loiter_agent"):
        play(scene)
    ours = [record for record in caplog.records if record.name.startswith("loiter_agent.uplink")]
    assert [record.levelname for record in ours] == ["ERROR", "INFO"]
    assert str(tmp_path / "token") in ours[0].getMessage()
