"""Reports in an SQLite database: a file, or memory where no file can be written.

An append is on the disk when it returns (synchronous=FULL): neither kill -9 nor a power cut takes it back, as far as
the disk does what it says. Deletions are not waited for: after a power cut, reports that were acknowledged may be there
again and are sent again. Each transaction is there as a whole or not at all.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from loiter.v1 import ingest_service_pb2 as pb

# "loit": says whose file it is (PRAGMA application_id).
_APPLICATION_ID: Final = 0x6C6F6974
_VERSION: Final = 1

_CACHE_KIB: Final = 256
_CHECKPOINT_PAGES: Final = 256
_PAGE_BYTES: Final = 4_096
# Pages given back to the file system at a time, and how many may be left unused.
_FREED_PAGES: Final = 256

# What is read at a time.
_PAGE_REPORTS: Final = 16
_PAGE_REPORT_BYTES: Final = 256 * 1_024
# What is dropped at a time: bounds the memory that it takes.
_DROPPED_AT_ONCE: Final = 256

# Losses that are told apart; beyond, the oldest become one of unknown size.
MAX_LOSSES: Final = 1_000

# The reason of a row that is no loss, but a sample.
_SAMPLE: Final = 0

_SCHEMA: Final = (
    # In the order of their making. `first` to `sequence` is what a row stands for: more than one in the case of a loss.
    "CREATE TABLE report (position INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, first INTEGER NOT NULL, "
    "sequence INTEGER NOT NULL, reason INTEGER NOT NULL, boot_id TEXT NOT NULL, since_boot REAL NOT NULL, "
    "taken REAL NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (epoch, sequence))",
    "CREATE INDEX report_by_reason ON report (reason)",
    "CREATE TABLE dropped (reports INTEGER NOT NULL)",
    "INSERT INTO dropped VALUES (0)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)
_INSERT: Final = (
    "INSERT INTO report (position, epoch, first, sequence, reason, boot_id, since_boot, taken, crc, body) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_COLUMNS: Final = "epoch, first, sequence, reason, boot_id, since_boot, taken, crc, body"

# SQLite's result codes (sqlite.org/rescode.html) that speak of the disk or of rights, not of what is in the file:
# PERM BUSY LOCKED READONLY IOERR FULL CANTOPEN.
_UNWRITABLE: Final = frozenset((3, 5, 6, 8, 10, 13, 14))
# Those of IOERR that say that the file can not be read: READ SHORT_READ DATA CORRUPTFS.
_UNREADABLE: Final = frozenset((266, 522, 8202, 8458))


class Corrupt(Exception):
    """The file is no spool, or not a whole one."""


class Unwritable(OSError):
    """The disk does not take what is written, or may not be written to."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: serialized bytes, seconds, and reports."""

    max_bytes: int
    max_age: float
    max_reports: int | None = None


