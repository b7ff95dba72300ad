"""The bounds of a spool: drops the oldest reports of what is too much or too old, and has losses take their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Final, NamedTuple

from loiter.v1 import ingest_service_pb2 as pb
from loiter_agent.spool_database import Corrupt
from loiter_agent.spool_rows import SAMPLE, Rows, decode, new_epoch, unknown_loss

# What is dropped at a time: bounds the memory that it takes.
_DROPPED_AT_ONCE: Final = 256
# Losses that are told apart; beyond, the oldest become one of unknown size.
MAX_LOSSES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: serialized bytes, seconds, and reports."""

    max_bytes: int
    max_age: float
    max_reports: int | None = None


@dataclass(frozen=True, slots=True)
class Now:
    """The time: of which boot, and seconds since it (CLOCK_BOOTTIME)."""

    boot_id: str
    since_boot: float


class _Old(NamedTuple):
    """A sample that is to be dropped."""

    epoch: int
    sequence: int
    boot_id: str
    since_boot: float
    taken: float
    bytes: int


def drop(rows: Rows, bounds: Bounds, now: Now) -> None:
    """Drops the oldest samples until the rest is within the bounds. Raises Corrupt or sqlite3.Error."""
    # More than there is can not be dropped: an index that is at fault could give out the same rows for ever.
    left = rows.counts.reports
    for find, reason in (
        (partial(_expired, rows, bounds, now), pb.LOSS_REASON_TOO_OLD),
        (partial(_surplus, rows, bounds), pb.LOSS_REASON_SPOOL_FULL),
    ):
        while old := find():
            left -= len(old)
            if left < 0:
                raise Corrupt("what was dropped is still there")
            for run in _runs(old):
                _lose(rows, run, reason)
    if rows.counts.losses > MAX_LOSSES:
        _merge_oldest_losses(rows)


def _oldest(rows: Rows) -> Iterator[_Old]:
    with closing(
        rows.db.execute(
            "SELECT epoch, sequence, boot_id, since_boot, taken, length(body) FROM report "
            "WHERE reason = ? ORDER BY position LIMIT ?",
            (SAMPLE, _DROPPED_AT_ONCE),
        )
    ) as found:
        for row in found:
            yield _Old(*row)


def _expired(rows: Rows, bounds: Bounds, now: Now) -> list[_Old]:
    return list(takewhile(lambda row: _age(row, now) > bounds.max_age, _oldest(rows)))


def _age(row: _Old, now: Now) -> float:
    """How old a sample is at least, in seconds.

    The wall clock may be wrong by years, be it when the sample was taken or now, and no other clock goes on over a
    reboot. So one of an earlier boot is as old as this boot, which is a lower bound: a host that boots again and again
    keeps its samples for longer, up to the bound in bytes.
    """
    return now.since_boot - (row.since_boot if row.boot_id == now.boot_id else 0.0)


def _surplus(rows: Rows, bounds: Bounds) -> list[_Old]:
    surplus: list[_Old] = []
    size, reports = rows.counts.bytes, rows.counts.reports - rows.counts.losses
    for row in _oldest(rows):
        if size <= bounds.max_bytes and (bounds.max_reports is None or reports <= bounds.max_reports):
            break
        surplus.append(row)
        size -= row.bytes
        reports -= 1
    return surplus


def _runs(old: Sequence[_Old]) -> Iterator[list[_Old]]:
    """Splits samples into those of one epoch and of sequences without a hole."""
    run: list[_Old] = []
    for row in old:
        if run and (row.epoch, row.sequence) != (run[-1].epoch, run[-1].sequence + 1):
            yield run
            run = []
        run.append(row)
    yield run


def _lose(rows: Rows, run: Sequence[_Old], reason: pb.LossReason.ValueType) -> None:
    """Puts a loss in the place of samples, one with the loss just before them."""
    first, last = run[0], run[-1]
    loss = pb.Loss(reason=reason, first_sequence=first.sequence)
    loss.first_sample_time.FromNanoseconds(_nanoseconds(first.taken))
    loss.last_sample_time.FromNanoseconds(_nanoseconds(last.taken))
    begins = first.sequence
    before = rows.db.execute(
        "SELECT sequence, length(body), reason, crc, body FROM report WHERE epoch = ? AND sequence = ? AND reason = ?",
        (first.epoch, first.sequence - 1, reason),
    ).fetchone()
    if before is not None:
        earlier = decode(first.epoch, before[0], before[3], before[4]).loss
        if earlier.first_sequence:  # it is known how many
            loss.first_sequence = earlier.first_sequence
            loss.ClearField("first_sample_time")
            if earlier.HasField("first_sample_time"):
                loss.first_sample_time.CopyFrom(earlier.first_sample_time)
            begins = before[0]
            rows.discount([before[:3]])
    (position,) = rows.db.execute(
        "SELECT position FROM report WHERE epoch = ? AND sequence = ?", (last.epoch, last.sequence)
    ).fetchone()
    rows.delete(first.epoch, begins, last.sequence)
    rows.discount([(row.sequence, row.bytes, SAMPLE) for row in run])
    report = pb.Report(
        host_id=rows.host_id, boot_id=last.boot_id, spool_epoch=last.epoch, sequence=last.sequence, loss=loss
    )
    report.taken_since_boot.FromNanoseconds(_nanoseconds(last.since_boot))
    rows.insert(report, last.taken, position)
    rows.add_dropped(len(run))


def _merge_oldest_losses(rows: Rows) -> None:
    """Makes one loss of unknown size of the oldest, in an epoch of its own: even what is lost must have a bound."""
    oldest = rows.db.execute(
        "SELECT position, epoch, sequence, length(body), reason, taken, crc, body FROM report "
        "WHERE reason <> ? ORDER BY position LIMIT ?",
        (SAMPLE, rows.counts.losses - MAX_LOSSES + 1),
    ).fetchall()
    reports = [decode(row[1], row[2], row[6], row[7]) for row in oldest]
    for _, epoch, sequence, size, reason, *_ in oldest:
        rows.delete(epoch, sequence, sequence)
        rows.discount([(sequence, size, reason)])
    last_position, *_, taken, _, _ = oldest[-1]
    merged = unknown_loss(reports[-1], new_epoch(), 1, reports[0].loss.reason)
    first, last = reports[0].loss, reports[-1].loss
    if first.HasField("first_sample_time"):
        merged.loss.first_sample_time.CopyFrom(first.first_sample_time)
    if last.HasField("last_sample_time"):
        merged.loss.last_sample_time.CopyFrom(last.last_sample_time)
    rows.insert(merged, taken, last_position)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e6) * 1_000
