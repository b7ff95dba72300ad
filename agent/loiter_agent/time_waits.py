"""Follows TIME_WAIT sockets from tick to tick and finds whose they were, which the kernel does not keep.

A socket that was seen before costs a dictionary look-up. For one that was not, these are asked in turn: the tracer of
closes, where there is one, and the connections of the last tick, for the same 4-tuple (`exact`); the listener of its
local port (`listener`); the cgroup in which the connection was seen after its process had let go of it (`cgroup`); and
who holds nearly all live connections to the same destination (`destination`). What none of them tells stays
`unattributed`, and is asked about again, unless it is known that the process has ended: then nobody else is it.
"""

from __future__ import annotations

import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final, NamedTuple, Protocol

from loiter_agent.inet_diag import TCP_NEW_SYN_RECV, TCP_SYN_RECV, TCP_TIME_WAIT, Chunk
from loiter_agent.places import ROLE_ACCEPTED, ROLE_OPENED, Place, place_of
from loiter_agent.sample import ProcessKey, TimeWaitOwner

# TCP_TIMEWAIT_LEN of include/net/tcp.h.
TIME_WAIT_SECONDS: Final = 60.0
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_NEW: Final = -1
_REQUESTS: Final = (TCP_NEW_SYN_RECV, TCP_SYN_RECV)
UNATTRIBUTED: Final = TimeWaitOwner(None, "unattributed")

# An observation counts this much less with every sample that came after it.
_DECAY: Final = 0.95
_LEAST_WEIGHT: Final = 0.05
# What it takes to call a destination somebody's: so many observations, and nearly all of them of one process. Another
# process that makes a share p of the connections is missed n times in a row with a chance of (1 - p)^n, so of the
# sockets p (1 - p)^n are expected to be charged wrongly: for n = 8 that is 4 % at worst, for p = 1/9, and next to
# nothing for the usual destination, which one process alone talks to.
_ENOUGH_WEIGHT: Final = 8.0
_DOMINANT_SHARE: Final = 0.98
_MOST_DESTINATIONS: Final = 20_000
# A crawler may close connections to more destinations than are worth telling apart.
_MOST_GROUPS: Final = 20_000

Destination = tuple[int, int, bytes, int]  # namespace, family, address, port


class Tracer(Protocol):
    """Knows who closed a connection: see close_tracer."""

    def closing_processes(self, namespace: int, connections: Sequence[bytes]) -> list[ProcessKey | None]:
        """Returns the process that closed each connection, or None."""

    def close(self) -> None:
        """Stops tracing."""


class Group(NamedTuple):
    """What TIME_WAIT sockets have in common: their place, and whose they were.

    `ended`: their process was found, and had ended by then. They stay unattributed.
    """

    place: Place
    owner: TimeWaitOwner
    ended: bool = False


@dataclass(frozen=True, slots=True)
class _NewSocket:
    namespace: int
    family: int
    connection: bytes
    left: int | None  # milliseconds in TIME_WAIT; None for one that has not come to that yet


@dataclass(frozen=True, slots=True)
class WaitingSockets:
    """The mini-sockets of one group, in TIME_WAIT and in FIN_WAIT2: the milliseconds that each has left."""

    time_wait: array[int] = field(default_factory=lambda: array("I"))
    fin_wait2: array[int] = field(default_factory=lambda: array("I"))


def _started(key: ProcessKey) -> float:
    """When a process started, in seconds since boot."""
    return key.start_ticks / _CLOCK_TICKS


class Shares:
    """Who holds the live connections to each destination, later samples counting more."""

    def __init__(self) -> None:
        """Starts without any."""
        self._weights: dict[Destination, dict[ProcessKey | None, float]] = {}

    def update(self, live: Iterable[tuple[Destination, ProcessKey | None, int]]) -> None:
        """Takes in a sample: how many live connections to a destination a process holds."""
        kept = {}
        for destination, weights in self._weights.items():
            decayed = {key: weight * _DECAY for key, weight in weights.items() if weight * _DECAY > _LEAST_WEIGHT}
            if decayed:
                kept[destination] = decayed
        for destination, key, count in live:
            if destination in kept or len(kept) < _MOST_DESTINATIONS:
                weights = kept.setdefault(destination, {})
                weights[key] = weights.get(key, 0.0) + count
        self._weights = kept

    def owner(self, destination: Destination) -> ProcessKey | None:
        """The process that nearly all connections to a destination were seen with, if there is one."""
        weights = self._weights.get(destination)
        if not weights:
            return None
        total = sum(weights.values())
        key, weight = max(weights.items(), key=lambda item: item[1])
        return key if total >= _ENOUGH_WEIGHT and weight >= _DOMINANT_SHARE * total else None


