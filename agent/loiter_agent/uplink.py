"""Streams the reports of the spool to an aggregator, for as long as the agent runs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
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
from loiter_agent.backoff import Backoff
from loiter_agent.lanes import Call, Ended, Lanes, send, status_of
from loiter_agent.security import Security, call_metadata, explain_failure, open_channel
from loiter_agent.spool import Spool

_log = logging.getLogger(__name__)

_HELLO_TIMEOUT_SECONDS: Final = 10.0
# So many reports that wait go the same way as new ones; more become a backlog, which new ones overtake.
_FEW_REPORTS: Final = 16

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

# What only a person can mend: said as an error, and tried again without hurry.
_HOPELESS: Final = frozenset(
    (
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)
_MAX_SAID: Final = 100


class Uplink:
    """Keeps one stream open to one of the aggregators, and opens the next when it breaks."""

    def __init__(self, spool: Spool, rng: random.Random | None = None) -> None:
        """Takes the spool to send from."""
        self._spool = spool
        self._backoff = Backoff(rng or random.Random())  # noqa: S311 - spreads load, no secret
        self._servers: tuple[str, ...] = ()
        self._host = sample_pb2.Host()
        self._interval = 0.0
        self._security = Security()
        self._session: asyncio.Task[None] | None = None
        self._broken_since: float | None = None
        self._said: set[str] = set()
        self._configured = asyncio.Event()

    def configure(self, servers: tuple[str, ...], host: sample_pb2.Host, interval: float, security: Security) -> None:
        """Sets whom to report to, as whom, how often and how. An open stream is ended, to open one with what is new."""
        self._servers, self._host, self._interval, self._security = servers, host, interval, security
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
            except (Ended, TimeoutError, OSError) as error:
                pause = await self._lost(server, error)
            with suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 can lose a cancellation that comes as the time runs out.
                async with asyncio.timeout(pause):
                    await self._configured.wait()
                turn = 0

    async def _deliver(self, server: str) -> None:
        if len(self._spool) > _FEW_REPORTS:
            await self._spool.begin_epoch()
        metadata = call_metadata(self._security)
        async with open_channel(server, self._security, _CHANNEL_OPTIONS) as channel:
            call = IngestServiceStub(channel).StreamReports(metadata=metadata)
            try:
                await self._greet(call)
                # A greeting alone is no delivery: an aggregator that ends each stream after it counts as away.
                await Lanes(call, self._spool, lambda: self._connected(server)).run()
            except grpc.aio.AioRpcError as error:
                raise status_of(error) from None

    async def _greet(self, call: Call) -> None:
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_SECONDS):
                await send(call, pb.StreamReportsRequest(hello=await self._hello()))
                answer = await call.read()
        except asyncio.InvalidStateError:  # the call was over before it was written to
            raise await Ended.of(call) from None
        if not isinstance(answer, pb.StreamReportsResponse):  # grpc.aio.EOF
            raise await Ended.of(call)
        if answer.WhichOneof("response") != "hello_ack":
            raise Ended(None, "the server does not speak this protocol: no acknowledgement of the hello")

    async def _hello(self) -> pb.Hello:
        interval = Duration()
        interval.FromTimedelta(timedelta(seconds=self._interval))
        settled = [
            pb.SpoolPosition(spool_epoch=position.epoch, sequence=position.sequence)
            for position in await self._spool.positions()
        ]
        now = Timestamp()
        now.GetCurrentTime()
        return pb.Hello(
            host=self._host, interval=interval, agent_time=now, instance=self._spool.instance, settled=settled
        )

    def _connected(self, server: str) -> None:
        if self._broken_since is None:
            _log.info("reporting to %s", server)
        else:
            away = format_duration(time.monotonic() - self._broken_since)
            waiting, dropped = len(self._spool), self._spool.dropped
            _log.info("reporting to %s again after %s: %d reports to send, %d dropped", server, away, waiting, dropped)
        self._broken_since = None
        self._said.clear()
        self._backoff.reset()

    async def _lost(self, server: str, error: Ended | TimeoutError | OSError) -> float:
        """Says what is new about a connection that broke or was not to be had; returns for how long to pause."""
        ended = error if isinstance(error, Ended) else Ended(None, str(error) or "no answer")
        hopeless = ended.code in _HOPELESS
        reason = str(ended)
        if ended.code is grpc.StatusCode.UNAVAILABLE:
            reason = await explain_failure(server, self._security, reason)
        self._say(server, printable(reason), hopeless)
        if self._broken_since is None:
            self._broken_since = time.monotonic()
        return self._backoff.after(len(self._servers), ended.retry_after, hopeless)

    def _say(self, server: str, reason: str, hopeless: bool) -> None:
        first = self._broken_since is None
        new = f"{server} {reason}" not in self._said and len(self._said) < _MAX_SAID
        if new:
            self._said.add(f"{server} {reason}")
        if hopeless and new:
            _log.error("%s refuses this agent: %s; sampling goes on, and it is tried again", server, reason)
        elif first:
            _log.warning(
                "cannot report to %s (%s); sampling goes on, reports are kept, and it is tried again", server, reason
            )
        else:
            _log.debug("still cannot report to %s: %s", server, reason)
