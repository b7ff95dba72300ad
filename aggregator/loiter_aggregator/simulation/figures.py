"""The figures of a host's reports: counts of sockets and descriptors, as they go up and down. Pure.

Each is a level of the host or process, a wave, and what is drawn for the tick. They are computed for several ticks at
once, which costs little more than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from loiter_aggregator.simulation.draws import Array, between, grid, lanes, log_between, share
from loiter_aggregator.simulation.hosts import SimulatedHost, Slot
from loiter_aggregator.simulation.plan import Kind, Plan

_HOUR: Final = 3_600.0
# Of ten processes, so many are idle, and so many hold a few CLOSE_WAIT sockets for a while.
_IDLE: Final = 0.3
_SLOW: Final = 0.25
_SLOW_COUNT: Final = (0.6, 4.0)
# And so many hold connections that were closed while nobody used them, and stay as many.
_POOLS: Final = 0.02
_POOLED: Final = 12
_TIME_WAIT: Final = (40.0, 900.0)
_BUSY_TIME_WAIT: Final = (6_000.0, 26_000.0)
# After which time all descriptors are open on a host where they run out.
_EXHAUSTED_HOURS: Final = (1.2, 8.0)
# Descriptors that a program does not get at, in the end.
_KEPT_FREE: Final = 3
# How much faster than at most times a leak may be, and how many bursts are in a wave.
_BURST: Final = 0.7
_BURSTS: Final = 10
_WAVE_SECONDS: Final = (900.0, 14_400.0)

_LEVEL: Final = 0x31
_DRAWN: Final = 0x32


class Drawn(NamedTuple):
    """What is drawn for each tick, whatever the processes do: counts, nanoseconds, pages of memory."""

    syn_sent: int = 3
    syn_recv: int = 4
    fin_wait1: int = 4
    fin_wait2: int = 40
    last_ack: int = 5
    closing: int = 2
    new_syn_recv: int = 4
    elsewhere: int = 14
    vanished: int = 3
    forked: int = 24
    unattributed: int = 2
    cpu: int = 3_000_000
    waited: int = 9_000_000
    pages: int = 700
    tcp: int = 700_000
    processes: int = 1_900_000
    activity: int = 90_000
    host_fds: int = 20_000
    microseconds: int = 4_000
    ports: int = 1_000


# As declared: what each is less than.
_SPANS: Final = np.array(Drawn(), dtype=np.float64)


class Levels(NamedTuple):
    """What a host's processes are like: a number for each of them."""

    established: Array
    swing: Array
    noise: Array
    period: Array
    turn: Array
    slow: Array
    leaked: Array
    leak_rate: Array
    listeners: Array
    fds: Array
    fd_noise: Array
    fd_rate: Array
    fd_limit: Array


class Figures:
    """The figures of one host."""

    __slots__ = ("_interval", "_key", "_levels", "_offset", "_time_wait", "_time_wait_swing", "count")

    def __init__(self, plan: Plan, host: SimulatedHost) -> None:
        """Draws the levels."""
        # How many processes.
        self.count = len(host.slots)
        self._key = host.key
        self._interval = plan.interval / 1_000
        self._offset = (host.first - plan.start) / 1_000
        self._levels = _levels(host)
        busy = host.kind is Kind.BUSY
        self._time_wait = log_between(*(_BUSY_TIME_WAIT if busy else _TIME_WAIT), host.key, _LEVEL)
        self._time_wait_swing = between(0.02, 0.25, host.key, _LEVEL, 1)

    def rows(self, first: int, count: int) -> Array:
        """A row for each of so many ticks.

        It has `established` of all processes, then `close_wait` of all, `leaked`, `sockets` and `fd_open`, then
        TIME_WAIT of the host, then what `Drawn` says.
        """
        ticks = np.arange(first, first + count)
        seconds = (self._offset + ticks * self._interval)[:, None]
        level = self._levels
        chance = lanes(grid(self._key, ticks, self.count))
        wave = np.sin(seconds * level.period + level.turn)
        established = level.established * (1 + level.swing * wave) + level.noise * (chance[0] - 0.5)
        established = np.maximum(np.rint(established), 0)
        # A leak follows the load, which comes in bursts, and never shrinks.
        burst = _BURST / (_BURSTS * level.period) * np.sin(_BURSTS * seconds * level.period + level.turn)
        leaked = np.floor(level.leaked + level.leak_rate * (seconds + burst))
        # No more than there are descriptors for.
        leaked = np.minimum(leaked, np.maximum(level.fd_limit - level.fds - established - _KEPT_FREE, 0))
        close_wait = leaked + np.floor(level.slow * np.maximum(chance[1] - 0.5, 0) * 4)
        sockets = established + close_wait + level.listeners
        opened = level.fds + np.floor(level.fd_rate * seconds) + np.floor(level.fd_noise * chance[2])
        fd_open = np.minimum(opened + sockets, np.maximum(level.fd_limit - _KEPT_FREE, sockets))
        drawn = lanes(grid(self._key ^ _DRAWN, ticks, len(_SPANS)))
        fine = (drawn[0] + drawn[1] / 65_536.0) * _SPANS
        turn = np.sin(seconds / _HOUR + level.turn[0])
        time_wait = self._time_wait * (1 + self._time_wait_swing * turn + 0.06 * (drawn[2][:, :1] - 0.5))
        return np.concatenate(
            (established, close_wait, leaked, sockets, fd_open, np.rint(time_wait), fine), axis=1
        ).astype(np.int64)


