"""The rows in which a spool keeps its reports, and what they come to."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from loiter.v1 import ingest_service_pb2 as pb
from loiter_agent.spool_database import Corrupt

# The reason of a row that is no loss, but a sample.
SAMPLE: Final = 0

COLUMNS: Final = "epoch, first, sequence, reason, boot_id, since_boot, taken, crc, body"
_INSERT: Final = f"INSERT INTO report (position, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - our own


class Counts(NamedTuple):
    """What is in a file: reports that wait (losses included), their bytes, losses among them; samples ever dropped."""

    reports: int = 0
    bytes: int = 0
    losses: int = 0
    dropped: int = 0


class Row(NamedTuple):
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


class Rows:
    """Adds and removes rows and counts what is there, within a transaction of the caller."""

    def __init__(self, db: sqlite3.Connection, host_id: str) -> None:
        """Counts what is there. Raises Corrupt or sqlite3.Error."""
        self.db = db
        self.host_id = host_id
        self.counts = self.count()

    def insert(self, report: pb.Report, taken: float, position: int | None = None) -> None:
        """Adds a report with the agent's clock when it was taken, behind all others unless a position is given."""
        body = report.SerializeToString()
        first, reason = report.sequence, SAMPLE
        if report.HasField("loss"):
            first, reason = report.loss.first_sequence or report.sequence, report.loss.reason
        since_boot = report.taken_since_boot.ToNanoseconds() / 1e9
        crc = checksum(report.spool_epoch, report.sequence, body)
        row = Row(report.spool_epoch, first, report.sequence, reason, report.boot_id, since_boot, taken, crc, body)
        self.insert_row(position, row)

    def insert_row(self, position: int | None, row: Row) -> None:
        """Adds a row as it is kept."""
        self.db.execute(_INSERT, (position, *row))
        counts = self.counts
        self.counts = counts._replace(
            reports=counts.reports + 1,
            bytes=counts.bytes + len(row.body),
            losses=counts.losses + (row.reason != SAMPLE),
        )

    def discount(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Takes rows (sequence, bytes, reason) out of what is counted."""
        counts = self.counts
        self.counts = counts._replace(
            reports=counts.reports - len(rows),
            bytes=counts.bytes - sum(size for _, size, _ in rows),
            losses=counts.losses - sum(reason != SAMPLE for _, _, reason in rows),
        )

    def delete(self, epoch: int, first: int, last: int) -> None:
        """Removes rows, which stay counted: see `discount`."""
        self.db.execute("DELETE FROM report WHERE epoch = ? AND sequence BETWEEN ? AND ?", (epoch, first, last))

    def add_dropped(self, samples: int) -> None:
        """Counts samples as dropped."""
        self.counts = self.counts._replace(dropped=self.counts.dropped + samples)

    def count(self) -> Counts:
        """Counts anew what is there. Raises Corrupt or sqlite3.Error."""
        reports, size, losses = self.db.execute(
            "SELECT count(*), total(length(body)), total(reason <> ?) FROM report", (SAMPLE,)
        ).fetchone()
        (dropped,) = self.db.execute("SELECT reports FROM dropped").fetchone() or (0,)
        if not isinstance(dropped, int) or dropped < 0:
            raise Corrupt("the count of what was dropped is not a number")
        return Counts(reports, int(size), int(losses), dropped)


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


def decode(epoch: int, sequence: int, crc: int, body: bytes) -> pb.Report:
    """The report of a row. Raises Corrupt."""
    try:
        if checksum(epoch, sequence, body) == crc:
            return pb.Report.FromString(body)
    except (DecodeError, TypeError):  # a file at fault may have a column of any type
        pass
    raise Corrupt(f"report {sequence} of epoch {epoch} is not what was written")


def checksum(epoch: int, sequence: int, body: bytes) -> int:
    """Of what a row is, too: a report under another number would pass for one that is stored."""
    return zlib.crc32(body, zlib.crc32(epoch.to_bytes(8, "big") + sequence.to_bytes(8, "big")))