@dataclass(frozen=True, slots=True)
class Now:
    """The time: of which boot, seconds since it (CLOCK_BOOTTIME), and the wall clock in seconds since 1970."""

    boot_id: str
    since_boot: float
    clock: float


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where an epoch is settled: the first report that waits comes after `sequence`."""

    epoch: int
    sequence: int


class Counts(NamedTuple):
    """What is in a file: reports that wait (losses included), their bytes, losses among them; samples ever dropped."""

    reports: int = 0
    bytes: int = 0
    losses: int = 0
    dropped: int = 0


class _Old(NamedTuple):
    """A sample that is to be dropped."""

    epoch: int
    sequence: int
    boot_id: str
    since_boot: float
    taken: float
    bytes: int


class SpoolFile:
    """The reports of one file. Used by one thread at a time."""

    def __init__(self, host_id: str, path: Path | None) -> None:
        """Opens a file, or makes it; None for memory.

        Raises:
            Corrupt: It is no spool, or one of a later version.
            Unwritable: It can not be opened or written to.
        """
        self._host_id = host_id
        self._path = path
        # What an aggregator has answered for, and may not be deleted yet, because the disk did not take it.
        self._acknowledged: dict[int, int] = {}
        self._rejected: set[tuple[int, int]] = set()
        self._durable: bool | None = None
        with _translated():
            self._db = _connect(path)
            try:
                _prepare(self._db)
                self._counts = self._count()
            except BaseException:
                self._db.close()
                raise

    @property
    def counts(self) -> Counts:
        """What is in the file."""
        return self._counts

    def close(self) -> None:
        """Closes the file. What is in it stays."""
        with suppress(sqlite3.Error):
            self._db.close()

    def append(self, reports: Iterable[tuple[pb.Report, float]], bounds: Bounds, now: Now) -> None:
        """Adds reports, each with the agent's clock when it was taken, and drops what is beyond the bounds.

        All of it is on the disk when this returns, or nothing was done. Raises Corrupt or Unwritable.
        """
        with self._transaction(durable=True):
            for report, taken in reports:
                self._insert(report, taken)
            self._drop(bounds, now)

    def take_over(self, other: SpoolFile, bounds: Bounds, now: Now) -> None:
        """Adds all that another holds, behind its own. All or nothing. Raises Corrupt or Unwritable."""
        self._check_room(other.counts.bytes)
        with self._transaction(durable=True):
            for row in other.rows():
                # Where the disk failed as it wrote one, and was opened anew, the same may be there after all.
                self._delete(row.epoch, row.sequence, row.sequence)
                self._insert_row(None, row)
            self._counts = self._count()._replace(dropped=self._counts.dropped + other.counts.dropped)
            self._drop(bounds, now)

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Lets go of every report of an epoch up to a sequence.

        It is done even where Unwritable is raised: then they are deleted with what is written next, and not given out
        meanwhile. Raises Corrupt, too.
        """
        with _translated():
            rows = self._db.execute(
                "SELECT sequence, length(body), reason FROM report WHERE epoch = ? AND sequence <= ?", (epoch, sequence)
            ).fetchall()
            going = [row for row in rows if not self._is_gone(epoch, row[0])]
            if not going and not self._covers(epoch, sequence):
                return
        self._discount(going)
        self._acknowledged[epoch] = max(sequence, self._acknowledged.get(epoch, 0))
        self._rejected = {(of, number) for of, number in self._rejected if of != epoch or number > sequence}
        with self._transaction():
            pass  # every transaction deletes what is settled

    def reject(self, epoch: int, sequence: int) -> None:
        """Lets go of one report for good, and counts it as dropped if it is a sample. Raises as `acknowledge` does."""
        with _translated():
            row = self._db.execute(
                "SELECT sequence, length(body), reason FROM report WHERE epoch = ? AND sequence = ?", (epoch, sequence)
            ).fetchone()
        if row is None or self._is_gone(epoch, sequence):
            return
        self._discount([row])
        if row[2] == _SAMPLE:
            self._counts = self._counts._replace(dropped=self._counts.dropped + 1)
        self._rejected.add((epoch, sequence))
        with self._transaction():
            pass

    def add_dropped(self, samples: int) -> None:
        """Counts samples as dropped. Raises Corrupt or Unwritable."""
        with self._transaction():
            self._counts = self._counts._replace(dropped=self._counts.dropped + samples)

    def read(self, epoch: int, after: int) -> list[pb.Report]:
        """The next few reports of an epoch behind a sequence, in order. Raises Corrupt or Unwritable."""
        after = max(after, self._acknowledged.get(epoch, 0))
        reports: list[pb.Report] = []
        size = 0
        with (
            _translated(),
            closing(
                self._db.execute(
                    "SELECT sequence, crc, body FROM report WHERE epoch = ? AND sequence > ? ORDER BY sequence LIMIT ?",
                    (epoch, after, _PAGE_REPORTS + len(self._rejected)),
                )
            ) as rows,
        ):
            for sequence, crc, body in rows:
                if (epoch, sequence) in self._rejected:
                    continue
                if sequence <= (reports[-1].sequence if reports else after):
                    raise Corrupt("an index is out of order")
                report = _decode(epoch, sequence, crc, body)
                if report.loss.first_sequence:
                    report.loss.first_sequence = max(report.loss.first_sequence, after + 1)
                reports.append(report)
                size += len(body)
                if len(reports) == _PAGE_REPORTS or size >= _PAGE_REPORT_BYTES:
                    break
        return reports

    def waiting(self, epoch: int) -> int:
        """How many reports of an epoch wait. Raises Corrupt or Unwritable."""
        with _translated():
            (count,) = self._db.execute(
                "SELECT count(*) FROM report WHERE epoch = ? AND sequence > ?",
                (epoch, self._acknowledged.get(epoch, 0)),
            ).fetchone()
        return int(count) - sum(of == epoch for of, _ in self._rejected)

    def positions(self) -> list[Position]:
        """The epochs of which reports wait, oldest first. Raises Corrupt or Unwritable."""
        found: list[tuple[int, Position]] = []
        with _translated():
            last = 0
            while True:  # from one epoch to the next by the index: as many steps as there are epochs, not reports
                row = self._db.execute("SELECT min(epoch) FROM report WHERE epoch > ?", (last,)).fetchone()
                if row[0] is None:
                    break
                if not isinstance(row[0], int) or row[0] <= last:
                    raise Corrupt("an index is out of order")
                last = row[0]
                waiting = self._db.execute(
                    "SELECT position, first FROM report WHERE epoch = ? AND sequence > ? ORDER BY sequence LIMIT 1",
                    (last, self._acknowledged.get(last, 0)),
                ).fetchone()
                if waiting is not None:
                    settled = max(waiting[1] - 1, self._acknowledged.get(last, 0))
                    found.append((waiting[0], Position(last, settled)))
            return [position for _, position in sorted(found, key=lambda one: one[0])]

    def rows(self) -> Iterator[_Row]:
        """Every row that waits, oldest first."""
        with _translated():
            for row in self._db.execute(f"SELECT {_COLUMNS} FROM report ORDER BY position"):  # noqa: S608 - our own
                if not self._is_gone(row[0], row[2]):
                    yield _Row(*row)

    @contextmanager
    def _transaction(self, durable: bool = False) -> Iterator[None]:
        """Does all of a block, and deletes what is settled, or none of it."""
        before = self._counts
        with _translated():
            try:
                if durable is not self._durable:  # may not be set within a transaction
                    self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                    self._durable = durable
                self._db.execute("BEGIN IMMEDIATE")
                for epoch, sequence in self._acknowledged.items():
                    self._delete(epoch, 0, sequence)
                    self._clip(epoch, sequence)
                for epoch, sequence in self._rejected:
                    self._delete(epoch, sequence, sequence)
                yield
                self._db.execute("UPDATE dropped SET reports = ? WHERE reports <> ?", (self._counts.dropped,) * 2)
                self._db.execute("COMMIT")
            except BaseException:
                self._counts = before
                if self._db.in_transaction:
                    with suppress(sqlite3.Error):  # what was said first is what matters
                        self._db.execute("ROLLBACK")
                raise
            self._acknowledged.clear()
            self._rejected.clear()
            self._shrink()

    def _insert(self, report: pb.Report, taken: float, position: int | None = None) -> None:
        body = report.SerializeToString()
        first, reason = report.sequence, _SAMPLE
        if report.HasField("loss"):
            first, reason = report.loss.first_sequence or report.sequence, report.loss.reason
        since_boot = report.taken_since_boot.ToNanoseconds() / 1e9
        crc = _checksum(report.spool_epoch, report.sequence, body)
        row = _Row(report.spool_epoch, first, report.sequence, reason, report.boot_id, since_boot, taken, crc, body)
        self._insert_row(position, row)

    def _insert_row(self, position: int | None, row: _Row) -> None:
        self._db.execute(_INSERT, (position, *row))
        counts = self._counts
        self._counts = counts._replace(
            reports=counts.reports + 1,
            bytes=counts.bytes + len(row.body),
            losses=counts.losses + (row.reason != _SAMPLE),
        )

    def _discount(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Takes rows (sequence, bytes, reason) out of what is counted."""
        counts = self._counts
        self._counts = counts._replace(
            reports=counts.reports - len(rows),
            bytes=counts.bytes - sum(size for _, size, _ in rows),
            losses=counts.losses - sum(reason != _SAMPLE for _, _, reason in rows),
        )

    def _is_gone(self, epoch: int, sequence: int) -> bool:
        return sequence <= self._acknowledged.get(epoch, 0) or (epoch, sequence) in self._rejected

    def _delete(self, epoch: int, first: int, last: int) -> None:
        self._db.execute("DELETE FROM report WHERE epoch = ? AND sequence BETWEEN ? AND ?", (epoch, first, last))

    def _covers(self, epoch: int, sequence: int) -> bool:
        """Whether there is a loss that grew since it was sent: a part of it is acknowledged."""
        if not self._counts.losses:
            return False
        found = self._db.execute(
            "SELECT 1 FROM report WHERE epoch = ? AND sequence > ? AND first <= ? LIMIT 1", (epoch, sequence, sequence)
        ).fetchone()
        return found is not None

    def _clip(self, epoch: int, settled: int) -> None:
        """Has a loss begin behind what is settled."""
        if not self._covers(epoch, settled):
            return
        position, taken, sequence, crc, body = self._db.execute(
            "SELECT position, taken, sequence, crc, body FROM report WHERE epoch = ? AND sequence > ? "
            "ORDER BY sequence LIMIT 1",
            (epoch, settled),
        ).fetchone()
        report = _decode(epoch, sequence, crc, body)
        report.loss.first_sequence = settled + 1
        report.loss.ClearField("first_sample_time")
        self._delete(epoch, sequence, sequence)
        self._discount([(sequence, len(body), report.loss.reason)])
        self._insert(report, taken, position)

    def _drop(self, bounds: Bounds, now: Now) -> None:
        # More than there is can not be dropped: an index that is at fault could give out the same rows for ever.
        left = self._counts.reports
        for find, reason in (
            (partial(self._expired, bounds, now), pb.LOSS_REASON_TOO_OLD),
            (partial(self._surplus, bounds), pb.LOSS_REASON_SPOOL_FULL),
        ):
            while rows := find():
                left -= len(rows)
                if left < 0:
                    raise Corrupt("what was dropped is still there")
                self._lose(rows, reason)
        if self._counts.losses > MAX_LOSSES:
            self._merge_oldest_losses()

    def _oldest(self) -> Iterator[_Old]:
        with closing(
            self._db.execute(
                "SELECT epoch, sequence, boot_id, since_boot, taken, length(body) FROM report "
                "WHERE reason = ? ORDER BY position LIMIT ?",
                (_SAMPLE, _DROPPED_AT_ONCE),
            )
        ) as rows:
            for row in rows:
                yield _Old(*row)

    def _expired(self, bounds: Bounds, now: Now) -> list[_Old]:
        rows: list[_Old] = []
        for row in self._oldest():
            # The clock since boot never steps. Of another boot, the wall clock is all there is to go by, but that the
            # report was there before this one.
            this_boot = row.boot_id == now.boot_id
            age = now.since_boot - row.since_boot if this_boot else max(now.since_boot, now.clock - row.taken)
            if age <= bounds.max_age:
                break
            rows.append(row)
        return rows

    def _surplus(self, bounds: Bounds) -> list[_Old]:
        rows: list[_Old] = []
        size, reports = self._counts.bytes, self._counts.reports - self._counts.losses
        for row in self._oldest():
            if size <= bounds.max_bytes and (bounds.max_reports is None or reports <= bounds.max_reports):
                break
            rows.append(row)
            size -= row.bytes
            reports -= 1
        return rows

    def _lose(self, rows: Sequence[_Old], reason: pb.LossReason.ValueType) -> None:
        """Puts losses in the place of samples: one for each row of sequences without a hole."""
        run: list[_Old] = []
        for row in rows:
            if run and (row.epoch, row.sequence) != (run[-1].epoch, run[-1].sequence + 1):
                self._lose_run(run, reason)
                run = []
            run.append(row)
        self._lose_run(run, reason)

    def _lose_run(self, run: Sequence[_Old], reason: pb.LossReason.ValueType) -> None:
        first, last = run[0], run[-1]
        loss = pb.Loss(reason=reason, first_sequence=first.sequence)
        loss.first_sample_time.FromNanoseconds(_nanoseconds(first.taken))
        loss.last_sample_time.FromNanoseconds(_nanoseconds(last.taken))
        begins = first.sequence
        before = self._db.execute(
            "SELECT sequence, length(body), reason, crc, body FROM report "
            "WHERE epoch = ? AND sequence = ? AND reason = ?",
            (first.epoch, first.sequence - 1, reason),
        ).fetchone()
        if before is not None:
            earlier = _decode(first.epoch, before[0], before[3], before[4]).loss
            if earlier.first_sequence:  # it is known how many
                loss.first_sequence = earlier.first_sequence
                loss.ClearField("first_sample_time")
                if earlier.HasField("first_sample_time"):
                    loss.first_sample_time.CopyFrom(earlier.first_sample_time)
                begins = before[0]
                self._discount([before[:3]])
        (position,) = self._db.execute(
            "SELECT position FROM report WHERE epoch = ? AND sequence = ?", (last.epoch, last.sequence)
        ).fetchone()
        self._delete(first.epoch, begins, last.sequence)
        self._discount([(row.sequence, row.bytes, _SAMPLE) for row in run])
        report = pb.Report(
            host_id=self._host_id, boot_id=last.boot_id, spool_epoch=last.epoch, sequence=last.sequence, loss=loss
        )
        report.taken_since_boot.FromNanoseconds(_nanoseconds(last.since_boot))
        self._insert(report, last.taken, position)
        self._counts = self._counts._replace(dropped=self._counts.dropped + len(run))

    def _merge_oldest_losses(self) -> None:
        """Makes one loss of unknown size of the oldest, in an epoch of its own: even what is lost must have a bound."""
        excess = self._counts.losses - MAX_LOSSES + 1
        rows = self._db.execute(
            "SELECT position, epoch, sequence, length(body), reason, taken, crc, body FROM report "
            "WHERE reason <> ? ORDER BY position LIMIT ?",
            (_SAMPLE, excess),
        ).fetchall()
        reports = [_decode(row[1], row[2], row[6], row[7]) for row in rows]
        for _, epoch, sequence, size, reason, *_ in rows:
            self._delete(epoch, sequence, sequence)
            self._discount([(sequence, size, reason)])
        last_position, *_, taken, _, _ = rows[-1]
        merged = unknown_loss(reports[-1], new_epoch(), 1, reports[0].loss.reason)
        first_time, last_time = reports[0].loss, reports[-1].loss
        if first_time.HasField("first_sample_time"):
            merged.loss.first_sample_time.CopyFrom(first_time.first_sample_time)
        if last_time.HasField("last_sample_time"):
            merged.loss.last_sample_time.CopyFrom(last_time.last_sample_time)
        self._insert(merged, taken, last_position)

    def _count(self) -> Counts:
        reports, size, losses = self._db.execute(
            "SELECT count(*), total(length(body)), total(reason <> ?) FROM report", (_SAMPLE,)
        ).fetchone()
        (dropped,) = self._db.execute("SELECT reports FROM dropped").fetchone() or (0,)
        if not isinstance(dropped, int) or dropped < 0:
            raise Corrupt("the count of what was dropped is not a number")
        return Counts(reports, int(size), int(losses), dropped)

    def _shrink(self) -> None:
        """Gives pages that are not used back to the file system, a few at a time."""
        with suppress(sqlite3.Error):  # what was to be done is done
            (unused,) = self._db.execute("PRAGMA freelist_count").fetchone()
            if unused > _FREED_PAGES:
                # Not `execute`, which ends the pragma after its first page.
                self._db.executescript(f"PRAGMA incremental_vacuum({_FREED_PAGES})")

    def _check_room(self, size: int) -> None:
        """Spares the disk an attempt that must fail."""
        if self._path is None:
            return
        room = os.statvfs(self._path.parent)
        if room.f_bavail * room.f_frsize < 2 * size + _CHECKPOINT_PAGES * _PAGE_BYTES // 4:
            raise Unwritable("there is not yet enough room on the disk")


class _Row(NamedTuple):
    """A row as it is kept."""

    epoch: int
    first: int
    sequence: int
    reason: int
    boot_id: str
    since_boot: float
    taken: float
    crc: int
    body: bytes


def new_epoch() -> int:
    """Draws a number that no spool has had: 63 bits, not 0."""
    return int.from_bytes(os.urandom(8), "big") >> 1 or 1


def unknown_loss(like: pb.Report, epoch: int, sequence: int, reason: pb.LossReason.ValueType) -> pb.Report:
    """A loss of unknown size, of the host and boot of another report."""
    report = pb.Report(host_id=like.host_id, boot_id=like.boot_id, spool_epoch=epoch, sequence=sequence)
    if like.HasField("taken_since_boot"):
        report.taken_since_boot.CopyFrom(like.taken_since_boot)
    report.loss.reason = reason
    return report


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is None:
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:  # SQLite would make a file that everybody may read; its other files get the mode of this one
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(file, 0o600)
        finally:
            os.close(file)
    except OSError as error:
        raise Unwritable(error.strerror) from None
    return sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)


def _prepare(db: sqlite3.Connection) -> None:
    """Sets how the file is used, and makes the tables of a new one."""
    # Nobody else reads the file: without a shared index in memory, which needs a file of its own.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA secure_delete = OFF")  # some distributions have what is deleted written over
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}").fetchall()
    db.execute(f"PRAGMA journal_size_limit = {4 * _CHECKPOINT_PAGES * _PAGE_BYTES}").fetchall()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if (application, version) == (_APPLICATION_ID, _VERSION):
        return
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables or version or application:
        what = f"of version {version}, this agent knows {_VERSION}" if application == _APPLICATION_ID else "no spool"
        raise Corrupt(f"the file is {what}")
    db.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        db.execute(statement)
    db.execute("COMMIT")


@contextmanager
def _translated() -> Iterator[None]:
    """Says of an error of SQLite whether the file or the disk is at fault. Misuse stays what it is."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in _UNWRITABLE and code not in _UNREADABLE:
            raise Unwritable(str(error)) from error
        raise Corrupt(str(error)) from error
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        # A column holds what was never put there: in SQLite, a value has the type that the file says.
        raise Corrupt(f"{type(error).__name__}: {error}") from error


def _decode(epoch: int, sequence: int, crc: int, body: bytes) -> pb.Report:
    try:
        if _checksum(epoch, sequence, body) == crc:
            return pb.Report.FromString(body)
    except (DecodeError, TypeError):  # a file at fault may have a column of any type
        pass
    raise Corrupt(f"report {sequence} of epoch {epoch} is not what was written")


def _checksum(epoch: int, sequence: int, body: bytes) -> int:
    """Of what a row is, too: a report under another number would pass for one that is stored."""
    return zlib.crc32(body, zlib.crc32(epoch.to_bytes(8, "big") + sequence.to_bytes(8, "big")))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e6) * 1_000
