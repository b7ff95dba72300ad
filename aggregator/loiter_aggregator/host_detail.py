"""Finds a host by name, and its latest sample as it came."""

from __future__ import annotations

from dataclasses import dataclass

from loiter.v1 import sample_pb2 as pb
from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.store.duckdb_store import DuckDbStore


@dataclass(frozen=True, slots=True)
class HostDetail:
    """A host, and its latest sample; that is None where retention has taken it."""

    host_key: int
    host: pb.Host
    interval_ms: int
    last_seen: int
    latest: pb.Sample | None


def find_host(store: DuckDbStore, name: str) -> HostDetail | None:
    """Finds a host by its name or id; of several with one name, the one heard of last. Raises StoreError."""
    rows = store.read(
        "SELECT host_key, host_id, hostname, boot_id, agent_version, kernel_release, interval_ms, last_seen "
        "FROM host WHERE (hostname = $name OR host_id = $name) AND last_seen IS NOT NULL "
        "ORDER BY last_seen DESC LIMIT 1",
        {"name": name},
    )
    if not rows:
        return None
    host_key, host_id, hostname, boot_id, agent_version, kernel_release, interval_ms, last_seen = rows[0]
    labels = store.read("SELECT name, value FROM host_label WHERE host_key = $key", {"key": host_key})
    return HostDetail(
        host_key=host_key,
        host=pb.Host(
            host_id=host_id,
            hostname=hostname,
            boot_id=boot_id,
            labels=dict(labels),
            agent_version=agent_version,
            kernel_release=kernel_release,
        ),
        interval_ms=interval_ms,
        last_seen=last_seen,
        latest=_latest(store, host_key),
    )


def known_names(store: DuckDbStore) -> list[str]:
    """Lists the names of all hosts. Raises StoreError."""
    rows = store.read("SELECT DISTINCT hostname FROM host WHERE last_seen IS NOT NULL ORDER BY hostname")
    return [name for (name,) in rows]


def _latest(store: DuckDbStore, host_key: int) -> pb.Sample | None:
    rows = store.read("SELECT ts, sample FROM host_latest WHERE host_key = $key", {"key": host_key})
    if not rows:
        return None
    ts, sent = rows[0]
    sample = pb.Sample.FromString(sent)
    sample.sample_time.CopyFrom(to_timestamp(ts))  # with the host's clock set right
    return sample
