"""Chooses the sockets of a listing while they are dumped, so that no more are kept than are shown. Pure: no I/O.

First come those in CLOSE_WAIT, by how long they have been; then the others, by the bytes in their queues; then those in
TIME_WAIT, by how long they have been. What there is no room for is counted.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import add
from typing import Final

from loiter_agent.inet_diag import TCP_CLOSE_WAIT, TCP_LISTEN, TCP_TIME_WAIT, Chunk
from loiter_agent.socket_rows import Wanted
from loiter_agent.time_waits import TIME_WAIT_SECONDS

# More than two queues hold, and than milliseconds that anything takes.
_ABOVE_ALL: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Chosen:
    """One socket: the number of its namespace, its state, and its message as a chunk of its own."""

    namespace: int
    state: int
    chunk: Chunk

    @property
    def age(self) -> float | None:
        """For how many seconds it has been in its state, at least; None where the kernel does not tell."""
        return age_of(self.chunk, self.state)


class Selection:
    """Takes in sockets, and keeps those that come first."""

    def __init__(self, wanted: Wanted, inodes: Collection[int] | None = None) -> None:
        """Takes what is asked for; with `inodes`, only sockets that have one of them match."""
        self.matching = 0
        self._wanted = wanted
        self._inodes = inodes
        self._kept: list[tuple[int, int, Chosen]] = []  # a heap, the last to show first
        self._number = 0

    def feed(self, namespace: int, chunk: Chunk, states: bytes) -> None:
        """Takes in the sockets of a chunk."""
        indices = self._matching(chunk, states)
        self.matching += len(indices)
        if not indices:
            return
        places = _places(chunk, states)
        for index in indices:
            place = places[index]
            if len(self._kept) < self._wanted.limit:
                heapq.heappush(self._kept, self._entry(place, namespace, states[index], chunk, index))
            elif place > self._kept[0][0]:
                heapq.heapreplace(self._kept, self._entry(place, namespace, states[index], chunk, index))

    def chosen(self) -> list[Chosen]:
        """The sockets to show, in order."""
        return [chosen for _, _, chosen in sorted(self._kept, key=lambda entry: (-entry[0], entry[2].state, -entry[1]))]

    def _entry(self, place: int, namespace: int, state: int, chunk: Chunk, index: int) -> tuple[int, int, Chosen]:
        self._number -= 1  # of those that are alike, the first stay
        return place, self._number, Chosen(namespace, state, chunk.alone(index))

    def _matching(self, chunk: Chunk, states: bytes) -> Sequence[int]:
        mask, inodes = self._wanted.states, self._inodes
        indices: Sequence[int] = range(chunk.count)
        if any(not mask >> state & 1 for state in set(states)):
            indices = [index for index in indices if mask >> states[index] & 1]
        if inodes is not None:
            column = chunk.inodes()
            indices = [index for index in indices if column[index] in inodes]
        return indices


def age_of(chunk: Chunk, state: int, index: int = 0) -> float | None:
    """For how many seconds a socket has been in its state, at least; None where the kernel does not tell."""
    if state == TCP_CLOSE_WAIT:
        milliseconds = chunk.last_ack_received(index)
        return None if milliseconds is None else milliseconds / 1_000
    if state == TCP_TIME_WAIT:
        return max(0.0, TIME_WAIT_SECONDS - chunk.expires()[index] / 1_000)
    return None


def _places(chunk: Chunk, states: bytes) -> list[int]:
    """Where each socket stands: the larger, the earlier."""
    if chunk.are_mini_sockets:
        return [
            -_ABOVE_ALL - left if state == TCP_TIME_WAIT else 0
            for state, left in zip(states, chunk.expires(), strict=True)
        ]
    queued = list(map(add, chunk.receive_queues(), chunk.write_queues()))
    if TCP_LISTEN in states:  # what is in its queues are connections
        queued = [0 if state == TCP_LISTEN else amount for state, amount in zip(states, queued, strict=True)]
    if TCP_CLOSE_WAIT in states:
        return [
            _ABOVE_ALL + (chunk.last_ack_received(index) or 0) if state == TCP_CLOSE_WAIT else queued[index]
            for index, state in enumerate(states)
        ]
    return queued
