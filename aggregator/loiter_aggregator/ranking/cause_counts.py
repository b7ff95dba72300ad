"""Adds up why the CLOSE_WAIT sockets of the fleet stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loiter.v1 import sample_pb2
from loiter_aggregator.ranking.fleet import SILENT
from loiter_aggregator.ranking.query import label_filter, label_parameters
from loiter_aggregator.store.question import Reader


@dataclass(frozen=True, slots=True)
class CauseCount:
    """How many sockets in CLOSE_WAIT have a cause, and how many processes have such sockets."""

    cause: sample_pb2.Cause.ValueType
    close_wait: int
    processes: int


def count_causes(store: Reader, since: int, now: int, labels: Mapping[str, str]) -> list[CauseCount]:
    """Adds up the latest samples of the reporting hosts with the labels, those since a time in milliseconds.

    The most come first. Processes whose sockets come and go have no cause, and are not among them. Raises StoreError.
    """
    rows = store.read(
        f"""
        SELECT cause, sum(close_wait) AS sockets, count(*) FROM process_sample JOIN (
            SELECT host_key, host_latest.ts AS latest FROM host_latest JOIN host USING (host_key)
            WHERE last_seen >= $now - {SILENT}{label_filter(labels)}) AS newest USING (host_key)
        WHERE ts >= $since AND ts = latest AND cause > 0 AND close_wait > 0
        GROUP BY cause ORDER BY sockets DESC, cause""",
        {"since": since, "now": now} | label_parameters(labels),
    )
    return [CauseCount(cause, int(sockets), processes) for cause, sockets, processes in rows]
