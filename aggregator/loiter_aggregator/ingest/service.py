"""Serves IngestService: one stream for each agent."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from loiter.durations import format_duration
from loiter.text import printable
from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.clock import Clock, from_duration, from_timestamp, to_timestamp
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.validation import Invalid, check_hello, check_report
from loiter_aggregator.store.batch import HostRecord, key_of

_log = logging.getLogger(__name__)

SERVICE: Final = pb.DESCRIPTOR.services_by_name["IngestService"].full_name

_HELLO_TIMEOUT_SECONDS: Final = 10.0
_STOPPING: Final = "the aggregator is stopping"

# Less may be the time that a hello was on its way.
_TOLERATED_SKEW_MS: Final = 5_000

_Context = grpc.aio.ServicerContext[bytes, pb.StreamReportsResponse]


class IngestService:
    """Takes in the reports of agents."""

    def __init__(self, batcher: Batcher, clock: Clock) -> None:
        """Takes the batcher that reports go to."""
        self._batcher = batcher
        self._clock = clock
        self._streams: set[asyncio.Task[None]] = set()
        self._ended: set[asyncio.Task[None]] = set()
        self._why_ended = "connect again"
        self._stopping = False
        batcher.on_reset = self._end_streams

    def handler(self) -> grpc.GenericRpcHandler:
        """Builds the handler to register with a server.

        It leaves messages as bytes: one that can not be decoded is then a matter of that report, where the generated
        handler would end the stream.
        """
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamReports": grpc.stream_stream_rpc_method_handler(
                    self.stream_reports,
                    request_deserializer=None,
                    response_serializer=pb.StreamReportsResponse.SerializeToString,
                )
            },
        )

    async def end_streams(self) -> None:
        """Ends every stream, after what is to be acknowledged has been; agents connect again later."""
        self._stopping = True
        self._why_ended = _STOPPING
        self._end_streams()
        await asyncio.gather(*self._streams, return_exceptions=True)

    def _end_streams(self) -> None:
        for stream in self._streams:
            self._ended.add(stream)
            stream.cancel()

    async def stream_reports(self, _: object, context: _Context) -> None:
        """Serves one stream from its hello to its end."""
        if self._stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, _STOPPING)
        answers = _Answers(context)
        stream = asyncio.create_task(self._serve(context, answers))
        self._streams.add(stream)
        try:
            await stream
        except asyncio.CancelledError:
            if stream not in self._ended:
                raise
            await answers.flush()
            await context.abort(grpc.StatusCode.UNAVAILABLE, self._why_ended)
        finally:
            self._streams.discard(stream)
            self._ended.discard(stream)

    async def _serve(self, context: _Context, answers: _Answers) -> None:
        hello = await self._hello(context)
        host_key = key_of(hello.host.host_id)
        skew = self._skew(hello)
        await context.write(
            pb.StreamReportsResponse(hello_ack=pb.HelloAck(aggregator_time=to_timestamp(self._clock())))
        )
        answering = asyncio.create_task(answers.run())
        rejected = 0
        try:
            while isinstance(data := await context.read(), bytes):  # until grpc.aio.EOF
                report = pb.Report()
                try:
                    report = _decode_report(data)
                    check_report(report, hello.host.host_id)
                except Invalid as error:
                    self._batcher.counters.rejected += 1
                    rejected += 1
                    if rejected == 1:  # the rest is counted, and said when the stream ends
                        _log.warning("report of %s rejected: %s", printable(hello.host.hostname), error)
                    await answers.reject(report, error)
                    continue
                await self._batcher.put(host_key, report, answers.acknowledge, skew)
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)  # a stream that broke is no error of ours
            if rejected > 1:
                _log.warning("%d reports of %s rejected in all", rejected, printable(hello.host.hostname))

    def _skew(self, hello: pb.Hello) -> int:
        """How far the host's clock is behind ours, in milliseconds; 0 where the difference may be the network's."""
        if not hello.HasField("agent_time"):
            return 0
        skew = self._clock() - from_timestamp(hello.agent_time)
        if abs(skew) < _TOLERATED_SKEW_MS:
            return 0
        name, size = printable(hello.host.hostname), format_duration(abs(skew) / 1_000)
        _log.warning("the clock of %s is %s %s; its samples are set right", name, size, "slow" if skew > 0 else "fast")
        return skew

    async def _hello(self, context: _Context) -> pb.Hello:
        try:
            data = await asyncio.wait_for(context.read(), _HELLO_TIMEOUT_SECONDS)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came")
        try:
            if not isinstance(data, bytes):  # grpc.aio.EOF
                raise Invalid("the stream ended without a hello")
            request = _decode(data)
            if request.WhichOneof("request") != "hello":
                raise Invalid("the first message is not a hello")
            check_hello(request.hello)
        except Invalid as error:
            self._batcher.counters.rejected += 1
            _log.warning("stream of %s refused: %s", context.peer(), error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        hello = request.hello
        record = HostRecord(
            host_key=key_of(hello.host.host_id),
            host_id=hello.host.host_id,
            hostname=hello.host.hostname,
            boot_id=hello.host.boot_id,
            agent_version=hello.host.agent_version,
            kernel_release=hello.host.kernel_release,
            interval_ms=from_duration(hello.interval),
            labels=dict(hello.host.labels),
        )
        self._batcher.put_host(record)
        return hello


class _Answers:
    """What goes back on one stream. Acknowledgements are merged while they wait, so nothing here can pile up."""

    def __init__(self, context: _Context) -> None:
        self._context = context
        self._acknowledged: dict[int, int] = {}  # epoch → sequence
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Has an acknowledgement sent soon."""
        self._acknowledged[epoch] = sequence
        self._changed.set()

    async def reject(self, report: pb.Report, error: Invalid) -> None:
        """Sends a rejection. Waits where the agent does not read its answers: it is then read no further either."""
        rejection = pb.ReportRejection(
            spool_epoch=report.spool_epoch,
            sequence=report.sequence,
            code=grpc.StatusCode.INVALID_ARGUMENT.value[0],
            reason=str(error),
        )
        async with self._writing:
            await self._context.write(pb.StreamReportsResponse(report_rejection=rejection))

    async def run(self) -> None:
        """Sends acknowledgements until it is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.flush()

    async def flush(self) -> None:
        """Sends the acknowledgements that wait."""
        while self._acknowledged:
            epoch, sequence = self._acknowledged.popitem()
            ack = pb.ReportAck(spool_epoch=epoch, sequence=sequence)
            async with self._writing:
                await self._context.write(pb.StreamReportsResponse(report_ack=ack))


def _decode(data: bytes) -> pb.StreamReportsRequest:
    try:
        return pb.StreamReportsRequest.FromString(data)
    except DecodeError:
        raise Invalid("the message is not a StreamReportsRequest, or is cut short") from None


def _decode_report(data: bytes) -> pb.Report:
    request = _decode(data)
    if request.WhichOneof("request") != "report":
        raise Invalid("the message is not a report")
    return request.report
