"""Streams the reports of the spool to an aggregator, for as long as the agent runs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from loiter.durations import format_duration
from loiter.limits import MAX_MESSAGE_BYTES
from loiter.text import printable
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.v1.ingest_service_pb2_grpc import IngestServiceStub
from loiter_agent.spool import Spool

_log = logging.getLogger(__name__)

_FIRST_BACKOFF_SECONDS: Final = 1.0
_LONGEST_BACKOFF_SECONDS: Final = 30.0
_HELLO_TIMEOUT_SECONDS: Final = 10.0
# Reports on their way: enough to keep a stream busy, few enough to resend.
_WINDOW: Final = 64

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # The aggregator permits a ping every 20 s: see its server.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),
    # The backoff is ours: a channel is made anew for each try, and names are resolved anew with it.
    ("grpc.use_local_subchannel_pool", 1),
)


class Refused(Exception):
    """The aggregator answered, but not as the contract says."""


class Uplink:
    """Keeps one stream open to one of the aggregators, and opens the next when it breaks."""

    def __init__(self, spool: Spool, rng: random.Random | None = None) -> None:
        """Takes the spool to send from."""
        self._spool = spool
        self._random = rng or random.Random()  # noqa: S311 - spreads load, no secret
        self._servers: tuple[str, ...] = ()
        self._host = sample_pb2.Host()
        self._interval = 0.0
        self._session: asyncio.Task[None] | None = None
        self._broken_since: float | None = None
        self._failures = 0
        self._configured = asyncio.Event()

    def configure(self, servers: tuple[str, ...], host: sample_pb2.Host, interval: float) -> None:
        """Sets whom to report to, as whom and how often. An open stream is ended, to open one with what is new."""
        self._servers, self._host, self._interval = servers, host, interval
        self._configured.set()
        if self._session is not None:
            self._session.cancel()

    async def run(self) -> None:
        """Delivers until it is cancelled. An aggregator that is away is reported once, and once when it is back."""
        turn = 0
        while True:
            server = self._servers[turn % len(self._servers)]
            turn += 1
            self._configured.clear()
            self._session = asyncio.create_task(self._deliver(server))
            try:
                await self._session
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    self._session.cancel()
                    await asyncio.gather(self._session, return_exceptions=True)
                    raise
                turn = 0  # configured anew
                continue
            except grpc.aio.AioRpcError as error:
                self._lost(server, f"{error.code().name}: {error.details()}")
            except (Refused, TimeoutError, OSError) as error:
                self._lost(server, str(error) or "no answer")
            with suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 can lose a cancellation that comes as the time runs out.
                async with asyncio.timeout(self._backoff()):
                    await self._configured.wait()
                turn = 0

    def _backoff(self) -> float:
        """Full jitter: anything from nothing to a bound that doubles with every failure in a row."""
        bound = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(self._failures, 10))
        return self._random.uniform(0, bound)

    async def _deliver(self, server: str) -> None:
        async with grpc.aio.insecure_channel(server, options=_CHANNEL_OPTIONS) as channel:
            call = IngestServiceStub(channel).StreamReports()
            try:
                async with asyncio.timeout(_HELLO_TIMEOUT_SECONDS):
                    await call.write(pb.StreamReportsRequest(hello=self._hello()))
                    answer = await call.read()
            except asyncio.InvalidStateError:  # the call was over before it was written to
                raise await _end_of(call) from None
            if not isinstance(answer, pb.StreamReportsResponse):  # grpc.aio.EOF
                raise await _end_of(call)
            if answer.WhichOneof("response") != "hello_ack":
                raise Refused("the server does not speak this protocol: no acknowledgement of the hello")
            # A greeting alone is no delivery: an aggregator that ends each stream after it counts as away.
            stream = _Stream(call, self._spool, lambda: self._connected(server))
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(stream.send())
                    tasks.create_task(stream.receive())
            except ExceptionGroup as group:
                if call.done():  # then the status of the call says why
                    raise await _end_of(call) from None
                raise group.exceptions[0] from None

    def _hello(self) -> pb.Hello:
        interval = Duration()
        interval.FromTimedelta(timedelta(seconds=self._interval))
        now = Timestamp()
        now.GetCurrentTime()
        return pb.Hello(host=self._host, interval=interval, agent_time=now)

    def _connected(self, server: str) -> None:
        waiting, dropped = len(self._spool), self._spool.dropped
        if self._broken_since is None:
            _log.info("reporting to %s", server)
        else:
            away = format_duration(time.monotonic() - self._broken_since)
            _log.info("reporting to %s again after %s: %d reports to send, %d dropped", server, away, waiting, dropped)
        self._broken_since = None
        self._failures = 0

    def _lost(self, server: str, reason: str) -> None:
        self._failures += 1
        if self._broken_since is None:
            self._broken_since = time.monotonic()
            _log.warning(
                "cannot report to %s (%s); sampling goes on, up to %d reports are kept, and it is tried again",
                server,
                printable(reason),
                self._spool.limit,
            )
        else:
            _log.debug("still cannot report to %s: %s", server, printable(reason))


_Call = grpc.aio.StreamStreamCall[pb.StreamReportsRequest, pb.StreamReportsResponse]


class _Stream:
    """One open stream: sends what the spool holds, and takes in what the aggregator answers."""

    def __init__(self, call: _Call, spool: Spool, on_first_ack: Callable[[], None]) -> None:
        self._call = call
        self._spool = spool
        self._on_first_ack = on_first_ack
        self._acknowledged = False
        self._rejected = 0
        self._in_flight: deque[int] = deque()
        self._window = asyncio.Semaphore(_WINDOW)

    async def send(self) -> None:
        """Sends each report of the spool in turn, with a bounded number on their way."""
        sent = 0
        while True:
            await self._window.acquire()
            report = await self._spool.after(sent)
            sent = report.sequence
            self._in_flight.append(sent)
            await self._call.write(pb.StreamReportsRequest(report=report))

    async def receive(self) -> None:
        """Takes in acknowledgements and rejections until the aggregator ends the stream."""
        while True:
            answer = await self._call.read()
            if not isinstance(answer, pb.StreamReportsResponse):  # grpc.aio.EOF
                raise await _end_of(self._call)
            kind = answer.WhichOneof("response")
            if kind == "report_ack":
                if not self._acknowledged:
                    self._acknowledged = True
                    self._on_first_ack()
                ack = answer.report_ack
                self._spool.acknowledge(ack.spool_epoch, ack.sequence)
                self._landed(ack.sequence)
            elif kind == "report_rejection":
                rejection = answer.report_rejection
                self._spool.reject(rejection.spool_epoch, rejection.sequence)
                if rejection.sequence in self._in_flight:
                    self._in_flight.remove(rejection.sequence)
                    self._window.release()
                self._rejected += 1
                if self._rejected == 1:  # said once; each report says how many were dropped
                    _log.error("report %d was rejected: %s", rejection.sequence, printable(rejection.reason))

    def _landed(self, sequence: int) -> None:
        while self._in_flight and self._in_flight[0] <= sequence:
            self._in_flight.popleft()
            self._window.release()


async def _end_of(call: _Call) -> Exception:
    """Says why the aggregator ended a stream that is over."""
    code, details = await call.code(), await call.details()
    return Refused(f"{code.name}: {details}" if details else code.name)
