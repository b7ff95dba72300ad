"""One open stream to an aggregator: sends what the spool holds, and takes in what the aggregator answers.

Reports go in two lanes. New ones are sent at once. Those that wait in older epochs go beside them, at a bounded rate
and within a bound of their own, so that they never hold up the new ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from loiter.logs import fields
from loiter.text import printable
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import socket_pb2
from loiter_agent.clock import since_boot
from loiter_agent.failure import Call, failure_of
from loiter_agent.spool import Spool
from loiter_agent.spool_file import Position

_log = logging.getLogger(__name__)

# Reports on their way, of each lane: enough to keep a stream busy, few enough to resend.
WINDOW: Final = 32
# Questions that wait for their answer.
_MAX_QUERIES: Final = 4
# Old reports an agent sends a second: a day's at 10 s in seven minutes, and 1,000 agents are not too many at a time.
BACKLOG_RATE: Final = 20.0

AnswerSockets = Callable[[socket_pb2.SocketQuery], Awaitable[socket_pb2.SocketAnswer]]


class Pace:
    """Spreads out what is done: so many times a second at most."""

    def __init__(self, rate: float, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        """Takes the rate by the second, a clock in seconds, and how to sleep."""
        self._gap = 1 / rate
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    async def wait(self) -> None:
        """Returns when it is time for the next."""
        now = self._clock()
        due = max(now, self._next)
        self._next = due + self._gap
        await self._sleep(due - now)


class Lane:
    """What of a lane is on its way: sent, and not yet answered."""

    def __init__(self) -> None:
        self._in_flight: list[tuple[int, int]] = []
        self._window = asyncio.Semaphore(WINDOW)

    async def enter(self, report: pb.Report) -> None:
        """Returns once another report may be on its way."""
        await self._window.acquire()
        self._in_flight.append((report.spool_epoch, report.sequence))

    def last_sent(self, epoch: int) -> int:
        """The last of an epoch that is on its way; 0 where none is."""
        return max((number for of, number in self._in_flight if of == epoch), default=0)

    def landed(self, epoch: int, first: int, last: int) -> int:
        """Lets others take the place of reports of an epoch. Returns how many those were."""
        staying = [(of, number) for of, number in self._in_flight if of != epoch or not first <= number <= last]
        landed = len(self._in_flight) - len(staying)
        for _ in range(landed):
            self._window.release()
        self._in_flight = staying
        return landed


class Stream:
    """A stream whose hello was acknowledged."""

    def __init__(
        self,
        call: Call,
        spool: Spool,
        live: Position,
        pace: Pace,
        on_first_ack: Callable[[], None],
        on_acknowledged: Callable[[int], None],
        answer: AnswerSockets | None = None,
    ) -> None:
        """Takes where new reports begin, the pace of the old ones, and whom to tell how many were acknowledged.

        `answer` is what answers questions for sockets; without, they are refused.
        """
        self._call = call
        self._spool = spool
        self._pace = pace
        self._on_first_ack = on_first_ack
        self._on_acknowledged = on_acknowledged
        self._acknowledged = False
        self._rejected = 0
        self._begin = live
        self._live = Lane()
        self._backlog = Lane()
        self._writing = asyncio.Lock()
        self._answer = answer or _refuse
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Sends and receives until the stream ends. Raises Failure, or what broke it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(tasks))
            tasks.create_task(self._send_live())
            tasks.create_task(self._send_backlog())

    async def _send_live(self) -> None:
        epoch, sequence = self._begin.epoch, self._begin.sequence
        while True:
            for report in await self._spool.read_live(epoch, sequence):
                await self._send(self._live, report)
                epoch, sequence = report.spool_epoch, report.sequence

    async def _send_backlog(self) -> None:
        """Sends what waits in epochs but the live one, for as long as the stream lasts.

        With each change of the spool it looks again: the disk may not have let it read all, or may only now be there.
        """
        sent: dict[int, int] = {}
        while True:
            change = self._spool.change()
            for position in (await self._spool.lanes()).backlog:
                await self._send_epoch(position, sent)
            await change.wait()

    async def _send_epoch(self, position: Position, sent: dict[int, int]) -> None:
        """Sends what can be read of an epoch behind what was sent of it."""
        epoch = position.epoch
        while reports := await self._spool.read(epoch, max(position.sequence, sent.get(epoch, 0))):
            for report in reports:
                await self._pace.wait()
                await self._send(self._backlog, report)
                sent[epoch] = report.sequence

    async def _send(self, lane: Lane, report: pb.Report) -> None:
        await lane.enter(report)
        request = pb.StreamReportsRequest(report=report)
        async with self._writing:  # gRPC takes one message at a time
            await write(self._call, request)

    async def _receive(self, tasks: asyncio.TaskGroup) -> None:
        """Takes in acknowledgements, rejections and questions until the aggregator ends the stream."""
        while True:
            answer = await self._call.read()
            if not isinstance(answer, pb.StreamReportsResponse):  # grpc.aio.EOF
                raise await failure_of(self._call)
            kind = answer.WhichOneof("response")
            if kind == "report_ack":
                await self._acknowledge(answer.report_ack)
            elif kind == "report_rejection":
                await self._reject(answer.report_rejection)
            elif kind == "socket_query" and len(self._answering) < _MAX_QUERIES:  # it asks one at a time
                answering = tasks.create_task(self._answer_query(answer.socket_query))
                self._answering.add(answering)
                answering.add_done_callback(self._answering.discard)

    async def _answer_query(self, query: socket_pb2.SocketQuery) -> None:
        """Answers a question, beside the reports."""
        request = pb.StreamReportsRequest(socket_answer=await self._answer(query))
        async with self._writing:
            await write(self._call, request)

    async def _acknowledge(self, ack: pb.ReportAck) -> None:
        # No further than it was sent: an aggregator can not take what it was not given.
        sequence = min(ack.sequence, max(lane.last_sent(ack.spool_epoch) for lane in (self._live, self._backlog)))
        if not sequence:
            return
        if not self._acknowledged:
            self._acknowledged = True
            self._on_first_ack()
        await self._spool.acknowledge(ack.spool_epoch, sequence)
        self._on_acknowledged(self._landed(ack.spool_epoch, 0, sequence))

    async def _reject(self, rejection: pb.ReportRejection) -> None:
        epoch, sequence = rejection.spool_epoch, rejection.sequence
        self._rejected += 1
        if self._rejected == 1:  # said once; each report says how many were dropped
            reason = printable(rejection.reason)
            facts = fields(epoch=epoch, sequence=sequence, reason=reason)
            _log.error("report %d was rejected: %s", sequence, reason, extra=facts)
        await self._spool.reject(epoch, sequence)
        self._landed(epoch, sequence, sequence)

    def _landed(self, epoch: int, first: int, last: int) -> int:
        return sum(lane.landed(epoch, first, last) for lane in (self._live, self._backlog))


async def _refuse(query: socket_pb2.SocketQuery) -> socket_pb2.SocketAnswer:
    return socket_pb2.SocketAnswer(query_id=query.query_id, error="it is set not to (answer_sockets)")


async def write(call: Call, request: pb.StreamReportsRequest) -> None:
    """Sends a message with the time at which it is sent, which is therefore read last."""
    request.sent_since_boot.FromNanoseconds(round(since_boot() * 1e9))
    await call.write(request)
