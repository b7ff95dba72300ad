"""Collects reports as columns, which is how the store takes them in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from loiter.v1 import ingest_service_pb2, sample_pb2
from loiter_aggregator.clock import from_duration, from_timestamp
from loiter_aggregator.store.figures import (
    PROCESS_COUNTS,
    PROCESS_FIGURES,
    Processes,
    known,
    read_processes,
    reader,
)
from loiter_aggregator.store.schema import HOST_SAMPLE, LOST_SAMPLE, PROCESS_SAMPLE, TCP_STATES

Column = np.ndarray[Any, np.dtype[Any]]

_tcp_states = reader(*TCP_STATES)
_host_fds = reader("allocated", "limit")
_coverage = reader(
    "sockets_attributed",
    "sockets_unattributed",
    "sockets_ownerless",
    "close_wait_uncharged",
    "processes",
    "processes_unreadable",
    "processes_vanished",
    "namespaces",
    "namespaces_unread",
    "namespaces_by_procfs",
)
_other_processes = reader("processes", "established", "close_wait", "sockets", "fd_open")
_cost = reader(
    "cpu_seconds",
    "wall_seconds",
    "process_cpu_seconds",
    "resident_bytes",
    "late_ticks",
    "dropped_reports",
)
_time_wait_limits = reader("overflows", "max_buckets", "reuse")
_ages = attrgetter("p50_seconds", "p99_seconds", "max_seconds")
_NO_AGES = (None, None, None)
_CLOSE_WAIT_OF_HOST = TCP_STATES.index("close_wait")
_CLOSE_WAIT = PROCESS_COUNTS.index("close_wait")
_CAUSE = PROCESS_FIGURES.index("cause")
_STUCK = list(PROCESS_SAMPLE).index("stuck")


def key_of(*parts: str) -> int:
    """Hashes texts to the 64-bit key they have in the store."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest(), "big")


class Identity(NamedTuple):
    """What a process is called."""

    name: str
    app: str
    user: str


