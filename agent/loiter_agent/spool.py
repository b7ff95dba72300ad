"""Keeps reports from the tick that made them until an aggregator has them.

They are kept in `spool.db` in the agent's state directory, written before they are sent and deleted when they are
acknowledged. What `append` has returned for survives the end of the agent, kill -9 and a power cut: see `spool_file`. A
spool draws a new epoch whenever it is opened, so a sequence is never used twice, even if a disk that does not keep its
word has lost the last of what was written.

The oldest is dropped when there is more than the bounds allow, and a Loss takes its place and is sent like a report.
Age is told by the clock since boot, which never steps; reports of an earlier boot are as old as this boot.

Two things can go wrong with the disk:

- The file can not be read any more. It is set aside as `spool.db.corrupt-TIME`, a new one begins with a Loss of unknown
  size, and sampling goes on. So it is with the file of a later agent, as `spool.db.version-NUMBER-TIME`.
- It can not be written: the disk is full, or the directory is not ours to write to. Then reports are kept in memory, up
  to 1,000 and 8 MB, and move to the disk as soon as it takes them, which is tried with each report. If the agent ends
  before that, those that were not acknowledged are lost and not counted. What is on the disk is sent meanwhile.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from loiter.limits import MAX_MESSAGE_BYTES
from loiter.logs import fields
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_agent.clock import since_boot as since_boot_now
from loiter_agent.encode import fit
from loiter_agent.spool_bounds import Bounds, Now
from loiter_agent.spool_database import Corrupt, LaterVersion
from loiter_agent.spool_file import Position, SpoolFile
from loiter_agent.spool_rows import Counts, new_epoch, unknown_loss

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

# What a report adds to its sample, with room to spare.
_ENVELOPE_BYTES: Final = 1_024
_MEMORY_BYTES: Final = 8_000_000
_MEMORY_REPORTS: Final = 1_000
# More than so many reports waiting as a connection is made do not go before new ones, but beside them.
_MANY_WAITING: Final = 16
# Of each kind.
_FILES_KEPT_ASIDE: Final = 3
# In the lock file once there is a spool: one that is empty or missing later has lost what was in it.
_MADE: Final = b"1"
# What SQLite's integers hold.
_LARGEST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Lanes:
    """What there is to send: the epoch that new reports go into, and those before it, oldest first."""

    live: Position
    backlog: tuple[Position, ...]


class Spool:
    """A bounded queue of reports in the order of their sequence. The disk is used by a thread of its own."""

    def __init__(
        self,
        host_id: str,
        boot_id: str,
        directory: Path,
        max_bytes: int,
        max_age: float,
    ) -> None:
        """Opens the spool of a directory, which is made if need be, and starts an epoch.

        Raises BlockingIOError where another agent has it open.
        """
        self.host_id = host_id
        self.instance = new_epoch()
        self._boot_id = boot_id
        self._directory = directory
        self._file = directory / "spool.db"
        self._bounds = Bounds(max_bytes, max_age)
        self._epoch = self.instance
        self._sequence = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._lock: int | None = None
        self._disk: SpoolFile | None = None
        self._memory: SpoolFile | None = None
        try:
            self._disk = self._open()
        except BlockingIOError:
            raise
        except OSError as error:
            self._keep_in_memory(error)
        self._thread = ThreadPoolExecutor(1, "spool")

    def __len__(self) -> int:
        """How many reports wait for their acknowledgement."""
        return sum(counts.reports for counts in self._counts())

    @property
    def dropped(self) -> int:
        """How many samples were given up before they were acknowledged, since the spool was made."""
        return sum(counts.dropped for counts in self._counts())

    def status(self) -> sample_pb2.SpoolStatus:
        """What waits, for a sample to tell."""
        counts = self._counts()
        return sample_pb2.SpoolStatus(
            waiting_reports=sum(one.reports for one in counts),
            waiting_bytes=sum(one.bytes for one in counts),
            in_memory=self._memory is not None,
        )

    def configure(self, max_bytes: int, max_age: float) -> None:
        """Sets how much is kept and for how long, in bytes and seconds, from the next report on."""
        self._bounds = Bounds(max_bytes, max_age)

    async def append(self, sample: sample_pb2.Sample, since_boot: float) -> None:
        """Adds a sample as the next report, taken so many seconds after the boot. Returns when it is written."""
        await self._run(lambda: self._append(sample, since_boot), notify=True)

    async def lanes(self) -> Lanes:
        """Says up to where each epoch is settled of which reports wait, and the one that new reports go into."""
        return await self._run(self._lanes)

    async def begin(self) -> Lanes:
        """Says where a stream is to begin. Where many reports wait, new ones go into a new epoch from now on."""
        return await self._run(self._begin)

    def change(self) -> asyncio.Event:
        """What is set once reports were added or let go of, or what could not be read may be read again."""
        return self._changed

    async def read(self, epoch: int, after: int) -> list[pb.Report]:
        """The next few reports of an epoch behind a sequence, in their order; none where none can be read now."""
        return await self._run(lambda: self._read(epoch, after))

    async def read_live(self, epoch: int, after: int) -> list[pb.Report]:
        """The next few reports behind a place in the live epoch, once there are any. They may begin the next epoch."""
        while True:
            changed = self._changed
            if reports := await self.read(epoch, after):
                return reports
            if epoch != self._epoch:
                epoch, after = self._epoch, 0
            else:
                await changed.wait()

    async def acknowledge(self, epoch: int, sequence: int) -> None:
        """Lets go of every report of an epoch up to a sequence."""
        if epoch <= _LARGEST and sequence <= _LARGEST:
            await self._run(lambda: self._settle(lambda file: file.acknowledge(epoch, sequence)), notify=True)

    async def reject(self, epoch: int, sequence: int) -> None:
        """Drops one report that an aggregator will never take. No Loss takes its place: the aggregator knows of it."""
        if epoch <= _LARGEST and sequence <= _LARGEST:
            await self._run(lambda: self._settle(lambda file: file.reject(epoch, sequence)), notify=True)

    async def drained(self) -> None:
        """Returns once no report is waiting."""
        while len(self):
            await self._changed.wait()

    async def close(self) -> None:
        """Closes the file, after what is in memory was given a last chance to get there. May be called again."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    # What follows is called in the spool's own thread, but for the constructor's part of it.

    async def _run(self, work: Callable[[], Result], notify: bool = False) -> Result:
        """Has the thread do something, which it does even if who asked for it is cancelled: others wait for it, too."""
        if self._closed:
            raise ValueError("the spool is closed")
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        if notify:
            done.add_done_callback(lambda _: self._notify())
        return await asyncio.shield(done)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _counts(self) -> list[Counts]:
        return [file.counts for file in (self._disk, self._memory) if file is not None]

    def _files(self) -> list[SpoolFile]:
        return [file for file in (self._disk, self._memory) if file is not None]

    def _now(self, since_boot: float) -> Now:
        return Now(self._boot_id, since_boot)

    def _append(self, sample: sample_pb2.Sample, since_boot: float) -> None:
        fitted = fit(sample, min(MAX_MESSAGE_BYTES, self._bounds.max_bytes) - _ENVELOPE_BYTES)
        now = self._now(since_boot)
        self._leave_if_removed(now)
        self._return_to_disk(now)
        taken = sample.sample_time.ToNanoseconds() / 1e9 if sample.HasField("sample_time") else time.time()
        for _ in range(2):  # once more where the file was corrupt: in a new one, in a new epoch
            if self._memory is None and self._write(fitted, taken, now):
                return
        memory = self._keep_in_memory(OSError("what is written can not be read"))
        memory.append([(self._next(fitted, now), taken)], self._memory_bounds(), now)

    def _write(self, sample: sample_pb2.Sample, taken: float, now: Now) -> bool:
        """Appends to the file, and says whether it took it. Where not, finds somewhere else to append to."""
        assert self._disk is not None
        report = self._next(sample, now)
        try:
            self._disk.append([(report, taken)], self._bounds, now)
        except Corrupt as error:
            self._replace(error)
        except OSError as error:
            self._sequence -= 1  # nothing was written
            self._keep_in_memory(error)
        else:
            return True
        return False

    def _next(self, sample: sample_pb2.Sample, now: Now) -> pb.Report:
        self._sequence += 1
        report = self._report(now)
        report.sample.CopyFrom(sample)
        return report

    def _report(self, now: Now) -> pb.Report:
        report = pb.Report(
            host_id=self.host_id, boot_id=self._boot_id, spool_epoch=self._epoch, sequence=self._sequence
        )
        report.taken_since_boot.FromNanoseconds(round(now.since_boot * 1e9))
        return report

    def _memory_bounds(self) -> Bounds:
        return Bounds(min(_MEMORY_BYTES, self._bounds.max_bytes), self._bounds.max_age, _MEMORY_REPORTS)

    def _begin(self) -> Lanes:
        waiting = self._ask(lambda file: file.waiting(self._epoch))
        if sum(waiting) > _MANY_WAITING:
            self._epoch, self._sequence = new_epoch(), 0
        return self._lanes()

    def _lanes(self) -> Lanes:
        positions: dict[int, Position] = {}
        for found in self._ask(lambda file: file.positions()):
            for position in found:
                positions.setdefault(position.epoch, position)  # an epoch in both begins on the disk
        live = positions.pop(self._epoch, None) or Position(self._epoch, self._sequence)
        return Lanes(live, tuple(positions.values()))

    def _read(self, epoch: int, after: int) -> list[pb.Report]:
        # What is in memory of an epoch comes after what is on the disk, and must not be sent before it: an
        # acknowledgement covers all up to it.
        for file in self._files():
            reports = self._use(file, lambda file: file.read(epoch, after))
            if reports is None or reports:
                return reports or []
        return []

    def _settle(self, settle: Callable[[SpoolFile], None]) -> None:
        for file in self._files():
            self._use(file, settle)

    def _ask(self, ask: Callable[[SpoolFile], Result]) -> list[Result]:
        answers = (self._use(file, ask) for file in self._files())
        return [answer for answer in answers if answer is not None]

    def _use(self, file: SpoolFile, use: Callable[[SpoolFile], Result]) -> Result | None:
        """Does something with a file. None where it can not be read any more, or the disk does not take it now."""
        try:
            return use(file)
        except Corrupt as error:
            self._replace(error)
        except OSError as error:
            _log.debug("%s: %s", self._file, error)  # the next report says so, if it lasts
        return None

    def _open(self) -> SpoolFile:
        """Opens the file, or a new one in its place. Raises OSError where neither can be done."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._lock is None:
            self._lock = _lock(self._directory)
        try:
            if os.pread(self._lock, 1, 0) and not _has_content(self._file):
                raise Corrupt("it is empty or missing, and was not")
            file = SpoolFile(self.host_id, self._file)
        except Corrupt as error:
            file = self._anew(error)
        os.pwrite(self._lock, _MADE, 0)
        return file

    def _anew(self, corrupt: Corrupt, dropped: int = 0) -> SpoolFile:
        """Sets the file aside and begins a new one: in a new epoch, with a loss of unknown size.

        Raises OSError where either can not be done. Once it is set aside, the loss is noted, in memory if need be.
        """
        if isinstance(corrupt, LaterVersion):
            aside = _set_aside(self._file, f"version-{corrupt.version}")
            what = f"the spool was made by a later agent: {corrupt}; it"
        else:
            aside = _set_aside(self._file, "corrupt")
            what = f"the spool can not be read any more ({corrupt}): it"
        _log.error(
            "%s is kept as %s, and what was in it is lost; sampling goes on", what, aside, extra=fields(file=aside)
        )
        if self._sequence:
            self._epoch = new_epoch()
        self._sequence = 1
        now = self._now(since_boot_now())
        loss = unknown_loss(self._report(now), self._epoch, self._sequence, pb.LOSS_REASON_SPOOL_CORRUPT)
        try:
            file = SpoolFile(self.host_id, self._file)
            try:
                file.append([(loss, time.time())], self._bounds, now)
                file.add_dropped(dropped)
            except BaseException:
                file.close()
                raise
        except (Corrupt, OSError) as error:
            memory = self._keep_in_memory(error)
            memory.append([(loss, time.time())], self._memory_bounds(), now)
            memory.add_dropped(dropped)
            raise OSError(str(error)) from error
        return file

    def _replace(self, corrupt: Corrupt) -> None:
        """Begins a new file where the one in use is corrupt, or keeps reports in memory where that can not be done."""
        dropped = 0
        if self._disk is not None:
            dropped = self._disk.counts.dropped
            self._disk.close()
            self._disk = None
        try:
            self._disk = self._anew(corrupt, dropped)
        except OSError as error:
            self._keep_in_memory(error)

    def _keep_in_memory(self, error: Corrupt | OSError) -> SpoolFile:
        """Returns what holds reports in memory, for the reason given."""
        if self._memory is None:
            self._memory = SpoolFile(self.host_id, None)
            _log.error(
                "%s can not be written (%s): reports are kept in memory, up to %d, and are lost if the agent ends "
                "before they are sent; the disk is tried again with each",
                self._file,
                (error.strerror if isinstance(error, OSError) else None) or error,
                _MEMORY_REPORTS,
                extra=fields(file=self._file, reason=error),
            )
        return self._memory

    def _leave_if_removed(self, now: Now) -> None:
        """Where the file was removed or replaced while it was in use, saves what is in it: it can still be read."""
        if self._disk is None or self._disk.is_in_place():
            return
        memory = self._keep_in_memory(OSError("it was removed or replaced while it was in use"))
        with suppress(Corrupt):
            memory.take_over(self._disk, self._memory_bounds(), now)
        self._disk.close()
        self._disk = None
        if self._lock is not None:  # it was beside the file
            os.close(self._lock)
            self._lock = None

    def _return_to_disk(self, now: Now) -> None:
        """Moves what is in memory to the disk, if the disk takes it."""
        if self._memory is None:
            return
        try:
            if self._disk is None:
                self._disk = self._open()
            self._disk.take_over(self._memory, self._bounds, now)
        except Corrupt as error:
            self._replace(error)
        except OSError as error:
            _log.debug("%s can still not be written: %s", self._file, error)
        else:
            moved = self._memory.counts.reports
            self._memory.close()
            self._memory = None
            facts = fields(file=self._file, reports=moved)
            _log.info("%s is written again: %d reports were moved to it from memory", self._file, moved, extra=facts)

    def _close(self) -> None:
        now = self._now(since_boot_now())
        self._leave_if_removed(now)
        self._return_to_disk(now)
        for file in self._files():
            file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(directory: Path) -> int:
    """Makes sure that no other agent uses a directory, for as long as the file returned is open (flock(2))."""
    lock = os.open(directory / "spool.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BlockingIOError(
            f"{directory} is in use by another agent: stop that one, or give this one a state_dir of its own"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _has_content(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


def _set_aside(file: Path, kind: str) -> Path:
    """Renames a file that is of no use, and deletes all but the last few of its kind. Raises OSError."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = file.with_name(f"{file.name}.{kind}-{stamp}")
    # The log first: a new file must never come to lie beside the log of another.
    for ending in ("-wal", "-shm", "-journal", ""):
        with suppress(FileNotFoundError):
            file.with_name(file.name + ending).rename(aside.with_name(aside.name + ending))
    names = {one.name.partition("Z")[0] for one in file.parent.glob(f"{file.name}.{kind.partition('-')[0]}-*")}
    for old in sorted(names, key=lambda name: name.rpartition("-")[2])[:-_FILES_KEPT_ASIDE]:
        for one in file.parent.glob(f"{old}Z*"):
            with suppress(OSError):
                one.unlink()
    return aside
