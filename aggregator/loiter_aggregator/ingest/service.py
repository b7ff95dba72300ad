"""Serves IngestService: one stream for each agent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from loiter.logs import fields
from loiter.text import printable
from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.access.peers import peer_host
from loiter_aggregator.access.principal import caller
from loiter_aggregator.access.refusals import RefusalLog
from loiter_aggregator.clock import Clock, boot_clock, from_duration, from_timestamp, to_timestamp
from loiter_aggregator.ingest.admission import Admission, retry_info
from loiter_aggregator.ingest.answers import Answers, Context
from loiter_aggregator.ingest.batcher import Batcher, TooManyEpochs
from loiter_aggregator.ingest.callers import Caller, CallerLimits, TooManyNewHosts, identify
from loiter_aggregator.ingest.clock_log import ClockLog
from loiter_aggregator.ingest.clocks import HostClock
from loiter_aggregator.ingest.known_hosts import KnownHost
from loiter_aggregator.ingest.ownership import NotYours, certificate_name, check_owner
from loiter_aggregator.ingest.rates import TokenBucket
from loiter_aggregator.ingest.registry import Conflict, Machine, Registry, Session, silent_after
from loiter_aggregator.ingest.socket_queries import AgentStream, SocketQueries
from loiter_aggregator.ingest.validation import (
    Invalid,
    check_hello,
    check_name,
    check_report,
    check_sent,
)
from loiter_aggregator.store.batch import HostRecord, key_of
from loiter_aggregator.store.duckdb_store import StoreError

_log = logging.getLogger(__name__)

# As `ingest_service.proto` says.
CLOCK_METADATA: Final = "loiter-time"

SERVICE: Final = pb.DESCRIPTOR.services_by_name["IngestService"].full_name

_HELLO_TIMEOUT_SECONDS: Final = 10.0
_END_SECONDS: Final = 5.0
_STOPPING: Final = "the aggregator is stopping"
# Agents add as much again by chance.
_CALLER_RETRY_SECONDS: Final = 60.0
_BUDGET_RETRY_SECONDS: Final = 600.0
# Of a host that was heard so long before this aggregator started, it is not waited for that it comes back.
_RECENTLY_MS: Final = 3_600_000
# So many seconds' worth of reports may come at once, as after a reconnect.
_BURST_SECONDS: Final = 2.0
# Buckets of hosts that are gone, which are kept until they are full again.
_SPARE_BUCKETS: Final = 1_000


class IngestService:
    """Takes in the reports of agents."""

    def __init__(
        self,
        batcher: Batcher,
        clock: Clock,
        since_boot: Clock = boot_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the batcher that reports go to, and the clocks: time of day and CLOCK_BOOTTIME in milliseconds."""
        self._batcher = batcher
        self._clock = clock
        self._since_boot = since_boot
        self._monotonic = monotonic
        self._registry = Registry(clock, monotonic)
        self._callers = CallerLimits(batcher.limits.streams_per_address, clock)
        self._admission = Admission(batcher.limits.streams, batcher.counters, batcher.room.longest_wait)
        self._clock_log = ClockLog()
        self._refusals = RefusalLog(_log)
        self._buckets: dict[int, TokenBucket] = {}
        # Asks those agents that are connected.
        self.socket_queries = SocketQueries(batcher.counters)
        # The streams that are open, and those that we end, with why.
        self._streams: set[asyncio.Task[None]] = set()
        self._ended: dict[asyncio.Task[None], str] = {}
        self._stopping = False
        batcher.on_reset = lambda: self._end_streams("connect again")

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

    def conflicts(self) -> list[Conflict]:
        """Machines that were refused of late since another one has their host id."""
        return self._registry.conflicts()

    async def end_streams(self) -> None:
        """Ends every stream, after what is to be acknowledged has been; agents connect again later."""
        self._stopping = True
        self._end_streams(_STOPPING)
        if self._streams:
            _, late = await asyncio.wait(self._streams, timeout=_END_SECONDS)
            if late:
                facts = fields(streams=len(late), seconds=_END_SECONDS)
                _log.warning(
                    "%d streams did not end within %g s; they are broken off", len(late), _END_SECONDS, extra=facts
                )

    def _end_streams(self, reason: str) -> None:
        for stream in self._streams:
            self._end(stream, reason)

    def _end(self, stream: asyncio.Task[None], reason: str) -> None:
        if stream not in self._ended:
            self._ended[stream] = reason
            stream.cancel()

    async def stream_reports(self, _: object, context: Context) -> None:
        """Serves one stream from its hello to its end."""
        if self._stopping:
            await self._say_goodbye(context, _STOPPING)
        who = identify(caller.get(), peer_host(context.peer()))
        if (reason := self._callers.enter(who)) is not None:
            self._batcher.counters.streams_overloaded += 1
            peer = peer_host(context.peer())
            self._refusals.say((who, "streams"), f"told to come back later: {reason}", peer=peer, reason=reason)
            await self._come_later(context, reason, _CALLER_RETRY_SECONDS)
        try:
            await self._admit(context, who)
        finally:
            self._callers.leave(who)

    async def _admit(self, context: Context, who: Caller) -> None:
        if (reason := self._admission.refusal()) is not None:
            await self._come_later(context, reason, self._admission.retry_seconds())
        answers = Answers(context)
        stream = asyncio.create_task(self._serve(context, answers, who))
        self._streams.add(stream)
        self._batcher.counters.streams = len(self._streams)
        try:
            await stream
        except asyncio.CancelledError:
            if stream not in self._ended:
                raise
            await answers.flush()
            await self._say_goodbye(context, self._ended[stream])
        finally:
            stream.cancel()  # where the call itself was cancelled
            self._streams.discard(stream)
            self._ended.pop(stream, None)
            self._batcher.counters.streams = len(self._streams)

    async def _serve(self, context: Context, answers: Answers, who: Caller) -> None:
        hello, sent = await self._hello(context)
        host_key = key_of(hello.host.host_id)
        stream = asyncio.current_task()
        assert stream is not None, "started as one"
        session = Session(
            host_id=hello.host.host_id,
            hostname=hello.host.hostname,
            boot_id=hello.host.boot_id,
            instance=hello.instance,
            peer=peer_host(context.peer()),
            interval_seconds=from_duration(hello.interval) / 1_000,
            end=lambda: self._end(stream, "this agent has opened another stream"),
        )
        try:
            known = await self._batcher.join(host_key, answers)
            await self._name(context, hello, known)
            if (other := await self._registry.enter(session, self._heard_last(known))) is not None:
                await self._refuse_twin(context, session, other)
            name = await self._name(context, hello, known)  # another may have become its owner meanwhile
            if known.is_new:
                self._callers.meet(who)
            with self._registry.at_work(session):
                await self._batcher.put_host(_record(hello, host_key, name), hello.ByteSize())
            await context.write(
                pb.StreamReportsResponse(hello_ack=pb.HelloAck(aggregator_time=to_timestamp(self._clock())))
            )
            await self._take_reports(context, answers, hello, sent, session)
        except StoreError as error:
            _log.error("%s", error, extra=fields(host=hello.host.hostname, peer=session.peer))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the store can not be read; see the aggregator's log")
        except (TooManyEpochs, TooManyNewHosts) as error:
            self._refusals.say(
                (session.peer, type(error)),
                f"{session.peer} is told to come back later: {error}",
                host=session.hostname,
                peer=session.peer,
                reason=error,
            )
            await self._come_later(context, str(error), _BUDGET_RETRY_SECONDS)
        finally:
            self._registry.leave(session)
            self._batcher.leave(host_key, answers)

    async def _take_reports(
        self, context: Context, answers: Answers, hello: pb.Hello, sent: int | None, session: Session
    ) -> None:
        host_key = key_of(hello.host.host_id)
        intake = _Intake(
            session=session,
            host_key=host_key,
            hostname=printable(hello.host.hostname),
            settled={position.spool_epoch: position.sequence for position in hello.settled},
            clock=self._host_clock(hello, sent),
            stream=self.socket_queries.open(host_key, hello, answers),
        )
        self._note_clock(intake)
        answering = asyncio.create_task(answers.run())
        try:
            while isinstance(data := await context.read(), bytes):  # until grpc.aio.EOF
                with self._registry.at_work(session):
                    await self._take(intake, answers, data)
                    if (pause := self._bucket(host_key).take(self._monotonic())) > 0:
                        # A host that floods waits. It is not read meanwhile, and the others are.
                        await asyncio.sleep(pause)
        finally:
            self.socket_queries.close(intake.stream)
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)  # a stream that broke is no error of ours
            self._forget_rate(host_key)
            if intake.rejected > 1:
                _log.warning("%d reports of %s rejected in all", intake.rejected, intake.hostname, extra=intake.facts())

    async def _take(self, intake: _Intake, answers: Answers, data: bytes) -> None:
        report = pb.Report()
        try:
            request = _decode(data)
            kind = request.WhichOneof("request")
            if kind == "socket_answer":
                self.socket_queries.take(intake.stream, request.socket_answer)
                return
            if kind != "report":
                raise Invalid("the message is not a report")
            report = request.report
            check_sent(request)
            processes = check_report(report, intake.session.host_id)
        except Invalid as error:
            await self._reject(intake, answers, report, error)
            return
        clock, sent = intake.clock, _sent(request)
        clock.hear(sent, self._clock(), self._since_boot())
        if intake.session.claims:
            self._note_conflicts(self._registry.deliver(intake.session, None if sent is None else clock.time_of(sent)))
        skew = 0
        if report.HasField("sample"):
            sample = report.sample
            if sample.HasField("interval"):
                intake.session.interval_seconds = from_duration(sample.interval) / 1_000
            skew = clock.skew(report.boot_id, _taken(report), from_timestamp(sample.sample_time))
            self._note_clock(intake)
        elif report.loss.HasField("last_sample_time"):
            skew = clock.skew(report.boot_id, _taken(report), from_timestamp(report.loss.last_sample_time))
        await self._batcher.put(intake.host_key, report, answers, skew, intake.settled, len(data), processes)

    async def _reject(self, intake: _Intake, answers: Answers, report: pb.Report, error: Invalid) -> None:
        self._batcher.counters.rejected += 1
        intake.rejected += 1
        if intake.rejected == 1:  # the rest is counted, and said when the stream ends
            facts = intake.facts(epoch=report.spool_epoch, sequence=report.sequence, reason=error)
            _log.warning("report of %s rejected: %s", intake.hostname, error, extra=facts)
        rejection = pb.ReportRejection(
            spool_epoch=report.spool_epoch,
            sequence=report.sequence,
            code=grpc.StatusCode.INVALID_ARGUMENT.value[0],
            reason=str(error),
        )
        await answers.room()
        try:
            check_name(report)
        except Invalid:  # it is not known which report it is
            answers.reject(rejection)
        else:
            await self._batcher.put_rejected(intake.host_key, rejection, answers, intake.settled)

    def _bucket(self, host_key: int) -> TokenBucket:
        bucket = self._buckets.get(host_key)
        if bucket is None:
            rate = self._batcher.limits.reports_per_second
            bucket = self._buckets[host_key] = TokenBucket(rate, _BURST_SECONDS * rate, self._monotonic())
        return bucket

    def _forget_rate(self, host_key: int) -> None:
        """A host that connects again and again has no more for that."""
        now = self._monotonic()
        bucket = self._buckets.get(host_key)
        if bucket is not None and bucket.is_full(now):
            del self._buckets[host_key]
        if len(self._buckets) > 2 * len(self._streams) + _SPARE_BUCKETS:
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_full(now)}

    def _note_clock(self, intake: _Intake) -> None:
        if intake.clock.current is not None:
            self._clock_log.note(intake.host_key, intake.hostname, intake.clock.current)

    def _note_conflicts(self, conflicts: Iterable[Conflict]) -> None:
        for conflict in conflicts:
            _log.error(
                "%s at %s and %s at %s have the same host id %s: only the first is stored; give the other one "
                "an id of its own",
                *map(printable, (conflict.hostname, conflict.peer)),
                *map(printable, (conflict.refused_hostname, conflict.refused_peer, conflict.host_id)),
                extra=fields(
                    host_id=conflict.host_id,
                    host=conflict.hostname,
                    peer=conflict.peer,
                    refused_host=conflict.refused_hostname,
                    refused_peer=conflict.refused_peer,
                ),
            )

    def _host_clock(self, hello: pb.Hello, sent: int | None) -> HostClock:
        agent_time = from_timestamp(hello.agent_time) if hello.HasField("agent_time") else None
        return HostClock(hello.host.boot_id, agent_time, sent, self._clock(), self._since_boot())

    async def _hello(self, context: Context) -> tuple[pb.Hello, int | None]:
        try:
            # Not wait_for, which in Python 3.11 can lose a cancellation that comes as the hello does.
            async with asyncio.timeout(_HELLO_TIMEOUT_SECONDS):
                data = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came")
        if not isinstance(data, bytes):  # grpc.aio.EOF: `loiter-agent check` tries whether it would be let in
            clock = ((CLOCK_METADATA, str(self._clock())),)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the stream ended without a hello", clock)
        try:
            request = _decode(data)
            if request.WhichOneof("request") != "hello":
                raise Invalid("the first message is not a hello")
            check_hello(request.hello)
            check_sent(request)
        except Invalid as error:
            self._batcher.counters.rejected += 1
            peer = peer_host(context.peer())
            self._refusals.say((peer, str(error)), f"stream of {peer} refused: {error}", peer=peer, reason=error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return request.hello, _sent(request)

    def _heard_last(self, known: KnownHost) -> Machine | None:
        """The machine that reported last under a host id, where it may still be alive.

        While we were away, nobody could report: that is no silence.
        """
        if known.hostname is None or known.boot_id is None or known.last_seen is None:
            return None
        heard, started = known.last_seen, self._batcher.counters.started
        if heard > started - _RECENTLY_MS:
            heard = max(heard, started)
        if self._clock() - heard > 1_000 * silent_after(known.interval_ms / 1_000):
            return None
        return Machine(known.hostname, known.boot_id)

    async def _name(self, context: Context, hello: pb.Hello, known: KnownHost) -> str | None:
        """The name in the certificate that the host belongs to. Ends the stream where it belongs to another."""
        principal = caller.get()
        try:
            name = certificate_name(principal, hello.host)
            reported_by = None if known.last_seen is None else known.hostname
            check_owner(principal, hello.host, known.certificate_name, reported_by)
        except NotYours as error:
            self._batcher.counters.calls_refused += 1
            await self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, str(error))
        return name

    async def _refuse_twin(self, context: Context, session: Session, other: Machine) -> NoReturn:
        at = "" if other.peer is None else f" at {other.peer}"
        await self._refuse(
            context,
            grpc.StatusCode.ALREADY_EXISTS,
            f"{printable(other.hostname)}{at} reports under the same host id {session.host_id}; if that is "
            "another machine, made from the same image, give this one an id of its own: set host_id, or remove "
            "/etc/machine-id and run systemd-machine-id-setup; if it is this one, it is let in once nothing was heard "
            "from the other for a while",
        )

    async def _refuse(self, context: Context, code: grpc.StatusCode, reason: str) -> NoReturn:
        peer = peer_host(context.peer())
        self._refusals.say(
            (peer, reason), f"stream of {peer} refused: {reason}", peer=peer, reason=reason, code=code.name
        )
        await context.abort(code, reason)
        raise AssertionError("unreachable: abort raises")

    async def _say_goodbye(self, context: Context, reason: str) -> NoReturn:
        """Ends a stream on purpose, which RetryInfo tells from a connection that broke."""
        unavailable = grpc.StatusCode.UNAVAILABLE
        await context.abort(unavailable, reason, retry_info(reason, 0.0, unavailable.value[0]))
        raise AssertionError("unreachable: abort raises")

    async def _come_later(self, context: Context, reason: str, seconds: float) -> NoReturn:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, retry_info(reason, seconds))
        raise AssertionError("unreachable: abort raises")