def _levels(host: SimulatedHost) -> Levels:
    return Levels(*(np.array([figure(host, slot) for slot in host.slots]) for figure in _FIGURES))


def _of(host: SimulatedHost, slot: Slot, which: int) -> float:
    return share(host.key, _LEVEL, slot.index, which)


def _liveliness(host: SimulatedHost, slot: Slot) -> float:
    """How much goes on in a process: nothing in an idle one, 1 in a lively one."""
    if slot.leak is not None or (slot.index == 0 and host.kind is not Kind.HEALTHY):
        return 1.0
    return max(0.0, (_of(host, slot, 1) - _IDLE) / (1 - _IDLE))


def _established(host: SimulatedHost, slot: Slot) -> float:
    busy = 4.0 if host.kind is Kind.BUSY and slot.index == 0 else 1.0
    return round(busy * slot.app.established * (0.4 + 1.2 * _of(host, slot, 2)))


def _noise(host: SimulatedHost, slot: Slot) -> float:
    return 3.5 * math.sqrt(_established(host, slot)) * _liveliness(host, slot)


def _slow(host: SimulatedHost, slot: Slot) -> float:
    """Of CLOSE_WAIT sockets that come and go, about how many there are, where there are any."""
    chance = _of(host, slot, 3)
    if slot.leak is None and (chance > _SLOW or not slot.app.established):
        return 0.0
    return log_between(*_SLOW_COUNT, host.key, _LEVEL, slot.index, 4)


def _leaked(host: SimulatedHost, slot: Slot) -> float:
    """Of CLOSE_WAIT sockets that stay, how many there are as the fleet begins to run."""
    if slot.leak is not None:
        return slot.leak.per_hour * slot.leak.since_hours
    chance = _of(host, slot, 3) - _SLOW
    return 1 + chance // (_POOLS / _POOLED) if 0 < chance < _POOLS else 0.0


def _leak_rate(_: SimulatedHost, slot: Slot) -> float:
    return 0.0 if slot.leak is None else slot.leak.per_hour / _HOUR


def _fds(host: SimulatedHost, slot: Slot) -> float:
    return round(slot.app.fds * (0.7 + 0.6 * _of(host, slot, 5))) + 5


def _fd_rate(host: SimulatedHost, slot: Slot) -> float:
    """Descriptors that are opened a second and kept."""
    if host.kind is not Kind.EXHAUSTING or slot.index:
        return 0.0
    left = slot.app.fd_limit - _fds(host, slot) - 2 * _established(host, slot)
    return max(left, 100.0) / (_HOUR * between(*_EXHAUSTED_HOURS, host.key, _LEVEL, 6))


def _wave(host: SimulatedHost, slot: Slot) -> float:
    """How fast its figures go up and down, in radians a second."""
    return 2 * math.pi / (_WAVE_SECONDS[0] + _of(host, slot, 7) * (_WAVE_SECONDS[1] - _WAVE_SECONDS[0]))


# In the order of `Levels`.
_FIGURES: Final[tuple[Callable[[SimulatedHost, Slot], float], ...]] = (
    _established,
    lambda host, slot: 0.25 * _liveliness(host, slot),
    _noise,
    _wave,
    lambda host, slot: 2 * math.pi * _of(host, slot, 8),
    _slow,
    _leaked,
    _leak_rate,
    lambda _, slot: slot.app.listeners,
    _fds,
    lambda host, slot: 6 * _liveliness(host, slot),
    _fd_rate,
    lambda _, slot: slot.app.fd_limit,
)
