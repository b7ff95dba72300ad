"""One open stream: sends what the spool holds in two lanes, and takes in what the aggregator answers.

New reports go by the live lane, in the epoch that they are numbered in now. What waited when the stream was opened, in
earlier epochs, goes by the other, in order, and not faster than an aggregator with a whole fleet to catch up with can
bear: so old reports never hold up new ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import grpc

from loiter.text import printable
from loiter.v1 import ingest_service_pb2 as pb
from loiter_agent.spool import Spool

_log = logging.getLogger(__name__)

# Reports on their way, in each lane: enough to keep a stream busy, few enough to send again.
_WINDOW: Final = 32
_BACKLOG_PER_SECOND: Final = 20.0

Call = grpc.aio.StreamStreamCall[pb.StreamReportsRequest, pb.StreamReportsResponse]


class Ended(Exception):
    """A call is over. The message says why; `retry_after` is what the aggregator asked for, in seconds."""

    def __init__(self, code: grpc.StatusCode | None, reason: str, retry_after: float = 0.0) -> None:
        """Takes the status, None where there is none."""
        super().__init__(reason)
        self.code = code
        self.retry_after = retry_after

    @classmethod
    async def of(cls, call: Call) -> Ended:
        """Says why the aggregator ended a call."""
        return _ended(await call.code(), await call.details(), await call.trailing_metadata())


def status_of(error: grpc.aio.AioRpcError) -> Ended:
    """The same of an error that a call raised."""
    return _ended(error.code(), error.details(), error.trailing_metadata())


def _ended(code: grpc.StatusCode, details: str | None, metadata: grpc.aio.Metadata | None) -> Ended:
    reason = f"{code.name}: {details}" if details else code.name
    return Ended(code, reason, _retry_after(metadata) if code is grpc.StatusCode.RESOURCE_EXHAUSTED else 0.0)


def _retry_after(metadata: grpc.aio.Metadata | None) -> float:
    """Reads google.rpc.RetryInfo in the status details; 0 where there is none."""
    # Late: most agents never need them.
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    for key, value in metadata or ():
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        try:
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return max(0.0, float(info.retry_delay.ToNanoseconds()) / 1e9)
        except DecodeError:
            return 0.0
    return 0.0


async def send(call: Call, request: pb.StreamReportsRequest) -> None:
    """Sends a message, with the time since the boot at which it goes."""
    request.sent_since_boot.FromNanoseconds(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    await call.write(request)


class _Lane:
    """Reports of one epoch after the other, a bounded number of them on their way."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_WINDOW)
        self._on_their_way: deque[tuple[int, int]] = deque()

    async def enter(self, epoch: int, sequence: int) -> None:
        """Waits until one more may be on its way."""
        await self._room.acquire()
        self._on_their_way.append((epoch, sequence))

    def acknowledged(self, epoch: int, sequence: int) -> None:
        """All of an epoch up to a sequence have arrived."""
        while self._on_their_way:
            first_epoch, first = self._on_their_way[0]
            if first_epoch != epoch or first > sequence:
                return
            self._on_their_way.popleft()
            self._room.release()

    def rejected(self, epoch: int, sequence: int) -> None:
        """One was not taken."""
        if (epoch, sequence) in self._on_their_way:
            self._on_their_way.remove((epoch, sequence))
            self._room.release()


class Lanes:
    """One open stream."""

    def __init__(
        self,
        call: Call,
        spool: Spool,
        on_first_ack: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Takes a call whose hello was acknowledged."""
        self._call = call
        self._spool = spool
        self._on_first_ack = on_first_ack
        self._sleep = sleep
        self._live, self._backlog = _Lane(), _Lane()
        self._writing = asyncio.Lock()
        self._acknowledged = False
        self._rejections = 0

    async def run(self) -> None:
        """Delivers until the stream ends. Raises Ended, or AioRpcError, with the reason."""
        live = self._spool.epoch
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_live(live))
                tasks.create_task(self._send_backlog(live))
                tasks.create_task(self._receive())
        except ExceptionGroup as group:
            if self._call.done():  # then the status of the call says why
                raise await Ended.of(self._call) from None
            raise group.exceptions[0] from None

    async def _send_live(self, epoch: int) -> None:
        sent = 0
        while True:
            change = self._spool.change
            reports = await self._spool.read(epoch, sent)
            for report in reports:
                await self._send(self._live, report)
                sent = report.sequence
            if self._spool.epoch != epoch:  # its file was lost: what is left is to be sent as a backlog
                raise Ended(None, "the spool had to begin anew")
            if not reports:
                await change.wait()

    async def _send_backlog(self, live: int) -> None:
        for position in await self._spool.positions():
            sent = 0
            while position.epoch != live and (reports := await self._spool.read(position.epoch, sent)):
                for report in reports:
                    await self._send(self._backlog, report)
                    sent = report.sequence
                    await self._sleep(1 / _BACKLOG_PER_SECOND)

    async def _send(self, lane: _Lane, report: pb.Report) -> None:
        await lane.enter(report.spool_epoch, report.sequence)
        async with self._writing:
            await send(self._call, pb.StreamReportsRequest(report=report))

    async def _receive(self) -> None:
        while True:
            answer = await self._call.read()
            if not isinstance(answer, pb.StreamReportsResponse):  # grpc.aio.EOF
                raise await Ended.of(self._call)
            kind = answer.WhichOneof("response")
            if kind == "report_ack":
                await self._on_ack(answer.report_ack)
            elif kind == "report_rejection":
                await self._on_rejection(answer.report_rejection)

    async def _on_ack(self, ack: pb.ReportAck) -> None:
        if not self._acknowledged:
            self._acknowledged = True
            self._on_first_ack()
        await self._spool.acknowledge(ack.spool_epoch, ack.sequence)
        for lane in (self._live, self._backlog):
            lane.acknowledged(ack.spool_epoch, ack.sequence)

    async def _on_rejection(self, rejection: pb.ReportRejection) -> None:
        await self._spool.reject(rejection.spool_epoch, rejection.sequence)
        for lane in (self._live, self._backlog):
            lane.rejected(rejection.spool_epoch, rejection.sequence)
        self._rejections += 1
        if self._rejections == 1:  # said once; each report says how many were dropped
            _log.error("report %d was rejected: %s", rejection.sequence, printable(rejection.reason))
