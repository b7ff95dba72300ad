"""What a simulated fleet consists of: how many hosts of which kind, since when, and how often they report. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final

from loiter_aggregator.simulation.draws import draw


class Kind(StrEnum):
    """What is the matter with a host."""

    # Nothing: some processes are slow to close, and have a few CLOSE_WAIT sockets that come and go.
    HEALTHY = "healthy"
    # Two processes forget to close.
    LEAKING = "leaking"
    # Many connections a second: TIME_WAIT, and ephemeral ports that fill up.
    BUSY = "busy"
    # A process opens files and keeps them, until its descriptors run out.
    EXHAUSTING = "exhausting"
    # Processes that live for a minute or some.
    CHURNING = "churning"
    # Now a process restarts, now the agent, now the host.
    RESTARTING = "restarting"
    # Is well, and one day is heard of no more.
    SILENT = "silent"


# Of a fleet; the rest is healthy.
DEFAULT_SHARES: Final[Mapping[Kind, float]] = {
    Kind.LEAKING: 0.02,
    Kind.BUSY: 0.08,
    Kind.EXHAUSTING: 0.02,
    Kind.CHURNING: 0.05,
    Kind.RESTARTING: 0.03,
    Kind.SILENT: 0.01,
}

_GOLDEN: Final = 0.618
_KINDS: Final = 0x4B
_MARK: Final = 0x4C
_ORDER: Final = tuple(DEFAULT_SHARES)


@dataclass(frozen=True)
class Plan:
    """A fleet. The same plan gives the same hosts and the same reports, on any machine and in any process.

    `start` is when it began to run, in milliseconds since 1970; `interval` is the milliseconds between two reports of a
    host; `processes` is how many of its processes a host reports one by one.
    """

    hosts: int
    start: int
    seed: int = 1
    interval: int = 10_000
    processes: int = 10
    shares: Mapping[Kind, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))

    def __post_init__(self) -> None:
        """Raises ValueError, fit for a person, where the shares come to more than the whole."""
        if sum(self.shares.values()) > 1.0 + 1e-9:
            raise ValueError("the shares of the kinds of hosts come to more than 100 %")

    @property
    def numbers(self) -> range:
        """The numbers of the hosts."""
        return range(1, self.hosts + 1)

    @cached_property
    def counts(self) -> Mapping[Kind, int]:
        """How many hosts there are of each kind. One of each that is asked for, where there is room."""
        counts: dict[Kind, int] = {}
        left = self.hosts
        for kind in _ORDER:
            wanted = self.shares.get(kind, 0.0)
            counts[kind] = min(left, max(1, round(wanted * self.hosts))) if wanted > 0 else 0
            left -= counts[kind]
        counts[Kind.HEALTHY] = left
        return counts

    def place(self, number: int) -> tuple[Kind, int]:
        """The kind of a host, and its place among those of the kind, from 0."""
        # Walks through all hosts in leaps, so that those of a kind are not next to each other.
        place = ((number - 1) * self._leap + draw(self.seed, _KINDS)) % self.hosts
        for kind, count in self.counts.items():
            if place < count:
                return kind, place
            place -= count
        raise AssertionError("unreachable: the counts add up to the hosts")

    def of_kind(self, kind: Kind) -> Iterator[int]:
        """The numbers of the hosts of a kind."""
        return (number for number in self.numbers if self.place(number)[0] is kind)

    @cached_property
    def mark(self) -> int:
        """8 bits that most likely are others in a plan whose hosts are others."""
        shares = (round(1e6 * self.shares.get(kind, 0.0)) for kind in _ORDER)
        return draw(_MARK, self.hosts, self.interval, self.processes, *shares) & 0xFF

    @cached_property
    def _leap(self) -> int:
        leap = max(1, round(self.hosts * _GOLDEN))
        while math.gcd(leap, self.hosts) != 1:
            leap += 1
        return leap
