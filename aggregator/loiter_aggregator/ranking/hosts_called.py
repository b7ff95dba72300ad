"""Finds hosts by their names, and whether they report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loiter_aggregator.ranking.fleet import is_silent
from loiter_aggregator.ranking.query import label_filter, label_parameters
from loiter_aggregator.store.question import Reader


@dataclass(frozen=True, slots=True)
class CalledHost:
    """A host that has a name which was asked for; `last_seen` in milliseconds."""

    host_id: str
    hostname: str
    last_seen: int
    silent: bool


def hosts_called(store: Reader, names: Iterable[str], labels: Mapping[str, str], now: int) -> list[CalledHost]:
    """Finds the hosts of these names that carry the labels; two hosts may have one name. Raises StoreError."""
    rows = store.read(
        f"""
        SELECT host_id, hostname, last_seen, interval_ms FROM host
        WHERE hostname IN (SELECT unnest($names::VARCHAR[])) AND last_seen IS NOT NULL{label_filter(labels)}
        ORDER BY hostname, host_id""",
        label_parameters(labels) | {"names": sorted(set(names))},
    )
    return [
        CalledHost(host_id, hostname, last_seen, is_silent(last_seen, interval_ms, now))
        for host_id, hostname, last_seen, interval_ms in rows
    ]