@dataclass(slots=True)
class _Intake:
    """What one stream brings in, and how to take it. `hostname` is printable."""

    session: Session
    host_key: int
    hostname: str
    settled: Mapping[int, int]
    clock: HostClock
    stream: AgentStream
    rejected: int = 0

    def facts(self, **more: object) -> dict[str, object]:
        """Who it is, for the log."""
        return fields(host=self.hostname, peer=self.session.peer, rejected=self.rejected, **more)


def _record(hello: pb.Hello, host_key: int, name: str | None) -> HostRecord:
    return HostRecord(
        host_key=host_key,
        host_id=hello.host.host_id,
        hostname=hello.host.hostname,
        boot_id=hello.host.boot_id,
        agent_version=hello.host.agent_version,
        kernel_release=hello.host.kernel_release,
        interval_ms=from_duration(hello.interval),
        labels=dict(hello.host.labels),
        certificate_name=name,
    )


def _decode(data: bytes) -> pb.StreamReportsRequest:
    try:
        return pb.StreamReportsRequest.FromString(data)
    except DecodeError:
        raise Invalid("the message is not a StreamReportsRequest, or is cut short") from None


def _sent(request: pb.StreamReportsRequest) -> int | None:
    return from_duration(request.sent_since_boot) if request.HasField("sent_since_boot") else None


def _taken(report: pb.Report) -> int | None:
    return from_duration(report.taken_since_boot) if report.HasField("taken_since_boot") else None
