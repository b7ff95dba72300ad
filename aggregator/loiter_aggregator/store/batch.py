"""Collects reports as columns, which is how the store takes them in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loiter.v1 import ingest_service_pb2, sample_pb2
from loiter_aggregator.clock import from_timestamp
from loiter_aggregator.store.schema import HOST_SAMPLE, PROCESS_SAMPLE, TCP_STATES

Column = np.ndarray[Any, np.dtype[Any]]

_COVERAGE = (
    "sockets_attributed",
    "sockets_unattributed",
    "sockets_ownerless",
    "close_wait_uncharged",
    "processes",
    "processes_unreadable",
    "processes_vanished",
    "namespaces",
    "namespaces_unread",
)
_OTHER = ("processes", "established", "close_wait", "sockets", "fd_open")
_COST = (
    "cpu_seconds",
    "wall_seconds",
    "process_cpu_seconds",
    "resident_bytes",
    "late_ticks",
    "dropped_reports",
)
_PROCESS_COUNTS = ("established", "close_wait", "time_wait", "sockets", "fd_open", "fd_limit")


def key_of(*parts: str) -> int:
    """Hashes texts to the 64-bit key they have in the store."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest(), "big")


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What an agent says of its host when it connects."""

    host_key: int
    host_id: str
    hostname: str
    boot_id: str
    agent_version: str
    kernel_release: str
    interval_ms: int
    labels: Mapping[str, str]


@dataclass(slots=True)
class Batch:
    """Reports that are to be committed together."""

    hosts: dict[int, HostRecord] = field(default_factory=dict)
    host_rows: list[tuple[Any, ...]] = field(default_factory=list)
    process_rows: list[tuple[Any, ...]] = field(default_factory=list)
    identities: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    high_water: dict[tuple[int, int], int] = field(default_factory=dict)  # (host key, epoch) → sequence
    last_seen: dict[int, int] = field(default_factory=dict)  # host key → received

    def add(self, host_key: int, report: ingest_service_pb2.Report, received: int, skew: int = 0) -> None:
        """Adds a report that passed validation.

        `skew` is how far, in milliseconds, the host's clock is behind ours. A sample is never from our future.
        """
        sample = report.sample
        ts = min(from_timestamp(sample.sample_time) + skew, received)
        self.host_rows.append(_host_row(host_key, sample, ts, received, skew))
        for process in sample.processes:
            identity = key_of(process.name, process.app, process.user)
            self.identities[identity] = (process.name, process.app, process.user)
            self.process_rows.append(
                (
                    ts,
                    host_key,
                    process.pid,
                    from_timestamp(process.start_time),
                    identity,
                    *_optional(process, _PROCESS_COUNTS),
                )
            )
        self.high_water[host_key, report.spool_epoch] = report.sequence
        self.last_seen[host_key] = received

    def extend(self, later: Batch) -> None:
        """Adds all of a batch that was gathered after this one."""
        self.hosts.update(later.hosts)
        self.host_rows.extend(later.host_rows)
        self.process_rows.extend(later.process_rows)
        self.identities.update(later.identities)
        self.high_water.update(later.high_water)
        self.last_seen.update(later.last_seen)

    def host_columns(self) -> dict[str, Column]:
        """The rows of host_sample as columns."""
        return _columns(self.host_rows, HOST_SAMPLE)

    def process_columns(self) -> dict[str, Column]:
        """The rows of process_sample as columns."""
        return _columns(self.process_rows, PROCESS_SAMPLE)

    @property
    def rows(self) -> int:
        """How many rows it holds: its size."""
        return len(self.hosts) + len(self.host_rows) + len(self.process_rows)

    def __len__(self) -> int:
        """How many reports there are."""
        return len(self.host_rows)


def _host_row(host_key: int, sample: sample_pb2.Sample, ts: int, received: int, skew: int) -> tuple[Any, ...]:
    return (
        ts,
        received,
        skew,
        host_key,
        sample.sampler,
        *_optional(sample.tcp_states, TCP_STATES),
        *_optional(sample.host_fds, ("allocated", "limit")),
        *_optional(sample.coverage, _COVERAGE),
        sample.coverage.dump_torn,
        *_optional(sample.other_processes, _OTHER),
        *_optional(sample.cost, _COST),
        "\n".join(f"{status.name}: {status.error}" for status in sample.collectors if status.error) or None,
    )


def _optional(message: Any, names: Iterable[str]) -> list[Any]:
    return [getattr(message, name) if message.HasField(name) else None for name in names]


def _columns(rows: list[tuple[Any, ...]], types: dict[str, tuple[str, str]]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for (name, (_, numpy_type)), values in zip(types.items(), zip(*rows, strict=True), strict=True):
        absent = [value is None for value in values]
        if numpy_type == "O":
            columns[name] = np.array(values, dtype=object)
            continue
        filled = [0 if value is None else value for value in values]
        columns[name] = np.ma.masked_array(np.array(filled, dtype=numpy_type), mask=absent)
    return columns
