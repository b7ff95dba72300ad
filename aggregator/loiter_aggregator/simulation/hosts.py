"""Simulated hosts: what they are called, and which processes they have when. Pure."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Final

from loiter_aggregator.simulation.apps import COMMON, ROLES, App
from loiter_aggregator.simulation.draws import between, draw, share
from loiter_aggregator.simulation.leaks import Leak, leaks_of
from loiter_aggregator.simulation.life import Event, Life, Run
from loiter_aggregator.simulation.plan import Kind, Plan

# Every simulated host has it, and no other should.
LABEL: Final = "simulated"

_SITES: Final = ("fra1", "ams2", "iad1", "sin1")
_KERNELS: Final = ("6.1.0-28-amd64", "6.1.0-31-amd64", "6.8.0-45-generic", "6.12.9-cloud-amd64")
_MAX_PID: Final = 4_000_000
_FIRST_PID: Final = 300
# Of the processes of a churning host.
_SHORT_LIVED: Final = 0.6
_LIFE_MS: Final = (40_000.0, 400_000.0)
# Of an interval.
_PHASES: Final = 50
_HOUR_MS: Final = 3_600_000
# On descriptors, of a process that comes to have none left.
_SMALL_LIMITS: Final = (2_048, 4_096, 8_192)
# A process starts some time after its host.
_AFTER_BOOT: Final = 0.9

_PHASE: Final = 0x21
_ROLE: Final = 0x22
_SITE: Final = 0x23
_KERNEL: Final = 0x24
_PID: Final = 0x25
_LIFE: Final = 0x26
_BIRTH: Final = 0x27
_LIMIT: Final = 0x29


@dataclass(frozen=True, slots=True)
class Slot:
    """A place of a host's that one process takes after another. `life` is for how long each does, in milliseconds."""

    index: int
    app: App
    leak: Leak | None = None
    life: float | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its pid and when it started, in milliseconds since 1970, make up its identity on a host."""

    slot: Slot
    pid: int
    start: int


def hostname(number: int) -> str:
    """What the host of a number is called."""
    return f"sim-{number:05}"


class SimulatedHost:
    """A host of a plan."""

    __slots__ = ("_plan", "first", "host_id", "hostname", "key", "kind", "life", "number", "role", "slots")

    def __init__(self, plan: Plan, number: int) -> None:
        """Makes the host of a number."""
        self._plan = plan
        self.number = number
        self.kind, place = plan.place(number)
        self.hostname = hostname(number)
        self.host_id = _digest(plan.seed, number)
        # What it draws by.
        self.key = draw(plan.seed, number)
        # When its tick 0 is: not that of all at once, but of some: their sender wakes up once for them.
        self.first = plan.start + draw(self.key, _PHASE) % _PHASES * plan.interval // _PHASES
        self.life = Life(plan, self.key, self.kind, self.first)
        self.role = tuple(ROLES)[draw(self.key, _ROLE) % len(ROLES)]
        self.slots = _slots(plan, self.key, self.kind, self.role, place)

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return {LABEL: "true", "role": self.role, "dc": _SITES[draw(self.key, _SITE) % len(_SITES)]}

    @property
    def kernel_release(self) -> str:
        """Its kernel."""
        return _KERNELS[draw(self.key, _KERNEL) % len(_KERNELS)]

    def time_of(self, tick: int) -> int:
        """When a tick is, in milliseconds since 1970."""
        return self.first + tick * self._plan.interval

    def latest_tick(self, time: int) -> int:
        """The last tick at or before a time in milliseconds since 1970; below 0 where there was none."""
        return (time - self.first) // self._plan.interval

    def boot_id(self, run: Run) -> str:
        """The id of the boot that a run is of."""
        return str(uuid.UUID(_digest(self._plan.seed, self.number, self._plan.start, run.boot)))

    def epoch(self, run: Run) -> int:
        """The epoch of a run. Another plan, or one that begins at another time, has others."""
        return (self._plan.start << 20) + (self._plan.mark << 12) + (run.number & 0xFFF)

    def state(self, tick: int) -> tuple[int, ...]:
        """What tells whether two ticks are of the same run, and saw the same processes."""
        if self.kind is Kind.RESTARTING:
            return (self.life.latest(tick, tuple(Event)),)
        if self.kind is Kind.CHURNING:
            return tuple(self._generation(slot, tick) for slot in self.slots if slot.life is not None)
        return ()

    def processes(self, tick: int) -> list[Process]:
        """The processes that it reports one by one at a tick."""
        return [self._process(slot, tick) for slot in self.slots]

    def _process(self, slot: Slot, tick: int) -> Process:
        generation, start = self._started(slot, tick)
        # Each slot has pids of its own, so that none is there twice.
        slots = len(self.slots)
        turn = draw(self.key, _PID, slot.index, generation) % (_MAX_PID // slots)
        return Process(slot, _FIRST_PID + turn * slots + slot.index, start)

    def _started(self, slot: Slot, tick: int) -> tuple[int, int]:
        """Which process of a slot is there, counted from 0, and when it started."""
        if slot.life is not None:
            generation = self._generation(slot, tick)
            began = generation * slot.life - self._age(slot, slot.life)
            return generation, self.first + int(began)
        number = self.life.latest(tick, (Event.PROCESS, Event.HOST) if slot.index == 0 else (Event.HOST,))
        boot = self.life.latest(tick, (Event.HOST,))
        if number > boot:
            return number, self.life.happened(number) - draw(self.key, _BIRTH, number) % self._plan.interval
        if slot.leak is not None:
            return 0, self._plan.start - int(slot.leak.since_hours * _HOUR_MS)
        booted = self.life.booted(boot)
        # It reports again as long after it has booted as it took to boot.
        span = booted - self.life.happened(boot) if boot else self._plan.start - booted
        return boot, booted + int(span * _AFTER_BOOT * share(self.key, _BIRTH, slot.index, boot))

    def _generation(self, slot: Slot, tick: int) -> int:
        assert slot.life is not None, "of those that do not live long"
        return int((tick * self._plan.interval + self._age(slot, slot.life)) // slot.life)

    def _age(self, slot: Slot, life: float) -> float:
        """How old its first process is at tick 0, in milliseconds."""
        return life * share(self.key, _LIFE, slot.index)


def _slots(plan: Plan, key: int, kind: Kind, role: str, place: int) -> tuple[Slot, ...]:
    leaks = leaks_of(plan, place) if kind is Kind.LEAKING else ()
    slots = [Slot(index, leak.app, leak) for index, leak in enumerate(leaks)]
    apps = [*ROLES[role], *COMMON]
    if kind is Kind.EXHAUSTING:
        apps[0] = apps[0]._replace(fd_limit=_SMALL_LIMITS[draw(key, _LIMIT) % len(_SMALL_LIMITS)])
    for index in range(len(slots), plan.processes):
        short = kind is Kind.CHURNING and index >= plan.processes * (1 - _SHORT_LIVED)
        life = between(*_LIFE_MS, key, _LIFE, index, 1) if short else None
        slots.append(Slot(index, apps[(index - len(leaks)) % len(apps)], life=life))
    return tuple(slots)


def _digest(*parts: int) -> str:
    """32 hexadecimal digits."""
    text = "/".join(map(str, ("loiter simulate", *parts)))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
