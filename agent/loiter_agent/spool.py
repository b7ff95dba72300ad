"""Keeps reports from the tick that made them until an aggregator has them.

In a file of the state directory (see spool_file). Where the disk does not take them, since it is full, read-only or
gone, they are kept in memory, within bounds of their own, and moved to the disk as soon as that is possible: those in
memory are lost, and not counted, if the agent ends meanwhile. A file that can not be read any more is set aside, and a
loss of unknown size takes its place.

Reports are numbered in epochs. Every opening of a spool draws a new one, so that a number is never used twice, even
where a power cut took back what was written last.
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
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from loiter.limits import MAX_MESSAGE_BYTES
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_agent.encode import fit
from loiter_agent.spool_file import Bounds, Corrupt, Counts, Now, Position, SpoolFile, Unwritable, new_epoch

_log = logging.getLogger(__name__)

FILE: Final = "spool.db"
_LOCK_FILE: Final = "spool.lock"
# Beside the database: its write-ahead log and index.
_COMPANIONS: Final = ("-wal", "-shm")
_MOST_SET_ASIDE: Final = 3

# What a report adds to its sample, with room to spare.
_ENVELOPE_BYTES: Final = 1_024
_MEMORY_REPORTS: Final = 1_000
_MEMORY_BYTES: Final = 8_000_000

Result = TypeVar("Result")


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Spool:
    """Reports that wait for their acknowledgement, bounded by bytes and age: the oldest are dropped first and counted.

    What touches the disk runs in a thread of the spool's own, so that a disk that is slow holds up nobody else.
    """

    def __init__(
        self,
        host_id: str,
        boot_id: str,
        directory: Path,
        max_bytes: int,
        max_age: float,
        clock: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = _boottime,
    ) -> None:
        """Opens the spool of a directory, and makes what is missing.

        Args:
            host_id: The host that reports are of.
            boot_id: The boot they are taken in.
            directory: Where the file is.
            max_bytes: How much is kept on the disk.
            max_age: How long a report is kept, in seconds.
            clock: The wall clock, in seconds since 1970.
            since_boot: CLOCK_BOOTTIME, in seconds.

        Raises:
            OSError: Another agent uses the directory.
        """
        self.host_id = host_id
        self.instance = new_epoch()
        self._boot_id = boot_id
        self._directory = directory
        self._bounds = Bounds(max_bytes, max_age)
        self._clock, self._since_boot = clock, since_boot
        self._epoch, self._sequence = self.instance, 0
        self._disk: SpoolFile | None = None
        self._memory: SpoolFile | None = None
        self._lock: int | None = None
        self._closed = False
        self._change = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._open_disk()

    @property
    def epoch(self) -> int:
        """The epoch that new reports are numbered in."""
        return self._epoch

    @property
    def dropped(self) -> int:
        """Samples that were given up since the spool was made."""
        return sum(counts.dropped for counts in self._counts())

    def __len__(self) -> int:
        """How many reports wait, losses included."""
        return sum(counts.reports for counts in self._counts())

    def status(self) -> sample_pb2.SpoolStatus:
        """What waits, for a sample to tell."""
        return sample_pb2.SpoolStatus(
            waiting_reports=len(self),
            waiting_bytes=sum(counts.bytes for counts in self._counts()),
            in_memory=self._memory is not None,
        )

    def configure(self, max_bytes: int, max_age: float) -> None:
        """Changes the bounds, from the next report on."""
        self._bounds = Bounds(max_bytes, max_age)

    async def append(self, sample: sample_pb2.Sample, since_boot: float) -> None:
        """Adds a sample as the next report; it is on the disk, if that takes it, when this returns.

        `since_boot` is CLOCK_BOOTTIME in seconds when the sample was taken.
        """
        await self._run(lambda: self._append(sample, since_boot))
        self._notify()

    async def begin_epoch(self) -> None:
        """Has the reports to come be numbered anew: those that wait become a backlog."""
        await self._run(self._draw_epoch)
        self._notify()

    async def positions(self) -> list[Position]:
        """Up to where the epochs are settled of which reports wait, oldest first, and the present one."""
        return await self._run(self._positions)

    async def read(self, epoch: int, after: int) -> list[pb.Report]:
        """The next few reports of an epoch behind a sequence; none where there are none yet."""
        return await self._run(lambda: self._read(epoch, after))

    async def acknowledge(self, epoch: int, sequence: int) -> None:
        """Lets go of every report of an epoch up to a sequence."""
        await self._run(lambda: self._settle(lambda file: file.acknowledge(epoch, sequence)))
        self._notify()

    async def reject(self, epoch: int, sequence: int) -> None:
        """Drops one report that the aggregator will never take, which has noted the loss."""
        await self._run(lambda: self._settle(lambda file: file.reject(epoch, sequence)))
        self._notify()

    @property
    def change(self) -> asyncio.Event:
        """What is set once something is added or settled from now on."""
        return self._change

    async def drained(self) -> None:
        """Returns once no report waits."""
        while len(self):
            await self._change.wait()

    async def close(self) -> None:
        """Closes the files. What is on the disk stays there. Closing twice is harmless."""
        if self._closed:
            return
        await self._run(self._close)
        self._closed = True
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _notify(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    # All from here on runs in the thread, or before there is one.

    def _counts(self) -> list[Counts]:
        return [file.counts for file in (self._disk, self._memory) if file is not None]

    def _now(self) -> Now:
        return Now(self._boot_id, self._since_boot(), self._clock())

    def _append(self, sample: sample_pb2.Sample, since_boot: float) -> None:
        sample = fit(sample, MAX_MESSAGE_BYTES - _ENVELOPE_BYTES)
        taken = sample.sample_time.ToNanoseconds() / 1e9
        if self._memory is not None:
            self._move_to_disk()
        while True:
            report = pb.Report(
                host_id=self.host_id,
                boot_id=self._boot_id,
                spool_epoch=self._epoch,
                sequence=self._sequence + 1,
                sample=sample,
            )
            report.taken_since_boot.FromNanoseconds(round(since_boot * 1e9))
            if self._add(report, taken):
                self._sequence += 1
                return

    def _add(self, report: pb.Report, taken: float) -> bool:
        """Adds a report where there is room for it. False: it has to be numbered anew."""
        if self._memory is None and self._disk is not None:
            try:
                self._disk.append([(report, taken)], self._bounds, self._now())
            except Unwritable as error:
                self._keep_in_memory(str(error))
            except Corrupt as error:
                self._set_aside(error)
                return False
            else:
                return True
        assert self._memory is not None
        self._memory.append([(report, taken)], self._memory_bounds(), self._now())
        return True

    def _memory_bounds(self) -> Bounds:
        return Bounds(min(_MEMORY_BYTES, self._bounds.max_bytes), self._bounds.max_age, _MEMORY_REPORTS)

    def _draw_epoch(self) -> None:
        self._epoch, self._sequence = new_epoch(), 0

    def _positions(self) -> list[Position]:
        found: dict[int, Position] = {}
        for file in self._files():
            known: list[Position] = []
            for position in self._try(file, file.positions, known):
                found.setdefault(position.epoch, position)
        found.setdefault(self._epoch, Position(self._epoch, self._sequence))
        return list(found.values())

    def _read(self, epoch: int, after: int) -> list[pb.Report]:
        for file in self._files():  # what is in memory came after what is on the disk
            nothing: list[pb.Report] = []
            if reports := self._try(file, partial(file.read, epoch, after), nothing):
                return reports
        return []

    def _settle(self, work: Callable[[SpoolFile], None]) -> None:
        for file in self._files():
            self._try(file, partial(work, file), None)

    def _files(self) -> list[SpoolFile]:
        return [file for file in (self._disk, self._memory) if file is not None]

    def _try(self, file: SpoolFile, work: Callable[[], Result], otherwise: Result) -> Result:
        """Asks a file. One that is corrupt is set aside; one that can not be written to keeps what it is to do."""
        try:
            return work()
        except Unwritable:
            return otherwise
        except Corrupt as error:
            if file is self._disk:
                self._set_aside(error)
            return otherwise

    def _open_disk(self) -> None:
        try:
            self._take_lock()
            self._disk = SpoolFile(self.host_id, self._directory / FILE)
        except Unwritable as error:
            self._keep_in_memory(str(error))
        except Corrupt as error:
            self._set_aside(error)

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._directory / _LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Unwritable(error.strerror) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise OSError(
                f"another agent uses {self._directory}; give each a state directory of its own (--state-dir)"
            ) from None
        self._lock = lock

    def _keep_in_memory(self, reason: str) -> None:
        if self._memory is not None:
            return
        self._memory = SpoolFile(self.host_id, None)
        _log.error(
            "cannot write to %s (%s); up to %s reports are kept in memory instead, until it can be written to, "
            "and are lost if the agent ends before",
            self._directory / FILE,
            reason,
            f"{_MEMORY_REPORTS:,}",
        )

    def _move_to_disk(self) -> None:
        assert self._memory is not None
        try:
            if self._disk is None:
                self._take_lock()
                self._disk = SpoolFile(self.host_id, self._directory / FILE)
            moved = self._memory.counts.reports
            self._disk.take_over(self._memory, self._bounds, self._now())
        except OSError:
            return  # tried again at the next report
        except Corrupt as error:
            self._set_aside(error)
            return
        self._memory.close()
        self._memory = None
        _log.warning("%s can be written to again; %d reports moved there", self._directory / FILE, moved)

    def _set_aside(self, error: Corrupt) -> None:
        """Renames the file, begins another and an epoch with it, and reports a loss of unknown size."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None
        file = self._directory / FILE
        aside = f"{file}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        _log.error("the spool can not be read any more (%s); it is kept as %s, and a new one begun", error, aside)
        self._draw_epoch()
        self._sequence = 1
        loss = pb.Report(host_id=self.host_id, boot_id=self._boot_id, spool_epoch=self._epoch, sequence=1)
        loss.taken_since_boot.FromNanoseconds(round(self._since_boot() * 1e9))
        loss.loss.reason = pb.LOSS_REASON_SPOOL_CORRUPT
        reports = [(loss, self._clock())]
        try:
            for suffix in ("", *_COMPANIONS):
                with suppress(FileNotFoundError):
                    Path(f"{file}{suffix}").rename(f"{aside}{suffix}")
            self._forget_older()
            self._disk = SpoolFile(self.host_id, file)
            self._disk.append(reports, self._bounds, self._now())
        except (OSError, Corrupt) as failure:
            if self._disk is not None:
                self._disk.close()
                self._disk = None
            self._keep_in_memory(str(failure))
            assert self._memory is not None
            self._memory.append(reports, self._memory_bounds(), self._now())

    def _forget_older(self) -> None:
        kept = sorted(self._directory.glob(f"{FILE}.corrupt-*Z"))
        for old in kept[:-_MOST_SET_ASIDE]:
            for suffix in ("", *_COMPANIONS):
                with suppress(OSError):
                    Path(f"{old}{suffix}").unlink()

    def _close(self) -> None:
        for file in self._files():
            file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
