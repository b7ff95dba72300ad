"""Which host is connected by which stream, and who claims the id of another.

Machines made from one image have one machine-id, and so one host id. Two of them at a time are told by what each run of
an agent draws for itself. One that comes while another is alive is refused; that it is not the same machine, whose old
connection has not been found dead yet, is certain once the other goes on to deliver. From then on, for an hour after it
came last, it is refused also while the other is not connected, as when that is started anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from loiter_aggregator.clock import Clock

_SILENT_INTERVALS: Final = 3
_SILENT_FLOOR_SECONDS: Final = 5.0
# An agent that was killed and is started again at once may be faster than the news of its end.
_VACATED_WITHIN_SECONDS: Final = 2.0
_MAX_CONFLICTS: Final = 1_000
_REMEMBERED_MS: Final = 3_600_000
# Others that claim the id of one stream, told apart until it delivers.
_MAX_CLAIMS: Final = 16


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of a machine, apart from the host id that it may share; no address where it is not connected."""

    hostname: str
    boot_id: str
    peer: str | None = None

    def is_same(self, other: Machine) -> bool:
        """Whether it is likely the same one: of the same name, and with the same address, or not booted since."""
        return self.hostname == other.hostname and (self.peer == other.peer or self.boot_id == other.boot_id)


def silent_after(interval_seconds: float) -> float:
    """After how many seconds without a report a machine may be gone."""
    return max(_SILENT_INTERVALS * interval_seconds, _SILENT_FLOOR_SECONDS)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A machine that was refused since another one reports under its host id; `last_time` in milliseconds."""

    host_id: str
    hostname: str
    peer: str
    refused_hostname: str
    refused_peer: str
    last_time: int


@dataclass(eq=False, slots=True)
class Session:
    """One stream of a host. `instance` is 0 with agents that draw none; `end` ends the stream.

    While we are `at_work` on what came by it, it is not read, and its silence means nothing.
    """

    host_id: str
    hostname: str
    boot_id: str
    instance: int
    peer: str
    interval_seconds: float
    end: Callable[[], None]
    heard: float = 0.0
    at_work: bool = False
    claims: dict[tuple[str, str], Conflict] = field(default_factory=dict)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def machine(self) -> Machine:
        """The machine it comes from."""
        return Machine(self.hostname, self.boot_id, self.peer)

    def is_same_agent(self, other: Session) -> bool:
        """Whether two streams are of one run of one agent."""
        if self.instance or other.instance:
            return self.instance == other.instance
        return (self.boot_id, self.hostname) == (other.boot_id, other.hostname)

    def is_silent(self, now: float) -> bool:
        """Whether nothing was heard for so long that its machine may be gone."""
        return not self.at_work and now - self.heard > silent_after(self.interval_seconds)


@dataclass(slots=True)
class AtWork:
    """A block in which a stream is not read. A class, as it is entered for each report."""

    session: Session
    monotonic: Callable[[], float]

    def __enter__(self) -> None:
        self.session.at_work = True

    def __exit__(self, *_: object) -> None:
        self.session.at_work = False
        self.session.heard = self.monotonic()


class Registry:
    """The streams that are open, by host."""

    def __init__(
        self,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
        vacated_within: float = _VACATED_WITHIN_SECONDS,
    ) -> None:
        """Takes the clock that dates conflicts, the one that tells silence, and how long to wait for a stream's end."""
        self._clock = clock
        self._monotonic = monotonic
        self._vacated_within = vacated_within
        self._sessions: dict[str, Session] = {}
        self._conflicts: OrderedDict[tuple[str, str, str], Conflict] = OrderedDict()
        # Whose a host id is, of those that are in conflict, and the time of the latest conflict in milliseconds.
        self._rightful: OrderedDict[str, tuple[Machine, int]] = OrderedDict()

    def __len__(self) -> int:
        """How many hosts are connected."""
        return len(self._sessions)

    async def enter(self, session: Session, heard: Machine | None = None) -> Machine | None:
        """Lets a stream in, and ends what it takes the place of. Returns the machine that is in its way, if one is.

        `heard` is the one that reported last under the host id, where it may be alive, as far as the store tells.
        """
        session.heard = self._monotonic()
        other = self._in_the_way_of(session)
        if other is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._vacated_within):
                    await other.left.wait()
            other = self._in_the_way_of(session)
        if other is not None:
            self._claim(other, session)
            return other.machine
        absent = self._absent_owner(session, heard)
        if absent is None:
            if (before := self._sessions.get(session.host_id)) is not None:
                before.end()
            self._sessions[session.host_id] = session
        return absent

    def leave(self, session: Session) -> None:
        """A stream is over."""
        session.left.set()
        if self._sessions.get(session.host_id) is session:
            del self._sessions[session.host_id]

    def at_work(self, session: Session) -> AtWork:
        """Something came by a stream, and the block takes it in."""
        return AtWork(session, self._monotonic)

    def deliver(self, session: Session, sent: int | None) -> list[Conflict]:
        """A report came, sent at a time in milliseconds, where that is known.

        Returns the conflicts that are certain now, and were not known before: those of machines that were refused
        before it was sent. One that was sent before may be the last of a machine that was started anew since.
        """
        if not session.claims:
            return []
        certain = [key for key, claim in session.claims.items() if sent is None or sent > claim.last_time]
        return [claim for claim in map(session.claims.pop, certain) if self._record(claim, session.machine)]

    def conflicts(self) -> list[Conflict]:
        """The conflicts of the last hour, the latest last; at most 1,000."""
        for key in [key for key, conflict in self._conflicts.items() if not self._is_remembered(conflict.last_time)]:
            del self._conflicts[key]
        return list(self._conflicts.values())

    def _in_the_way_of(self, session: Session) -> Session | None:
        other = self._sessions.get(session.host_id)
        if other is None or other.is_same_agent(session) or other.is_silent(self._monotonic()):
            return None
        rightful = self._rightful_machine(session.host_id)
        if rightful is not None and rightful.is_same(session.machine) and not rightful.is_same(other.machine):
            return None
        return other

    def _absent_owner(self, session: Session, heard: Machine | None) -> Machine | None:
        """The machine that a host id is kept for although it is not connected now, if that is another one."""
        machine, rightful = session.machine, self._rightful_machine(session.host_id)
        if rightful is not None:
            if rightful.is_same(machine):
                return None
            conflict = self._conflicts.get((session.host_id, session.hostname, session.peer))
            if conflict is not None and self._is_remembered(conflict.last_time):
                return rightful
        if heard is not None and heard.hostname != machine.hostname and heard.boot_id != machine.boot_id:
            return heard
        return None

    def _rightful_machine(self, host_id: str) -> Machine | None:
        machine, last_time = self._rightful.get(host_id, (None, 0))
        return machine if self._is_remembered(last_time) else None

    def _is_remembered(self, last_time: int) -> bool:
        return last_time >= self._clock() - _REMEMBERED_MS

    def _claim(self, holder: Session, session: Session) -> None:
        claim = (session.hostname, session.peer)
        if claim in holder.claims or len(holder.claims) < _MAX_CLAIMS:
            holder.claims[claim] = Conflict(
                session.host_id, holder.hostname, holder.peer, session.hostname, session.peer, self._clock()
            )

    def _record(self, conflict: Conflict, machine: Machine) -> bool:
        """Remembers a conflict, and whose the host id is; returns whether it is new."""
        rightful = self._rightful_machine(conflict.host_id)
        if rightful is None or rightful.is_same(machine):
            self._rightful[conflict.host_id] = (machine, conflict.last_time)
            self._rightful.move_to_end(conflict.host_id)
            if len(self._rightful) > _MAX_CONFLICTS:
                self._rightful.popitem(last=False)
        key = (conflict.host_id, conflict.refused_hostname, conflict.refused_peer)
        new = key not in self._conflicts
        self._conflicts[key] = conflict
        self._conflicts.move_to_end(key)
        if len(self._conflicts) > _MAX_CONFLICTS:
            self._conflicts.popitem(last=False)
        return new