@lru_cache(maxsize=16_384)
def identity_key(identity: tuple[str, str, str]) -> int:
    """The key of an Identity. Most processes are called as they were in the sample before."""
    return key_of(*identity)


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What an agent says of its host when it connects, and the name in the certificate that vouches for it."""

    host_key: int
    host_id: str
    hostname: str
    boot_id: str
    agent_version: str
    kernel_release: str
    interval_ms: int
    labels: Mapping[str, str]
    certificate_name: str | None = None


class Lost(NamedTuple):
    """Samples of one epoch that will never come. Without a first sequence, it is not known how many they are.

    The times, in milliseconds and corrected, are of the first and the last of them, where that is known.
    """

    epoch: int
    first_sequence: int | None
    last_sequence: int
    reason: ingest_service_pb2.LossReason.ValueType
    first_ts: int | None = None
    last_ts: int | None = None

    @property
    def samples(self) -> int:
        """How many are known to be lost."""
        return 0 if self.first_sequence is None else self.last_sequence - self.first_sequence + 1


@dataclass(slots=True)
class Batch:
    """Reports that are to be committed together."""

    hosts: dict[int, HostRecord] = field(default_factory=dict)
    host_rows: list[tuple[Any, ...]] = field(default_factory=list)
    process_rows: list[tuple[Any, ...]] = field(default_factory=list)
    process_counts: list[int] = field(default_factory=list)  # how many of them go with each row of a host
    lost_rows: list[tuple[Any, ...]] = field(default_factory=list)
    identities: dict[int, Identity] = field(default_factory=dict)
    high_water: dict[tuple[int, int], int] = field(default_factory=dict)  # (host key, epoch) → sequence
    last_seen: dict[int, int] = field(default_factory=dict)  # host key → received
    intervals: dict[int, int] = field(default_factory=dict)  # host key → milliseconds until the next tick
    latest: dict[int, tuple[int, sample_pb2.Sample]] = field(default_factory=dict)  # host key → (ts, sample)
    samples_lost: int = 0

    def add(
        self,
        host_key: int,
        report: ingest_service_pb2.Report,
        received: int,
        skew: int = 0,
        rename: Callable[[Identity], Identity] | None = None,
        processes: Processes | None = None,
    ) -> int:
        """Adds a sample that passed validation, and returns the time it was taken at, set right.

        `skew` is how far, in milliseconds, the host's clock was behind ours when the sample was taken. A sample is
        never from our future. `rename` may give a process another identity than it claims. `processes` are those of the
        sample, where somebody has read them already.
        """
        sample = report.sample
        taken = from_timestamp(sample.sample_time)
        ts = min(taken + skew, received)
        # What was added to the agent's time, so that it can be had back.
        added = ts - taken if skew else 0
        if processes is None:
            processes = read_processes(sample)
        done = len(self.process_rows)
        self._add_processes(host_key, processes, ts, rename)
        own = self.process_rows[done:]
        self.process_counts.append(len(own))
        self.host_rows.append(_host_row(host_key, report, ts, received, added, _cause(processes), _stuck_of_all(own)))
        self._keep_latest(host_key, ts, sample)
        self._mark(host_key, report.spool_epoch, report.sequence, received)
        return ts

    def _add_processes(
        self, host_key: int, processes: Processes, ts: int, rename: Callable[[Identity], Identity] | None
    ) -> None:
        for message, figures, (seconds, nanos) in zip(*processes, strict=True):
            _, pid, name, app, user, _, cause, *counts = figures
            if 0 in counts:
                counts[:] = known(message, PROCESS_COUNTS, counts)
            *held, stuck, ports_share = counts
            self.process_rows.append(
                (
                    ts,
                    host_key,
                    pid,
                    1_000 * seconds + nanos // 1_000_000,
                    self._identify(name, app, user, rename),
                    *held,
                    # One without CLOSE_WAIT sockets has none that are stuck, also where the agent does not say so.
                    0 if stuck is None and held[_CLOSE_WAIT] == 0 else stuck,
                    cause or None,
                    *(_ages(message.close_wait_age) if message.HasField("close_wait_age") else _NO_AGES),
                    ports_share,
                )
            )

    def _identify(self, name: str, app: str, user: str, rename: Callable[[Identity], Identity] | None) -> int:
        key = identity_key((name, app, user))
        if key not in self.identities:
            identity = Identity(name, app, user)
            if rename is not None:
                identity = rename(identity)
                key = identity_key(identity)
            self.identities[key] = identity
        return key

    def add_loss(self, host_key: int, lost: Lost, received: int) -> None:
        """Adds samples that will never come. The mark moves to the last of them."""
        times = (lost.first_ts, lost.last_ts)
        self.lost_rows.append(
            (host_key, lost.epoch, lost.first_sequence, lost.last_sequence, *times, received, lost.reason)
        )
        self.samples_lost += lost.samples
        self._mark(host_key, lost.epoch, lost.last_sequence, received)

    def _mark(self, host_key: int, epoch: int, sequence: int, received: int) -> None:
        self.high_water[host_key, epoch] = sequence
        self.last_seen[host_key] = received

    def _keep_latest(self, host_key: int, ts: int, sample: sample_pb2.Sample) -> None:
        # By when it was taken: after an outage, what has waited comes beside what is new.
        if host_key not in self.latest or ts >= self.latest[host_key][0]:
            self.latest[host_key] = (ts, sample)
            if sample.HasField("interval"):
                self.intervals[host_key] = from_duration(sample.interval)

    def times(self) -> Iterator[int]:
        """When its samples were taken, set right, in milliseconds."""
        return (row[0] for row in self.host_rows)

    def host_columns(self) -> dict[str, Column]:
        """The rows of host_sample as columns."""
        return _columns(self.host_rows, HOST_SAMPLE)

    def process_columns(self) -> dict[str, Column]:
        """The rows of process_sample as columns."""
        return _columns(self.process_rows, PROCESS_SAMPLE)

    def lost_columns(self) -> dict[str, Column]:
        """The rows of lost_sample as columns."""
        return _columns(self.lost_rows, LOST_SAMPLE)

    def latest_columns(self) -> dict[str, Column]:
        """The rows of host_latest as columns."""
        return {
            "host_key": np.array(list(self.latest), dtype="u8"),
            "ts": np.array([ts for ts, _ in self.latest.values()], dtype="i8"),
            "sample": np.array([sample.SerializeToString() for _, sample in self.latest.values()], dtype=object),
        }

    @property
    def rows(self) -> int:
        """How many rows it holds: its size."""
        return len(self.hosts) + len(self.host_rows) + len(self.process_rows) + len(self.lost_rows)

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.host_rows)


def _host_row(
    host_key: int,
    report: ingest_service_pb2.Report,
    ts: int,
    received: int,
    skew: int,
    cause: sample_pb2.Cause.ValueType | None,
    stuck: int | None,
) -> tuple[Any, ...]:
    sample = report.sample
    tcp_states = _tcp_states(sample.tcp_states)
    if stuck is None and tcp_states[_CLOSE_WAIT_OF_HOST] == 0:
        stuck = 0
    coverage = sample.coverage
    return (
        ts,
        received,
        skew,
        host_key,
        sample.sampler,
        *tcp_states,
        *_host_fds(sample.host_fds),
        *_coverage(coverage),
        coverage.dump_torn,
        *_other_processes(sample.other_processes),
        *_cost(sample.cost),
        *_time_wait_limits(sample.time_wait_limits),
        cause,
        stuck,
        max((share for share in map(_ports_share, sample.ports) if share is not None), default=None),
        report.spool_epoch,
        report.sequence,
        sample.degradation,
    )


def _stuck_of_all(process_rows: list[tuple[Any, ...]]) -> int | None:
    """The sum over the processes of which it is known; None where it is known of none."""
    found = [row[_STUCK] for row in process_rows if row[_STUCK] is not None]
    return sum(found) if found else None


def _cause(processes: Processes) -> sample_pb2.Cause.ValueType | None:
    """The cause of the process with the most CLOSE_WAIT sockets that stay, of those that have one."""
    explained = [message for message, row in zip(*processes[:2], strict=True) if row[_CAUSE]]
    worst = max(explained, key=lambda process: (process.evidence.settled, process.close_wait), default=None)
    return worst.cause if worst is not None else None


def _ports_share(budget: sample_pb2.PortBudget) -> float | None:
    return min(1.0, budget.used / budget.available) if budget.available else None


def _columns(rows: list[tuple[Any, ...]], types: dict[str, tuple[str, str]]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for (name, (_, numpy_type)), values in zip(types.items(), zip(*rows, strict=True), strict=True):
        absent = [value is None for value in values]
        filled = [0 if value is None else value for value in values]
        columns[name] = np.ma.masked_array(np.array(filled, dtype=numpy_type), mask=absent)
    return columns
