"""What the workers have done, in memory that all processes share: it outlives a worker that is killed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from multiprocessing import get_context
from typing import Final

import numpy as np

from loiter_aggregator.simulation.draws import Array

# gRPC does not survive a fork.
CONTEXT: Final = get_context("spawn")

# Latencies are kept in classes, each of which is so much longer than the one before.
_FIRST_SECONDS: Final = 0.001
_LOG_RATIO: Final = math.log(1.04)
_LATENCIES: Final = 450
_SIZE_STEP: Final = 16
_SIZES: Final = 4_096
_COMPLAINT_BYTES: Final = 400
_BEYOND: Final = (1 << 63) - 1


class Count(IntEnum):
    """What is counted. CPU time and the longest latency are in nanoseconds."""

    # The first time that a report is sent.
    SENT = 0
    RESENT = 1
    ACKNOWLEDGED = 2
    REJECTED = 3
    # Streams that are open.
    STREAMS = 4
    # Streams that were opened after one had broken.
    RECONNECTS = 5
    CPU = 6
    LONGEST = 7


class Board:
    """What one worker counts, and how far its hosts are; no other process writes there.

    `settled` has the tick of each host before which every report was acknowledged or rejected, `sent` that before
    which every report was sent once.
    """

    def __init__(
        self,
        counts: memoryview[int],
        latencies: memoryview[int],
        sizes: memoryview[int],
        settled: memoryview[int],
        sent: memoryview[int],
    ) -> None:
        """Takes its part of the shared memory."""
        self.counts, self._latencies, self._sizes = counts, latencies, sizes
        self.settled, self.sent = settled, sent

    def add(self, count: Count, number: int = 1) -> None:
        """Counts something."""
        self.counts[count] += number

    def add_size(self, size: int) -> None:
        """Counts the bytes of a report."""
        self._sizes[min(_SIZES - 1, size // _SIZE_STEP)] += 1

    def add_latency(self, seconds: float) -> None:
        """Counts the time that passed from the tick of a report to its acknowledgement."""
        place = int(math.log(max(seconds, _FIRST_SECONDS) / _FIRST_SECONDS) / _LOG_RATIO)
        self._latencies[min(_LATENCIES - 1, place)] += 1
        self.counts[Count.LONGEST] = max(self.counts[Count.LONGEST], int(seconds * 1e9))

    def end(self, place: int) -> None:
        """Notes that a host reports no more."""
        self.settled[place] = _BEYOND


@dataclass(frozen=True, slots=True)
class Totals:
    """What all workers have done together. Latencies are in seconds, sizes in bytes; None where there are none."""

    counts: dict[Count, int]
    latency_p50: float | None
    latency_p99: float | None
    latency_max: float | None
    size_p50: int | None
    size_p99: int | None

    @property
    def waiting(self) -> int:
        """Reports that were sent, and neither acknowledged nor rejected."""
        return self.counts[Count.SENT] - self.counts[Count.ACKNOWLEDGED] - self.counts[Count.REJECTED]


class Boards:
    """The boards of all workers. It is handed to workers as they are started."""

    def __init__(self, workers: int, hosts: int) -> None:
        """Makes the memory."""
        self.workers = workers
        sizes = (workers * len(Count), workers * _LATENCIES, workers * _SIZES, hosts, hosts)
        self._memory = [CONTEXT.RawArray("q", size) for size in sizes]
        self._complaints = [CONTEXT.RawArray("c", _COMPLAINT_BYTES) for _ in range(workers)]

    def board(self, worker: int) -> Board:
        """That of a worker, by its number from 0."""
        counts, latencies, sizes, settled, sent = (memoryview(one).cast("B").cast("q") for one in self._memory)
        return Board(
            _part(counts, worker, len(Count)),
            _part(latencies, worker, _LATENCIES),
            _part(sizes, worker, _SIZES),
            settled,
            sent,
        )

    def through(self, tick: int) -> float:
        """What share of the reports before a tick was delivered, from 0 to 1."""
        settled = np.frombuffer(self._memory[3], dtype=np.int64)
        return float(np.minimum(settled, tick).sum()) / (tick * len(settled)) if tick else 1.0

    def complain(self, worker: int, words: str) -> None:
        """Notes why a stream of a worker broke last."""
        self._complaints[worker].value = words.encode(errors="replace")[: _COMPLAINT_BYTES - 1]

    def complaint(self) -> str | None:
        """Why a stream broke, of some worker; None where none did."""
        return next((said.value.decode(errors="replace") for said in self._complaints if said.value), None)

    def closed(self, worker: int) -> None:
        """Notes that a worker is gone, and its streams with it."""
        self.board(worker).counts[Count.STREAMS] = 0

    def totals(self) -> Totals:
        """Adds up."""
        counts, latencies, sizes = (self._by_worker(which) for which in range(3))
        p50, p99 = (_percentile(latencies.sum(axis=0), part) for part in (0.5, 0.99))
        size_p50, size_p99 = (_percentile(sizes.sum(axis=0), part) for part in (0.5, 0.99))
        longest = int(counts[:, Count.LONGEST].max()) / 1e9
        return Totals(
            {count: int(counts[:, count].sum()) for count in Count},
            None if p50 is None else min(longest, _FIRST_SECONDS * math.exp(_LOG_RATIO * p50)),
            None if p99 is None else min(longest, _FIRST_SECONDS * math.exp(_LOG_RATIO * p99)),
            None if p50 is None else longest,
            None if size_p50 is None else size_p50 * _SIZE_STEP,
            None if size_p99 is None else size_p99 * _SIZE_STEP,
        )

    def _by_worker(self, which: int) -> Array:
        return np.frombuffer(self._memory[which], dtype=np.int64).reshape(self.workers, -1)


def _part(numbers: memoryview[int], worker: int, size: int) -> memoryview[int]:
    return numbers[worker * size : (worker + 1) * size]


def _percentile(classes: Array, part: float) -> int | None:
    """The end of the class with the value that such a part of all is not above; None where there are none."""
    total = int(classes.sum())
    return int(np.searchsorted(np.cumsum(classes), part * total)) + 1 if total else None
