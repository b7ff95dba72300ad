"""Reports in an SQLite database: a file, or memory where no file can be written.

An append is on the disk when it returns (synchronous=FULL): neither kill -9 nor a power cut takes it back, as far as
the disk does what it says. Deletions are not waited for: after a power cut, reports that were acknowledged may be there
again and are sent again. Each transaction is there as a whole or not at all. A write-ahead log that is damaged by
anything else ends, for SQLite, where the damage begins: what is behind it is gone, and nobody can tell how much it was.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loiter.v1 import ingest_service_pb2 as pb
from loiter_agent.spool_bounds import Bounds, Now, drop
from loiter_agent.spool_database import LOG_BYTES, Corrupt, Unwritable, open_database, translated
from loiter_agent.spool_rows import COLUMNS, SAMPLE, Counts, Row, Rows, decode

# Pages given back to the file system at a time, and how many may be left unused.
_FREED_PAGES: Final = 256

# What is read at a time.
_PAGE_REPORTS: Final = 16
_PAGE_REPORT_BYTES: Final = 256 * 1_024


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where an epoch is settled: the first report that waits comes after `sequence`."""

    epoch: int
    sequence: int


class SpoolFile:
    """The reports of one file. Used by one thread at a time."""

    def __init__(self, host_id: str, path: Path | None) -> None:
        """Opens a file, or makes it; None for memory.

        Raises:
            Corrupt: It is no spool.
            LaterVersion: It is one, and only a later agent can read it.
            Unwritable: It can not be opened or written to.
        """
        self._path = path
        # What an aggregator has answered for, and may not be deleted yet, because the disk did not take it.
        self._acknowledged: dict[int, int] = {}
        self._rejected: set[tuple[int, int]] = set()
        self._durable: bool | None = None
        self._db = open_database(path)
        self._opened = self._identity()
        try:
            with translated():
                self._rows = Rows(self._db, host_id)
        except BaseException:
            self._db.close()
            raise

    @property
    def counts(self) -> Counts:
        """What is in the file."""
        return self._rows.counts

    def is_in_place(self) -> bool:
        """Whether the file is still where it was opened. One that was removed takes what is written, and is gone."""
        return self._identity() == self._opened

    def _identity(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

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
                self._rows.insert(report, taken)
            drop(self._rows, bounds, now)

    def take_over(self, other: SpoolFile, bounds: Bounds, now: Now) -> None:
        """Adds all that another holds, behind its own. All or nothing. Raises Corrupt or Unwritable."""
        self._check_room(other.counts.bytes)
        with self._transaction(durable=True):
            for row in other.rows():
                # Where the disk failed as it wrote one, and was opened anew, the same may be there after all.
                self._rows.delete(row.epoch, row.sequence, row.sequence)
                self._rows.insert_row(None, row)
            dropped = self.counts.dropped + other.counts.dropped
            self._rows.counts = self._rows.count()._replace(dropped=dropped)
            drop(self._rows, bounds, now)

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Lets go of every report of an epoch up to a sequence.

        It is done even where Unwritable is raised: then they are deleted with what is written next, and not given out
        meanwhile. Raises Corrupt, too.
        """
        with translated():
            rows = self._db.execute(
                "SELECT sequence, length(body), reason FROM report WHERE epoch = ? AND sequence <= ?", (epoch, sequence)
            ).fetchall()
            going = [row for row in rows if not self._is_gone(epoch, row[0])]
            if not going and not self._covers(epoch, sequence):
                return
        self._rows.discount(going)
        self._acknowledged[epoch] = max(sequence, self._acknowledged.get(epoch, 0))
        self._rejected = {(of, number) for of, number in self._rejected if of != epoch or number > sequence}
        with self._transaction():
            pass  # every transaction deletes what is settled

    def reject(self, epoch: int, sequence: int) -> None:
        """Lets go of one report for good, and counts it as dropped if it is a sample. Raises as `acknowledge` does."""
        with translated():
            row = self._db.execute(
                "SELECT sequence, length(body), reason FROM report WHERE epoch = ? AND sequence = ?", (epoch, sequence)
            ).fetchone()
        if row is None or self._is_gone(epoch, sequence):
            return
        self._rows.discount([row])
        if row[2] == SAMPLE:
            self._rows.add_dropped(1)
        self._rejected.add((epoch, sequence))
        with self._transaction():
            pass

    def add_dropped(self, samples: int) -> None:
        """Counts samples as dropped. Raises Corrupt or Unwritable."""
        with self._transaction():
            self._rows.add_dropped(samples)

    def read(self, epoch: int, after: int) -> list[pb.Report]:
        """The next few reports of an epoch behind a sequence, in order. Raises Corrupt or Unwritable."""
        after = max(after, self._acknowledged.get(epoch, 0))
        reports: list[pb.Report] = []
        size = 0
        with (
            translated(),
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
                report = decode(epoch, sequence, crc, body)
                if report.loss.first_sequence:
                    report.loss.first_sequence = max(report.loss.first_sequence, after + 1)
                reports.append(report)
                size += len(body)
                if len(reports) == _PAGE_REPORTS or size >= _PAGE_REPORT_BYTES:
                    break
        return reports

    def waiting(self, epoch: int) -> int:
        """How many reports of an epoch wait. Raises Corrupt or Unwritable."""
        with translated():
            (count,) = self._db.execute(
                "SELECT count(*) FROM report WHERE epoch = ? AND sequence > ?",
                (epoch, self._acknowledged.get(epoch, 0)),
            ).fetchone()
        return int(count) - sum(of == epoch for of, _ in self._rejected)

    def positions(self) -> list[Position]:
        """The epochs of which reports wait, oldest first. Raises Corrupt or Unwritable."""
        found: list[tuple[int, Position]] = []
        with translated():
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

    def rows(self) -> Iterator[Row]:
        """Every row that waits, oldest first."""
        with translated():
            for row in self._db.execute(f"SELECT {COLUMNS} FROM report ORDER BY position"):  # noqa: S608 - our own
                if not self._is_gone(row[0], row[2]):
                    yield Row(*row)

    @contextmanager
    def _transaction(self, durable: bool = False) -> Iterator[None]:
        """Does all of a block, and deletes what is settled, or none of it."""
        before = self.counts
        with translated():
            try:
                if durable is not self._durable:  # may not be set within a transaction
                    self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                    self._durable = durable
                self._db.execute("BEGIN IMMEDIATE")
                for epoch, sequence in self._acknowledged.items():
                    self._rows.delete(epoch, 0, sequence)
                    self._clip(epoch, sequence)
                for epoch, sequence in self._rejected:
                    self._rows.delete(epoch, sequence, sequence)
                yield
                self._db.execute("UPDATE dropped SET reports = ? WHERE reports <> ?", (self.counts.dropped,) * 2)
                self._db.execute("COMMIT")
            except BaseException:
                self._rows.counts = before
                if self._db.in_transaction:
                    with suppress(sqlite3.Error):  # what was said first is what matters
                        self._db.execute("ROLLBACK")
                raise
            self._acknowledged.clear()
            self._rejected.clear()
            self._shrink()

    def _is_gone(self, epoch: int, sequence: int) -> bool:
        return sequence <= self._acknowledged.get(epoch, 0) or (epoch, sequence) in self._rejected

    def _covers(self, epoch: int, sequence: int) -> bool:
        """Whether there is a loss that grew since it was sent: a part of it is acknowledged."""
        if not self.counts.losses:
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
        report = decode(epoch, sequence, crc, body)
        report.loss.first_sequence = settled + 1
        report.loss.ClearField("first_sample_time")
        self._rows.delete(epoch, sequence, sequence)
        self._rows.discount([(sequence, len(body), report.loss.reason)])
        self._rows.insert(report, taken, position)

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
        if room.f_bavail * room.f_frsize < 2 * size + LOG_BYTES // 4:
            raise Unwritable("there is not yet enough room on the disk")
