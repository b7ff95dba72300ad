"""Collects reports as columns, which is how the store takes them in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from loiter.v1 import ingest_service_pb2, sample_pb2
from loiter_aggregator.clock import from_duration, from_timestamp
from loiter_aggregator.store.figures import Processes, read_processes
from loiter_aggregator.store.rows import Column, columns_of, host_row, process_rows
from loiter_aggregator.store.schema import HOST_SAMPLE, LOST_SAMPLE, PROCESS_SAMPLE


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
        rows = process_rows(host_key, processes, ts, lambda texts: self._identify(texts, rename))
        self.process_rows += rows
        self.process_counts.append(len(rows))
        self.host_rows.append(host_row(host_key, report, ts, received, added, processes, rows))
        self._keep_latest(host_key, ts, sample)
        self._mark(host_key, report.spool_epoch, report.sequence, received)
        return ts

    def _identify(self, texts: tuple[str, str, str], rename: Callable[[Identity], Identity] | None) -> int:
        key = identity_key(texts)
        if key not in self.identities:
            identity = Identity(*texts)
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
        return columns_of(self.host_rows, HOST_SAMPLE)

    def process_columns(self) -> dict[str, Column]:
        """The rows of process_sample as columns."""
        return columns_of(self.process_rows, PROCESS_SAMPLE)

    def lost_columns(self) -> dict[str, Column]:
        """The rows of lost_sample as columns."""
        return columns_of(self.lost_rows, LOST_SAMPLE)

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
