"""One simulated agent: a stream of its own, on a connection that it may share with others."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import grpc

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.simulation.counts import Board, Count
from loiter_aggregator.simulation.encoding import Messages, Reports, hello
from loiter_aggregator.simulation.hosts import SimulatedHost
from loiter_aggregator.simulation.life import Run
from loiter_aggregator.simulation.plan import Plan
from loiter_aggregator.simulation.retry import Broken, Retry, why_over

# Reports on their way: as many as an agent has.
_WINDOW: Final = 32
_HELLO_SECONDS: Final = 30.0

Call = grpc.aio.StreamStreamCall[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Shared:
    """What the senders of a worker have in common. `gate` bounds how many of them open a stream at a time."""

    plan: Plan
    board: Board
    messages: Messages
    gate: asyncio.Semaphore
    complain: Callable[[str], None]


class _Sent(NamedTuple):
    """A report on its way. One that was `late` tells nothing of how long acknowledgements take."""

    epoch: int
    sequence: int
    tick: int
    late: bool


class Sender:
    """Delivers the reports of one host, from where they were settled last.

    What is not acknowledged need not be kept: it is made again, just as it was.
    """

    def __init__(self, shared: Shared, number: int, open_stream: Callable[[], Call]) -> None:
        """Takes the number of the host, and how to open a stream."""
        self._shared, self._board, self._open = shared, shared.board, open_stream
        self._host = SimulatedHost(shared.plan, number)
        self._reports: Reports | None = None
        self._place = number - 1
        self._retry = Retry(self._host.key)
        self._in_flight: deque[_Sent] = deque()
        self._over: Broken | None = None
        self._stopping = False
        self._late = True
        self._had_broken = False
        self._alarm: asyncio.Future[None] | None = None
        self._answer: asyncio.Future[None] | None = None

    def stop(self) -> None:
        """Has `run` send nothing new, and return once all that was sent is settled."""
        self._stopping = True
        self._rouse()

    async def run(self) -> None:
        """Delivers until the host falls silent, or it is told to stop."""
        while not self._is_done():
            run = self._present_run()
            if run is None:
                await self._until(self._next_tick())
                continue
            try:
                call = await self._connect(run)
                try:
                    await self._deliver(call, run)
                finally:
                    self._board.add(Count.STREAMS, -1)
                    call.cancel()
            except Broken as broken:
                self._had_broken = True
                self._shared.complain(str(broken))
                await self._until(_now() + round(1_000 * self._retry.seconds(broken)))
        if not self._stopping:
            self._board.end(self._place)

    def _is_done(self) -> bool:
        settled, end = self._board.settled[self._place], self._host.life.end
        if self._stopping:
            return settled >= self._board.sent[self._place]
        return end is not None and settled >= end

    def _present_run(self) -> Run | None:
        """The run of this moment, where there is something to send and the host is up."""
        latest, life, settled = self._host.latest_tick(_now()), self._host.life, self._board.settled
        # There are no reports of ticks at which it was down.
        while settled[self._place] <= latest and life.run(settled[self._place]) is None:
            settled[self._place] += 1
        return life.run(latest) if settled[self._place] <= latest else None

    def _next_tick(self) -> int:
        return self._host.time_of(max(self._host.latest_tick(_now()) + 1, self._board.settled[self._place]))

    async def _connect(self, run: Run) -> Call:
        """Opens a stream as the agent of a run. Raises Broken."""
        async with self._shared.gate:
            call = self._open()
            try:
                async with asyncio.timeout(_HELLO_SECONDS):
                    await call.write(self._hello(run))
                    answer = await call.read()
            except TimeoutError:
                call.cancel()
                raise Broken(f"no answer within {_HELLO_SECONDS:.0f} s") from None
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                raise await why_over(call) from None
            if not isinstance(answer, bytes):  # grpc.aio.EOF
                raise await why_over(call)
        self._board.add(Count.STREAMS)
        if self._had_broken:
            self._had_broken = False
            self._board.add(Count.RECONNECTS)
        return call

    def _hello(self, run: Run) -> bytes:
        host, now, first = self._host, _now(), self._board.settled[self._place]
        settled = [
            (host.epoch(one), max(0, one.sequence(first) - 1)) for one in host.life.runs(first, host.latest_tick(now))
        ]
        return hello(self._shared.plan, host, run, settled, now)

    async def _deliver(self, call: Call, run: Run) -> None:
        """Sends what there is, and what comes, until the run is over. Raises Broken."""
        self._in_flight.clear()
        self._over = None
        reading = asyncio.create_task(self._read(call))
        try:
            await self._send(call, run)
            while self._in_flight:
                await self._answered()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await why_over(call) from None
        finally:
            reading.cancel()

    async def _send(self, call: Call, run: Run) -> None:
        host, board, place = self._host, self._board, self._place
        reports = self._reports = self._reports or Reports(self._shared.plan, host, self._shared.messages)
        tick = board.settled[place]
        while tick != host.life.end and not (self._stopping and tick >= board.sent[place]):
            due, now = host.time_of(tick), _now()
            if due > now:
                self._late = False
                await self._until(due)
                self._check()
                continue
            of = host.life.run(tick)
            if tick >= run.first_tick and (of is None or of.number != run.number):
                return
            if of is not None:
                while len(self._in_flight) >= _WINDOW:
                    await self._answered()
                report = reports.report(tick, of, now - run.booted)
                self._in_flight.append(_Sent(host.epoch(of), of.sequence(tick), tick, self._late))
                self._count(tick, len(report))
                await call.write(report)
            tick += 1

    def _count(self, tick: int, size: int) -> None:
        board = self._board
        if tick < board.sent[self._place]:
            board.add(Count.RESENT)
            return
        board.sent[self._place] = tick + 1
        board.add(Count.SENT)
        board.add_size(size)

    async def _read(self, call: Call) -> None:
        """Takes in what the aggregator answers until the stream is over."""
        try:
            while isinstance(data := await call.read(), bytes):  # until grpc.aio.EOF
                answer = pb.StreamReportsResponse.FromString(data)
                if answer.HasField("report_ack"):
                    self._acknowledge(answer.report_ack.spool_epoch, answer.report_ack.sequence)
                elif answer.HasField("report_rejection"):
                    self._reject(answer.report_rejection)
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(None)
        except grpc.aio.AioRpcError:
            pass
        self._over = await why_over(call)
        self._rouse()

    def _acknowledge(self, epoch: int, sequence: int) -> None:
        """All up to a report is durable, and what came before it on the stream with it."""
        now = _now()
        while self._in_flight and self._in_flight[0][:2] <= (epoch, sequence):
            sent = self._in_flight.popleft()
            self._board.settled[self._place] = sent.tick + 1
            self._board.add(Count.ACKNOWLEDGED)
            if not sent.late:
                self._board.add_latency((now - self._host.time_of(sent.tick)) / 1_000)
        self._retry.succeeded()

    def _reject(self, rejection: pb.ReportRejection) -> None:
        self._shared.complain(f"a report was rejected: {rejection.reason}")
        named = rejection.spool_epoch, rejection.sequence
        for sent in [one for one in self._in_flight if one[:2] == named]:
            self._in_flight.remove(sent)
            self._board.add(Count.REJECTED)
            if not self._in_flight or self._in_flight[0].tick > sent.tick:
                self._board.settled[self._place] = sent.tick + 1

    def _check(self) -> None:
        if self._over is not None:
            raise self._over

    async def _until(self, due: int) -> None:
        """Waits for a time in milliseconds since 1970, or until something is to be looked at."""
        loop = asyncio.get_running_loop()
        self._alarm = loop.create_future()
        timer = loop.call_later(max(0, due - _now()) / 1_000, _ring, self._alarm)
        await self._alarm
        timer.cancel()

    async def _answered(self) -> None:
        """Waits for the next answer of the aggregator. Raises Broken."""
        self._check()
        self._answer = asyncio.get_running_loop().create_future()
        await self._answer
        self._check()

    def _rouse(self) -> None:
        for waiting in (self._alarm, self._answer):
            if waiting is not None:
                _ring(waiting)


def _ring(alarm: asyncio.Future[None]) -> None:
    if not alarm.done():
        alarm.set_result(None)


def _now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
