"""Gathers reports from all streams and commits them together, once a second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import grpc

from loiter.durations import format_duration
from loiter.logs import fields
from loiter.text import printable
from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.access.refusals import RefusalLog
from loiter_aggregator.clock import Clock, Steps
from loiter_aggregator.config import LimitSettings
from loiter_aggregator.ingest.answers import Hearer
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.known_hosts import KnownHost, KnownHosts
from loiter_aggregator.ingest.losses import missing, told
from loiter_aggregator.ingest.names import NameBudget
from loiter_aggregator.ingest.rates import HourlyBudget
from loiter_aggregator.ingest.room import Amount, Room
from loiter_aggregator.ingest.time_again import TimeAgain
from loiter_aggregator.store.batch import Batch, HostRecord, Lost
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError, UnfitError
from loiter_aggregator.store.figures import Processes
from loiter_aggregator.store.parts import Entry, halves, only_entry, rejected

_log = logging.getLogger(__name__)

# What is committed together, some 3 MB in the write-ahead log: more takes no less time a row, and a disk that is nearly
# full may have room for so much and not for all.
_BATCH_ROWS: Final = 20_000
# Each start of an agent is an epoch: this is one every three seconds. Each is remembered for a month.
_EPOCHS_PER_HOUR: Final = 1_200
# What the record of a host takes as a rule.
_HELLO_BYTES: Final = 500
_REJECTION_BYTES: Final = 500

_NOTHING: Final[Mapping[int, int]] = MappingProxyType({})


class TooManyEpochs(Exception):
    """A host draws epochs as no agent does."""


@dataclass(slots=True)
class _Due:
    """What one stream hears when a batch is durable."""

    acknowledgements: dict[int, int] = field(default_factory=dict)  # epoch → sequence
    rejections: list[pb.ReportRejection] = field(default_factory=list)


@dataclass(slots=True)
class _Pending:
    """A batch on its way into the store, the room it takes by host, and who is to hear of it.

    `received` is when the first and the last of it came, by our clock, which was set by `clock_step` just before.
    """

    batch: Batch = field(default_factory=Batch)
    clock_step: int = 0
    received: tuple[int, int] | None = None
    amounts: dict[int, Amount] = field(default_factory=dict)
    due: dict[Hearer, _Due] = field(default_factory=dict)

    def grow(self, host_key: int, rows: int, size: int) -> None:
        """Notes the room that something takes."""
        amount = self.amounts.get(host_key)
        if amount is None:
            amount = self.amounts[host_key] = Amount()
        amount.add(rows, size)

    def note(self, received: int) -> None:
        """Notes when something came."""
        first = received if self.received is None else self.received[0]
        self.received = first, received

    def due_to(self, hearer: Hearer) -> _Due:
        """What a stream is to hear."""
        due = self.due.get(hearer)
        if due is None:
            due = self.due[hearer] = _Due()
        return due


class Batcher:
    """Takes reports and calls back once they are durable."""

    def __init__(
        self,
        store: DuckDbStore,
        clock: Clock,
        commit_seconds: float = 1.0,
        limits: LimitSettings | None = None,
        room: Room | None = None,
        steady_clock: Clock | None = None,
    ) -> None:
        """Takes the store to write to, in which is what was stored before.

        Where there is a steady clock, one that never steps, what is stored follows the other one when that is set.
        """
        self.limits = LimitSettings() if limits is None else limits
        self.counters = Counters(started=clock())
        self.room = Room() if room is None else room
        # Called when all that is not durable was given up.
        self.on_reset: Callable[[], None] = lambda: None
        # Called when a round of `run` is over, be it that nothing could be stored: then the loop is not what hangs.
        self.on_round: Callable[[], None] = lambda: None
        # Why nothing is stored, as of the last round.
        self.failure: str | None = None
        self._store = store
        self._clock = clock
        self._steps = None if steady_clock is None else Steps(clock, steady_clock)
        self._time_again = TimeAgain(store)
        self._commit_seconds = commit_seconds
        # Readers can keep the threads that all share busy: these are our own.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="marks")
        self._hosts = KnownHosts(store, self._reader)
        self._names = NameBudget(self.limits.identities_per_hour, clock, self._is_known_identity)
        self._epochs = HourlyBudget(_EPOCHS_PER_HOUR)
        self._unfit = RefusalLog(_log)
        # Gathered, the oldest first, and being gathered.
        self._gathered: deque[_Pending] = deque()
        self._open = _Pending()
        self._stop = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many reports came in and are not stored yet."""
        return sum(len(pending.batch) for pending in (*self._gathered, self._open))

    async def join(self, host_key: int, hearer: Hearer) -> KnownHost:
        """Begins a stream of a host. What is stored of it is remembered until `leave`. Raises StoreError."""
        host = await self._hosts.load(host_key)
        host.streams.add(hearer)
        return host

    def leave(self, host_key: int, hearer: Hearer) -> None:
        """Ends a stream, which hears nothing any more."""
        for pending in (*self._gathered, self._open):
            pending.due.pop(hearer, None)
        host = self._hosts.get(host_key)
        if host is not None:
            host.streams.discard(hearer)
            self._forget_if_idle(host_key)

    async def put_host(self, record: HostRecord, size: int = _HELLO_BYTES) -> None:
        """Takes what a host says of itself, in so many bytes, to be stored before any report that comes after it.

        Waits as `put` does, unless it takes the place of what the host has said since the last commit. Raises
        StoreError.
        """
        host_key = record.host_key
        if host_key in self._open.batch.hosts:
            host = await self._hosts.load(host_key)
        else:
            host = await self._enter(host_key, 1, size)
            self._open.grow(host_key, 1, size)
        host.hostname, host.boot_id, host.interval_ms = record.hostname, record.boot_id, record.interval_ms
        if host.certificate_name is None:
            host.certificate_name = record.certificate_name
        # Once a certificate was shown, the host belongs to the name in it, be that not stored yet.
        self._open.batch.hosts[host_key] = replace(record, certificate_name=host.certificate_name)
        self._seal_if_large()

    async def put(
        self,
        host_key: int,
        report: pb.Report,
        hearer: Hearer,
        skew: int = 0,
        settled: Mapping[int, int] = _NOTHING,
        size: int | None = None,
        processes: Processes | None = None,
    ) -> None:
        """Takes a report that passed validation; `hearer` hears when it and all before it are durable.

        One that was taken before is not stored again, but acknowledged like the others. Waits while too much is on its
        way, which makes the stream it came by wait.

        Args:
            host_key: Its host.
            report: A sample, or a loss.
            hearer: The stream it came by.
            skew: How far the host's clock was behind ours when the sample was taken, in milliseconds.
            settled: Up to where each epoch is accounted for, as the agent said, be it with another aggregator.
            size: The bytes of its message.
            processes: Those of its sample, where somebody has read them already.

        Raises:
            StoreError: What is stored of the host can not be read.
            TooManyEpochs: The host draws too many.
        """
        rows, size = 1 + len(report.sample.processes), report.ByteSize() if size is None else size
        host = self._enter_now(host_key, rows, size) or await self._enter(host_key, rows, size)
        epoch, sequence = report.spool_epoch, report.sequence
        if sequence <= host.marks.get(epoch, 0):
            self.counters.duplicates += 1
            self.room.leave(host_key, rows, size)
        else:
            self._note_epoch(host_key, host, epoch, rows, size)
            received = self._receive()
            self._open.grow(host_key, rows, size)
            known = _settled(host, settled, epoch)
            if report.WhichOneof("content") == "loss":
                self._lose(host_key, told(report, known, skew, received), received)
            else:
                self._lose(host_key, missing(epoch, sequence, known), received)
                rename = self._names.renamer(host_key, report.host_id)
                self._open.batch.add(host_key, report, received, skew, rename, processes)
            host.marks[epoch] = sequence
            host.last_seen = received
        acknowledged = self._open.due_to(hearer).acknowledgements
        acknowledged[epoch] = max(sequence, acknowledged.get(epoch, 0))
        self._seal_if_large()

    async def put_rejected(
        self,
        host_key: int,
        rejection: pb.ReportRejection,
        hearer: Hearer,
        settled: Mapping[int, int] = _NOTHING,
    ) -> None:
        """Takes that a report was rejected, which is the loss of its sample; `hearer` hears when that is durable.

        Args:
            host_key: Its host.
            rejection: What to say of it; its epoch and sequence are those of the report.
            hearer: The stream it came by.
            settled: As for `put`.

        Raises:
            StoreError, TooManyEpochs: As `put` does.
        """
        host = await self._enter(host_key, 1, _REJECTION_BYTES)
        epoch, sequence = rejection.spool_epoch, rejection.sequence
        self._note_epoch(host_key, host, epoch, 1, _REJECTION_BYTES)
        received = self._receive()
        self._open.grow(host_key, 1, _REJECTION_BYTES)
        if sequence > host.marks.get(epoch, 0):
            lost = Lost(epoch, sequence, sequence, pb.LOSS_REASON_REJECTED)
            losses = [*missing(epoch, sequence, _settled(host, settled, epoch)), lost]
            self._lose(host_key, losses, received)
            host.marks[epoch] = sequence
        self._open.due_to(hearer).rejections.append(rejection)
        self._seal_if_large()

    async def run(self) -> None:
        """Commits once a second until `stop` is called, and then once more."""
        while True:
            stopping = await self._stopped_within(self._commit_seconds)
            try:
                await self.commit()
                if self.failure is not None:
                    _log.info("the store takes reports again, what was waiting is in it")
                self.failure = None
            except StoreError as error:
                if self.failure is None:
                    _log.error(
                        "%s; reports are not acknowledged until this is mended, agents keep them",
                        error,
                        extra=fields(reason=error),
                    )
                self.failure = str(error)
            except Exception:  # a mistake of ours
                _log.exception("reports can not be stored; they are not acknowledged, agents send them again")
            self.on_round()
            if stopping:
                return

    def stop(self) -> None:
        """Has `run` commit what has come in, and return."""
        self._stop.set()

    async def commit(self) -> None:
        """Commits what has come in, and says so to those who wait for it.

        Raises:
            StoreError: Something could not be stored; it is kept for the next time.
        """
        self._follow_the_clock()
        last = self._open
        while True:
            if not self._gathered:
                self._seal()
            pending = self._gathered[0]
            try:
                await self._write(pending)
            except Exception as error:
                if not _is_of_the_batch(error):
                    raise
                await self._isolate(pending, error)
                continue
            self._gathered.popleft()
            await self._release(pending)
            if pending is last:
                return

    async def _write(self, pending: _Pending) -> None:
        batch = pending.batch
        if not batch.rows and not pending.clock_step:
            return
        began = time.monotonic()
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._store_pending, pending)
        except Exception:
            self.counters.failed_commits += 1
            raise
        self.counters.stored += len(batch)
        self.counters.samples_lost += batch.samples_lost
        self.counters.commit_seconds.observe(time.monotonic() - began)
        self.counters.commit_rows.observe(batch.rows)
        now = self._clock()
        self.counters.lag_seconds.observe_all(max(0, now - taken) / 1_000 for taken in batch.times())

    def _store_pending(self, pending: _Pending) -> None:
        if self._steps is not None:
            if pending.clock_step and pending.received is not None:
                self._time_again.follow(pending.clock_step, pending.received[0])
                pending.clock_step = 0
            if pending.received is not None:
                self._time_again.make_room(*pending.received)
        if pending.batch.rows:
            self._store.write(pending.batch)

    def _receive(self) -> int:
        """The time at which something comes in, to be stored with what else came by the same setting of the clock."""
        self._follow_the_clock()
        now = self._clock()
        self._open.note(now)
        return now

    def _follow_the_clock(self) -> None:
        step = 0 if self._steps is None else self._steps.latest()
        if step:
            size, way = format_duration(abs(step) / 1_000), "forward" if step > 0 else "back"
            _log.warning("the clock was set %s by %s", way, size, extra=fields(seconds=step / 1_000))
            self.counters.started += step
            self._hosts.follow_clock(step)
            self._seal()
            self._set_clock(step)

    def _set_clock(self, step: int) -> None:
        """Has the store follow the clock before what comes next is stored."""
        self._open.clock_step = step
        self._open.note(self._clock())

    async def _isolate(self, pending: _Pending, error: Exception) -> None:
        """Takes a batch that can not be stored apart, so that one report that is at fault does not stop the others.

        The parts take its place, and the last of them what is to be heard of the whole. Where a part is one report, the
        loss of that report takes its place. But where nothing could ever be stored, it is not for the report, and all
        is given up: an acknowledgement covers all reports before it, so every stream has to begin anew from what is
        durable. Raises the error then.
        """
        if (parts := halves(pending.batch)) is not None:
            first, pending.batch = parts
            self._gathered.appendleft(_Pending(first))
            return
        entry = only_entry(pending.batch)
        if entry is None:
            (record,) = pending.batch.hosts.values()
            self._unfit.say(
                (record.host_key, "host"),
                f"what {printable(record.hostname)} says of itself {_why(error)}",
                host=record.hostname,
                reason=error,
            )
            pending.batch = Batch()
        elif self.counters.stored and not entry.is_rejected:
            self._reject(pending, entry, error)
        else:
            await self._give_up()
            raise error

    def _reject(self, pending: _Pending, entry: Entry, error: Exception) -> None:
        self.counters.rejected += 1
        pending.batch = rejected(entry)
        host = self._hosts.get(entry.host_key)
        rejection = pb.ReportRejection(
            spool_epoch=entry.epoch,
            sequence=entry.sequence,
            code=grpc.StatusCode.INVALID_ARGUMENT.value[0],
            reason=f"the report {_why(error)}",
        )
        for hearer in () if host is None else host.streams:
            pending.due_to(hearer).rejections.append(rejection)
        name = None if host is None or host.hostname is None else printable(host.hostname)
        self._unfit.say(
            (entry.host_key, type(error)),
            f"a report of {name or 'a host'} {_why(error)}; it is counted as lost",
            host=name,
            epoch=entry.epoch,
            sequence=entry.sequence,
            reason=error,
        )

    async def _release(self, pending: _Pending) -> None:
        for host_key, amount in pending.amounts.items():
            self.room.leave(host_key, amount.rows, amount.size)
            self._forget_if_idle(host_key)
        await self.room.announce()
        for hearer, due in pending.due.items():
            for rejection in due.rejections:
                hearer.reject(rejection)
            for epoch, sequence in due.acknowledgements.items():
                hearer.acknowledge(epoch, sequence)

    async def _give_up(self) -> None:
        given_up = (*self._gathered, self._open)
        self._gathered.clear()
        self._open = _Pending()
        if steps := sum(pending.clock_step for pending in given_up):
            self._set_clock(steps)
        self._hosts.forget_all()
        for pending in given_up:
            for host_key, amount in pending.amounts.items():
                self.room.leave(host_key, amount.rows, amount.size)
        self.on_reset()
        await self.room.announce()

    def _enter_now(self, host_key: int, rows: int, size: int) -> KnownHost | None:
        """Takes room for a host where nothing has to be waited for, as is the rule."""
        host = self._hosts.get(host_key)
        return host if host is not None and self.room.enter_now(host_key, rows, size) else None

    async def _enter(self, host_key: int, rows: int, size: int) -> KnownHost:
        await self.room.enter(host_key, rows, size)
        try:
            # From here on nothing is waited for where the host is remembered, as it is while a stream of it is open.
            return await self._hosts.load(host_key)
        except BaseException:
            self.room.leave(host_key, rows, size)
            raise

    def _note_epoch(self, host_key: int, host: KnownHost, epoch: int, rows: int, size: int) -> None:
        if epoch not in host.marks and not self._epochs.take(host_key, self._clock()):
            self.room.leave(host_key, rows, size)
            raise TooManyEpochs(f"more than {_EPOCHS_PER_HOUR:,} epochs of this host within an hour")

    def _lose(self, host_key: int, losses: list[Lost], received: int) -> None:
        for lost in losses:
            self._open.batch.add_loss(host_key, lost, received)

    def _is_known_identity(self, key: int) -> bool:
        return self._store.knows_identity(key) or any(key in pending.batch.identities for pending in self._gathered)

    def _seal_if_large(self) -> None:
        if self._open.batch.rows >= _BATCH_ROWS:
            self._seal()

    def _seal(self) -> None:
        self._gathered.append(self._open)
        self._open = _Pending()

    def _forget_if_idle(self, host_key: int) -> None:
        host = self._hosts.get(host_key)
        if host is not None and not host.streams and not self.room.holds(host_key):
            self._hosts.forget(host_key)

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()


def _is_of_the_batch(error: Exception) -> bool:
    """Whether it would come again however often the batch was tried: a mistake of ours, or of who sent a report."""
    return isinstance(error, UnfitError) or not isinstance(error, StoreError | MemoryError | OSError)


def _why(error: Exception) -> str:
    return f"can not be stored ({type(error).__name__}: {printable(str(error))})"


def _settled(host: KnownHost, said: Mapping[int, int], epoch: int) -> int | None:
    mark, told = host.marks.get(epoch), said.get(epoch)
    return told if mark is None or (told is not None and told > mark) else mark
