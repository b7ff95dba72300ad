"""Which samples are lost, as reports tell: by saying so, and by not coming. Pure."""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.clock import from_timestamp
from loiter_aggregator.store.batch import Lost

# No agent takes so many samples: a sequence that leaps further is a mistake, of which size is not known.
MAX_LOST: Final = 1_000_000_000


def missing(epoch: int, first: int, settled: int | None) -> list[Lost]:
    """The samples that should have come before that with the sequence `first`; all up to `settled` are accounted for.

    None where it is not known of the epoch what is.
    """
    if settled is None or first <= settled + 1:
        return []
    known = first - settled - 1 <= MAX_LOST
    return [Lost(epoch, settled + 1 if known else None, first - 1, pb.LOSS_REASON_UNSPECIFIED)]


def told(report: pb.Report, settled: int | None, skew: int, received: int) -> list[Lost]:
    """What a report of a loss comes to: what it says, less what is accounted for, and what is missing before."""
    loss, epoch, last = report.loss, report.spool_epoch, report.sequence
    first_ts = _corrected(loss.first_sample_time, skew, received) if loss.HasField("first_sample_time") else None
    last_ts = _corrected(loss.last_sample_time, skew, received) if loss.HasField("last_sample_time") else None
    if not loss.first_sequence:
        return [
            *missing(epoch, last, settled),
            Lost(epoch, None, last, loss.reason, first_ts, last_ts),
        ]
    first = max(loss.first_sequence, (settled or 0) + 1)
    if first > loss.first_sequence:
        first_ts = None
    return [*missing(epoch, first, settled), Lost(epoch, min(first, last), last, loss.reason, first_ts, last_ts)]


def _corrected(stamp: Timestamp, skew: int, received: int) -> int:
    return min(from_timestamp(stamp) + skew, received)
