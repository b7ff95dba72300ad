"""When a host runs: the starts of its agent and of itself, and when it falls silent. Pure.

Time goes by in ticks: that of the number k is k intervals after the first. A start of the agent begins an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from loiter_aggregator.simulation.draws import between, draw
from loiter_aggregator.simulation.plan import Kind, Plan

# Between two starts of something on a host that restarts.
_CYCLE_MS: Final = (600_000.0, 2_400_000.0)
_FEWEST_TICKS: Final = 12
# How long a reboot takes.
_DOWN_MS: Final = 90_000
_FEWEST_DOWN: Final = 3
# After which time a silent host is not heard of.
_SILENT_MS: Final = (300_000.0, 7_200_000.0)
_UPTIME_MS: Final = (86_400_000.0, 5_184_000_000.0)

_LENGTH: Final = 0x11
_OFFSET: Final = 0x12
_SHIFT: Final = 0x13
_LAST: Final = 0x14
_UPTIME: Final = 0x15


class Event(IntEnum):
    """What starts anew."""

    PROCESS = 0
    AGENT = 1
    HOST = 2


# What begins an epoch.
_STARTS: Final = (Event.AGENT, Event.HOST)


@dataclass(frozen=True, slots=True)
class Run:
    """From one start of an agent to the next. Later runs have greater numbers. `booted` is in ms since 1970."""

    number: int
    boot: int
    first_tick: int
    booted: int

    def sequence(self, tick: int) -> int:
        """The sequence of the report of a tick, in the epoch that the run is."""
        return tick - self.first_tick + 1


class Life:
    """The life of one host."""

    __slots__ = ("_cycle", "_down", "_first", "_interval", "_offset", "_shift", "_start", "end")

    def __init__(self, plan: Plan, key: int, kind: Kind, first: int) -> None:
        """Takes the key that the host draws by, and the time of its tick 0 in milliseconds since 1970."""
        self._interval, self._start = plan.interval, first
        booted = plan.start - round(between(*_UPTIME_MS, key, _UPTIME))
        self._first = Run(0, 0, 0, booted)
        # The tick that it does not live to see; None where it lives on.
        self.end: int | None = None
        self._cycle = self._offset = self._shift = self._down = 0
        if kind is Kind.SILENT:
            self.end = max(1, round(between(*_SILENT_MS, key, _LAST) / plan.interval))
        elif kind is Kind.RESTARTING:
            self._cycle = max(_FEWEST_TICKS, round(between(*_CYCLE_MS, key, _LENGTH) / plan.interval))
            self._offset = draw(key, _OFFSET) % self._cycle
            self._shift = draw(key, _SHIFT) % len(Event)
            self._down = min(self._cycle // 2, max(_FEWEST_DOWN, _DOWN_MS // plan.interval))

    def run(self, tick: int) -> Run | None:
        """The run that a tick is of; None while the host is down."""
        run = self._run(self.latest(tick, _STARTS))
        return run if tick >= run.first_tick else None

    def runs(self, first: int, last: int) -> Iterator[Run]:
        """The runs that the ticks from one to another are of."""
        for number in range(self.latest(first, _STARTS), self.latest(last, _STARTS) + 1):
            if not number or self._event(number) in _STARTS:
                yield self._run(number)

    def _run(self, number: int) -> Run:
        if not number:
            return self._first
        boot = number if self._event(number) is Event.HOST else self._latest(number, (Event.HOST,))
        first = self._tick_of(number) + (self._down if number == boot else 0)
        return Run(number, boot, first, self.booted(boot))

    def booted(self, boot: int) -> int:
        """When a boot was, in milliseconds since 1970."""
        if not boot:
            return self._first.booted
        return self._start + self._tick_of(boot) * self._interval + self._down * self._interval // 2

    def happened(self, number: int) -> int:
        """When something started anew, in milliseconds since 1970."""
        return self._start + self._tick_of(number) * self._interval

    def latest(self, tick: int, events: tuple[Event, ...]) -> int:
        """The number of the latest of some events that was before or at a tick; 0 where there was none."""
        if not self._cycle:
            return 0
        return self._latest((tick + self._offset) // self._cycle, events)

    def _latest(self, number: int, events: tuple[Event, ...]) -> int:
        while number > 0 and self._event(number) not in events:
            number -= 1
        return number

    def _event(self, number: int) -> Event:
        return Event((number + self._shift) % len(Event))

    def _tick_of(self, number: int) -> int:
        return number * self._cycle - self._offset
