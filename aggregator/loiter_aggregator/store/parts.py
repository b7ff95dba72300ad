"""Takes a batch that can not be stored apart, to find the report that is at fault. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.store.batch import Batch, HostRecord, Lost
from loiter_aggregator.store.schema import HOST_SAMPLE, PROCESS_SAMPLE

_NAME_OF_ENTRY: Final = tuple(
    list(HOST_SAMPLE).index(name) for name in ("host_key", "spool_epoch", "sequence", "received", "ts")
)
_IDENTITY: Final = list(PROCESS_SAMPLE).index("identity_key")


class Entry(NamedTuple):
    """What one report put into a batch; a loss has no time and no row of the host."""

    host_key: int
    epoch: int
    sequence: int
    received: int
    ts: int | None
    host_row: tuple[Any, ...] | None
    process_rows: list[tuple[Any, ...]]
    lost_row: tuple[Any, ...] | None

    @property
    def is_rejected(self) -> bool:
        """Whether it stands for a report that was rejected."""
        return self.lost_row is not None and self.lost_row[-1] == pb.LOSS_REASON_REJECTED


def halves(batch: Batch) -> tuple[Batch, Batch] | None:
    """Two batches that come to the same, stored one after the other; None where it is what one host or report said.

    Marks of the first are of what is in it: of one epoch, a sequence comes before those that are higher.
    """
    hosts, entries = list(batch.hosts.values()), sorted(_entries(batch), key=lambda entry: entry[:3])
    if hosts and entries:
        return _part(batch, hosts, ()), _part(batch, (), entries)
    if len(hosts) > 1:
        middle = len(hosts) // 2
        return _part(batch, hosts[:middle], ()), _part(batch, hosts[middle:], ())
    if len(entries) > 1:
        middle = len(entries) // 2
        return _part(batch, (), entries[:middle]), _part(batch, (), entries[middle:])
    return None


def only_entry(batch: Batch) -> Entry | None:
    """The report that a batch is of which there are no halves; None where it is what a host says of itself."""
    return next(_entries(batch), None)


def rejected(entry: Entry) -> Batch:
    """What to store in the place of a report: that it is lost."""
    first: int | None = entry.sequence if entry.lost_row is None else entry.lost_row[2]
    batch = Batch()
    lost = Lost(entry.epoch, first, entry.sequence, pb.LOSS_REASON_REJECTED)
    batch.add_loss(entry.host_key, lost, entry.received)
    return batch


def _entries(batch: Batch) -> Iterator[Entry]:
    done = 0
    for row, count in zip(batch.host_rows, batch.process_counts, strict=True):
        host_key, epoch, sequence, received, ts = (row[index] for index in _NAME_OF_ENTRY)
        yield Entry(host_key, epoch, sequence, received, ts, row, batch.process_rows[done : done + count], None)
        done += count
    for row in batch.lost_rows:
        host_key, epoch, _, sequence, _, _, received, _ = row
        yield Entry(host_key, epoch, sequence, received, None, None, [], row)


def _part(batch: Batch, hosts: Iterable[HostRecord], entries: Iterable[Entry]) -> Batch:
    part = Batch(hosts={record.host_key: record for record in hosts})
    for entry in entries:
        key = entry.host_key
        if entry.host_row is not None:
            part.host_rows.append(entry.host_row)
            part.process_rows.extend(entry.process_rows)
            part.process_counts.append(len(entry.process_rows))
            part.identities.update((row[_IDENTITY], batch.identities[row[_IDENTITY]]) for row in entry.process_rows)
        if entry.lost_row is not None:
            part.lost_rows.append(entry.lost_row)
            part.samples_lost += Lost(entry.epoch, entry.lost_row[2], entry.sequence, pb.LOSS_REASON_REJECTED).samples
        # The latest sample goes with the report that it came in.
        if entry.ts is not None and key in batch.latest and batch.latest[key][0] == entry.ts:
            part.latest[key] = batch.latest[key]
            if key in batch.intervals:
                part.intervals[key] = batch.intervals[key]
        part.high_water[key, entry.epoch] = entry.sequence
        part.last_seen[key] = max(entry.received, part.last_seen.get(key, 0))
    return part