@dataclass(frozen=True, slots=True)
class Clues:
    """What the other parts of a tick know about who held a connection."""

    before: Mapping[tuple[int, bytes], Place]
    process: Callable[[int], ProcessKey | None]
    listeners: Callable[[int, bytes], tuple[ProcessKey, ...]]
    in_cgroup: Callable[[int], tuple[ProcessKey, ...]]
    alive: Callable[[ProcessKey], bool]
    accepted: Callable[[int, bytes], bool]
    shares: Shares
    tracer: Tracer | None
    # Seconds since boot. A socket that was closed before a process started was not that process's.
    now: float = math.inf


class TimeWaits:
    """Keeps whose TIME_WAIT sockets were. A tick is `begin`, `feed` for each chunk, `finish`."""

    def __init__(self) -> None:
        """Starts without any."""
        self._groups: list[Group] = []
        self._group_of: dict[int, int] = {}  # cookie → number of its group
        self.states: Counter[int] = Counter()
        self.begin()

    def begin(self) -> None:
        """Starts a tick, or starts one over."""
        self.states = Counter()
        self._cookies: array[int] = array("Q")
        self._seen: array[int] = array("q")
        self._states = bytearray()
        self._expires: array[int] = array("I")
        self._new: dict[int, _NewSocket] = {}

    def feed(self, namespace: int, offset: int, chunk: Chunk, states: bytes) -> None:
        """Takes in mini-sockets. Requests are counted only; FIN_WAIT2 is kept, for it turns into TIME_WAIT.

        `offset` is added to cookies: see Owners.feed.
        """
        self.states.update(states)
        cookies, expires = chunk.cookies(), chunk.expires()
        chunk_states, chunk_expires = states, expires
        if offset:
            cookies = [cookie + offset for cookie in cookies]
        indexes: Iterable[int] = range(chunk.count)
        if any(request in states for request in _REQUESTS):
            indexes = [index for index, state in enumerate(states) if state not in _REQUESTS]
            cookies, expires = [cookies[index] for index in indexes], [expires[index] for index in indexes]
            states = bytes(states[index] for index in indexes)
        groups = list(map(self._group_of.get, cookies, repeat(_NEW)))
        self._cookies.fromlist(cookies)
        self._seen.fromlist(groups)
        self._states += states
        self._expires.fromlist(expires)
        if _NEW in groups:
            for index, cookie, group in zip(indexes, cookies, groups, strict=True):
                if group == _NEW:
                    left = chunk_expires[index] if chunk_states[index] == TCP_TIME_WAIT else None
                    connection = chunk.connection(index)
                    self._new[cookie] = _NewSocket(namespace, chunk.family(index), connection, left)

    def new_connections(self) -> set[tuple[int, bytes]]:
        """The namespaces and connections of sockets that were not seen in TIME_WAIT before."""
        return {(new.namespace, new.connection) for new in self._new.values()}

    def finish(self, clues: Clues) -> dict[Group, WaitingSockets]:
        """Ends a tick: finds whose the new sockets were, and adds up."""
        numbers = {group: number for number, group in enumerate(self._groups)} if self._new else {}
        traced = self._trace(clues.tracer)
        for cookie, new in self._new.items():
            accepted = clues.accepted(new.namespace, new.connection)
            place = place_of(new.namespace, 0, new.family, new.connection, accepted)
            group = self._group(new, place, clues, traced.get(cookie))
            if len(numbers) >= _MOST_GROUPS and group not in numbers:
                group = group._replace(place=place._replace(source=b"", destination=b"", port=0))
            if group not in numbers:
                numbers[group] = len(self._groups)
                self._groups.append(group)
            self._group_of[cookie] = numbers[group]
        seen: Sequence[int] = self._seen
        if self._new or len(self._group_of) != len(self._cookies):
            seen = list(map(self._group_of.__getitem__, self._cookies))
            self._group_of = dict(zip(self._cookies, seen, strict=True))
        self._ask_again(clues)
        waiting = self._add_up(seen)
        self._drop_unused(seen)
        states = self.states
        self.begin()
        self.states = states
        return waiting

    def _trace(self, tracer: Tracer | None) -> dict[int, ProcessKey | None]:
        """Asks the tracer about all new sockets: cookie → process."""
        traced: dict[int, ProcessKey | None] = {}
        if tracer is not None:
            for namespace in {new.namespace for new in self._new.values()}:
                cookies = [cookie for cookie, new in self._new.items() if new.namespace == namespace]
                connections = [self._new[cookie].connection for cookie in cookies]
                traced.update(zip(cookies, tracer.closing_processes(namespace, connections), strict=True))
        return traced

    def _group(self, new: _NewSocket, place: Place, clues: Clues, closer: ProcessKey | None) -> Group:
        before = clues.before.get((new.namespace, new.connection))
        if closer is not None:
            key = closer if clues.alive(closer) else None
            known = True
        else:
            key = (clues.process(before.holder) or clues.process(before.former)) if before is not None else None
            known = before is not None and max(before.holder, before.former) >= 0
        if key is not None:
            return Group(place, TimeWaitOwner(key, "exact"))
        if known:
            # It has ended since: whoever else could be found is not it.
            return Group(place, UNATTRIBUTED, ended=True)
        return Group(place, self._owner(new, place, clues, before))

    def _owner(self, new: _NewSocket, place: Place, clues: Clues, before: Place | None) -> TimeWaitOwner:
        if place.role == ROLE_ACCEPTED:
            closed = clues.now - TIME_WAIT_SECONDS + (TIME_WAIT_SECONDS if new.left is None else new.left / 1_000)
            listeners = tuple(key for key in clues.listeners(new.namespace, new.connection) if _started(key) <= closed)
            if listeners:
                return TimeWaitOwner(listeners[0] if len(listeners) == 1 else None, "listener", listeners)
        if before is not None and before.cgroup is not None:
            members = clues.in_cgroup(before.cgroup)
            if members:
                return TimeWaitOwner(members[0] if len(members) == 1 else None, "cgroup", members)
        return self._by_destination(place, clues) or UNATTRIBUTED

    def _by_destination(self, place: Place, clues: Clues) -> TimeWaitOwner | None:
        if place.role != ROLE_OPENED or not place.port:
            return None
        key = clues.shares.owner((place.namespace, place.family, place.destination, place.port))
        return TimeWaitOwner(key, "destination") if key is not None and clues.alive(key) else None

    def _ask_again(self, clues: Clues) -> None:
        for number, group in enumerate(self._groups):
            if group.owner.how == "unattributed" and not group.ended:
                owner = self._by_destination(group.place, clues)
                if owner is not None:
                    self._groups[number] = group._replace(owner=owner)

    def _add_up(self, seen: Sequence[int]) -> dict[Group, WaitingSockets]:
        waiting: dict[Group, WaitingSockets] = {}
        timers: dict[tuple[int, int], array[int]] = {}
        for number, state in set(zip(seen, self._states, strict=True)):
            sockets = waiting.setdefault(self._groups[number], WaitingSockets())
            timers[number, state] = sockets.time_wait if state == TCP_TIME_WAIT else sockets.fin_wait2
        for number, state, left in zip(seen, self._states, self._expires, strict=True):
            timers[number, state].append(left)
        return waiting

    def _drop_unused(self, seen: Sequence[int]) -> None:
        used = sorted(set(seen))
        if len(self._groups) > 2 * len(used):
            moved = {number: index for index, number in enumerate(used)}
            self._groups = [self._groups[number] for number in used]
            self._group_of = {cookie: moved[number] for cookie, number in self._group_of.items()}
