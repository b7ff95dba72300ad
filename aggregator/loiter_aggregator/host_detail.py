"""Finds a host by name and reads its latest sample back from the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from loiter.v1 import sample_pb2 as pb
from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.schema import HOST_SAMPLE, TCP_STATES

_COVERAGE: Final = tuple(field.name for field in pb.Coverage.DESCRIPTOR.fields)
_COST: Final = tuple(field.name for field in pb.AgentCost.DESCRIPTOR.fields)
_OTHER: Final = tuple(field.name for field in pb.OtherProcesses.DESCRIPTOR.fields)


@dataclass(frozen=True, slots=True)
class HostDetail:
    """A host, and its latest sample without processes; the sample is None where retention has taken it."""

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
    samples = store.read(
        f"SELECT {', '.join(HOST_SAMPLE)} FROM host_sample WHERE host_key = $key ORDER BY ts DESC LIMIT 1",
        {"key": host_key},
    )
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
        latest=_sample(dict(zip(HOST_SAMPLE, samples[0], strict=True))) if samples else None,
    )


def known_names(store: DuckDbStore) -> list[str]:
    """Lists the names of all hosts. Raises StoreError."""
    rows = store.read("SELECT DISTINCT hostname FROM host WHERE last_seen IS NOT NULL ORDER BY hostname")
    return [name for (name,) in rows]


def _sample(row: dict[str, Any]) -> pb.Sample:
    def present(**columns: str) -> dict[str, Any]:
        return {name: row[column] for name, column in columns.items() if row[column] is not None}

    return pb.Sample(
        sample_time=to_timestamp(row["ts"]),
        sampler=row["sampler"],
        tcp_states=pb.TcpStateCounts(**present(**{name: name for name in TCP_STATES})),
        host_fds=pb.HostFileDescriptors(**present(allocated="fd_allocated", limit="fd_limit")),
        other_processes=pb.OtherProcesses(**present(**{name: f"other_{name}" for name in _OTHER})),
        coverage=pb.Coverage(**present(**{name: name for name in _COVERAGE})),
        cost=pb.AgentCost(**present(**{name: name for name in _COST})),
        collectors=_failures(row["errors"]),
    )


def _failures(errors: str | None) -> list[pb.CollectorStatus]:
    """The collectors that failed; the store keeps no others."""
    lines = (line.partition(": ") for line in (errors or "").splitlines())
    return [pb.CollectorStatus(name=name, error=error) for name, _, error in lines]
