"""Keeps a stream open to an aggregator, for as long as the agent runs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from loiter.durations import format_duration
from loiter.limits import MAX_MESSAGE_BYTES
from loiter.logs import fields
from loiter.text import printable
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.v1.ingest_service_pb2_grpc import IngestServiceStub
from loiter_agent.backoff import Backoff
from loiter_agent.delivery import Delivery
from loiter_agent.failure import Call, Failure, Kind, failure_of
from loiter_agent.security import Security, call_metadata, explain_failure, open_channel
from loiter_agent.spool import Lanes, Spool
from loiter_agent.stream import BACKLOG_RATE, AnswerSockets, Pace, Stream, write

_log = logging.getLogger(__name__)

_HELLO_TIMEOUT_SECONDS: Final = 10.0
_EXPLANATION_TIMEOUT_SECONDS: Final = 10.0
# Positions of epochs in a hello. Of an epoch beyond, the aggregator can not tell what is missing.
_MAX_POSITIONS: Final = 1_000
# Different errors that are logged until an aggregator takes a report.
_MAX_ERRORS: Final = 16

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


class Uplink:
    """Keeps one stream open to one of the aggregators, and opens the next when it breaks."""

    def __init__(
        self,
        spool: Spool,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Takes the spool to send from; what draws the waits; and the clock that old reports are spread out by."""
        self.delivery = Delivery()
        # Called when the connection has changed.
        self.on_change: Callable[[], None] = lambda: None
        self._spool = spool
        self._backoff = Backoff(rng or random.Random())  # noqa: S311 - spreads load, no secret
        self._pace = Pace(BACKLOG_RATE, clock, sleep)
        self._servers: tuple[str, ...] = ()
        self._host = sample_pb2.Host()
        self._interval = 0.0
        self._security = Security()
        self._answer: AnswerSockets | None = None
        self._session: asyncio.Task[None] | None = None
        self._broken_since: float | None = None
        self._errors: set[str] = set()
        self._configured = asyncio.Event()

    def configure(
        self,
        servers: tuple[str, ...],
        host: sample_pb2.Host,
        interval: float,
        security: Security,
        answer: AnswerSockets | None = None,
    ) -> None:
        """Sets whom to report to, as whom, how often and how safely, and what answers questions for sockets, if any.

        An open stream is ended, to open a new one.
        """
        self._servers, self._host, self._interval, self._security = servers, host, interval, security
        self._answer = answer
        self._errors.clear()  # what is still wrong is to be said of the new settings, too
        self._configured.set()
        self.delivery.connected, self.delivery.error = False, None
        if self._session is not None:
            self._session.cancel()

    async def run(self) -> None:
        """Delivers until it is cancelled. An aggregator that is away is reported once, and once when it is back."""
        turn = 0
        while True:
            servers = self._servers
            server = servers[turn % len(servers)]
            turn += 1
            self._configured.clear()
            if self.delivery.error is None:  # else it is the one that the error is of
                self.delivery.server = server
            self._session = asyncio.create_task(self._deliver(server))
            try:
                await _end_of(self._session)
            except Failure as failure:
                self._lost(server, failure)
                seconds = self._backoff.after(failure, len(servers))
            else:
                turn = 0  # configured anew
                continue
            with suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 can lose a cancellation that comes as the time runs out.
                async with asyncio.timeout(seconds):
                    await self._configured.wait()
                turn = 0

    async def _deliver(self, server: str) -> None:
        """Delivers until the stream ends. Raises Failure."""
        security = self._security
        try:
            channel = open_channel(server, security, _CHANNEL_OPTIONS)
        except OSError as error:
            raise Failure(Kind.REFUSED, _explain(error)) from None
        async with channel:
            try:
                metadata = call_metadata(security)
            except OSError as error:
                raise Failure(Kind.REFUSED, _explain(error)) from None
            call = IngestServiceStub(channel).StreamReports(metadata=metadata)
            try:
                async with asyncio.timeout(_HELLO_TIMEOUT_SECONDS):
                    lanes = await self._greet(call)
            except Failure as failure:
                raise await self._explained(server, security, failure) from None
            except TimeoutError:
                raise Failure(Kind.AWAY, "no answer") from None
            # A greeting alone is no delivery: an aggregator that ends each stream after it counts as away.
            stream = Stream(
                call,
                self._spool,
                lanes.live,
                self._pace,
                on_first_ack=lambda: self._connected(server),
                on_acknowledged=lambda reports: self._acknowledged(server, reports),
                answer=self._answer,
            )
            try:
                await stream.run()
            except ExceptionGroup as group:
                if call.done():  # then the status of the call says why
                    raise await failure_of(call) from None
                raise group.exceptions[0] from None

    async def _greet(self, call: Call) -> Lanes:
        """Opens a stream by a hello, and returns what there is to send. Raises Failure."""
        try:
            hello = self._hello(await self._spool.lanes())
            await write(call, pb.StreamReportsRequest(hello=hello))
            answer = await call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call is over
            raise await failure_of(call) from None
        if not isinstance(answer, pb.StreamReportsResponse):  # grpc.aio.EOF
            raise await failure_of(call)
        if answer.WhichOneof("response") != "hello_ack":
            raise Failure(Kind.AWAY, "the server does not speak this protocol: no acknowledgement of the hello")
        # Only now: whoever is let in by nobody would begin a new epoch at each try.
        return await self._spool.begin()

    def _hello(self, lanes: Lanes) -> pb.Hello:
        interval = Duration()
        interval.FromTimedelta(timedelta(seconds=self._interval))
        now = Timestamp()
        now.GetCurrentTime()
        settled = [
            pb.SpoolPosition(spool_epoch=position.epoch, sequence=position.sequence)
            for position in (lanes.live, *lanes.backlog[: _MAX_POSITIONS - 1])
        ]
        return pb.Hello(
            host=self._host,
            interval=interval,
            agent_time=now,
            instance=self._spool.instance,
            settled=settled,
            answers_socket_queries=self._answer is not None,
        )

    async def _explained(self, server: str, security: Security, failure: Failure) -> Failure:
        """Where a connection could not be made because of TLS, says so: somebody has to mend that."""
        if failure.kind is not Kind.AWAY:
            return failure
        details = str(failure)
        try:
            async with asyncio.timeout(_EXPLANATION_TIMEOUT_SECONDS):
                words = await explain_failure(server, security, details)
        except TimeoutError:
            return failure
        return failure if words == details else Failure(Kind.REFUSED, words)

    def _connected(self, server: str) -> None:
        waiting, dropped = len(self._spool), self._spool.dropped
        if self._broken_since is None:
            _log.info("reporting to %s", server, extra=fields(server=server, waiting=waiting, dropped=dropped))
        else:
            seconds = time.monotonic() - self._broken_since
            _log.info(
                "reporting to %s again after %s: %d reports to send, %d dropped",
                server,
                format_duration(seconds),
                waiting,
                dropped,
                extra=fields(server=server, seconds=round(seconds, 3), waiting=waiting, dropped=dropped),
            )
        self._broken_since = None
        self._errors.clear()
        self._backoff.succeeded()

    def _acknowledged(self, server: str, reports: int) -> None:
        delivery = self.delivery
        delivery.acknowledged += reports
        delivery.last_acknowledged = time.time()
        if not delivery.connected:  # the first of this stream
            delivery.server, delivery.connected, delivery.error = server, True, None
            self.on_change()

    def _lost(self, server: str, failure: Failure) -> None:
        reason = printable(str(failure))
        delivery = self.delivery
        delivery.server, delivery.connected, delivery.error = server, False, reason
        self.on_change()
        first = self._broken_since is None
        if first:
            self._broken_since = time.monotonic()
        facts = fields(server=server, reason=reason, waiting=len(self._spool))
        if failure.kind is Kind.REFUSED:
            error = f"{server}: {reason}"
            if error not in self._errors and len(self._errors) < _MAX_ERRORS:
                self._errors.add(error)
                _log.error(
                    "cannot report to %s; sampling goes on, reports are kept, and it is tried again", error, extra=facts
                )
        elif first:
            _log.warning(
                "cannot report to %s (%s); sampling goes on, reports are kept, and it is tried again",
                server,
                reason,
                extra=facts,
            )
        else:
            _log.debug("still cannot report to %s: %s", server, reason, extra=facts)


async def _end_of(session: asyncio.Task[None]) -> None:
    """Waits for the end of a session, and raises what it ended with, unless it was cancelled.

    A session that breaks as it is cancelled ends with what broke it: awaited, it would swallow our own cancellation.
    """
    try:
        await asyncio.wait((session,))
    except asyncio.CancelledError:
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)
        raise
    if not session.cancelled():
        session.result()


def _explain(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
