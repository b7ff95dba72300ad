"""Adds up who uses which ephemeral ports, and forecasts the fullest budgets."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nlargest

from loiter.limits import MAX_PORT_BUDGETS
from loiter_agent.namespace_files import NamespaceSettings
from loiter_agent.places import ROLE_OPENED, Place, address_text, endpoint_text, is_loopback
from loiter_agent.ports import Usage, forecast
from loiter_agent.sample import PortBudget, ProcessKey
from loiter_agent.time_waits import Group, WaitingSockets

# So many destinations are always shown, more only if their budget is half used.
_SHOWN = 20
_FULL = 0.5
_DEFAULT_REUSE_DELAY_MS = 1_000
_REMEMBERED_SECONDS = 60.0
_REMEMBERED_EVERY_SECONDS = 10.0
# Standard deviations of a count that varies by chance alone.
_CHANCE = 2.0

# Namespace, family, local address, address and port of the other end.
_Key = tuple[int, int, bytes, bytes, int]


@dataclass(slots=True)
class _Budget:
    usage: Usage = field(default_factory=Usage)
    users: Counter[ProcessKey] = field(default_factory=Counter)


class PortBudgets:
    """Keeps how many live connections there were within the last minute, to tell how fast they come."""

    def __init__(self) -> None:
        """Starts without any."""
        self._updated: float | None = None
        self._live: deque[tuple[float, dict[_Key, int]]] = deque()

    def update(
        self,
        now: float,
        places: Mapping[Place, Mapping[int, int]],
        waiting: Mapping[Group, WaitingSockets],
        settings: Mapping[int, NamespaceSettings | None],
        process: Callable[[int], ProcessKey | None],
    ) -> tuple[PortBudget, ...]:
        """Takes in a tick and returns the budgets, fullest first.

        Args:
            now: Seconds on a clock that never steps.
            places: Full sockets, by place and state.
            waiting: TIME_WAIT sockets.
            settings: Of each namespace, None where they could not be read.
            process: Finds the process of a holder.
        """
        budgets = _add_up(places, waiting, process)
        elapsed = now - self._updated if self._updated is not None and now > self._updated else None
        available = {namespace: _ephemeral_ports(rules) for namespace, rules in settings.items()}

        def fullness(item: tuple[_Key, _Budget]) -> tuple[float, int]:
            (namespace, *_), budget = item
            ports = available.get(namespace)
            return budget.usage.used / ports if ports else 0.0, budget.usage.used

        rows = []
        for position, (key, budget) in enumerate(nlargest(MAX_PORT_BUDGETS, budgets.items(), key=fullness)):
            if position >= _SHOWN and fullness((key, budget))[0] < _FULL:
                break
            growth = self._growth(now, key, budget.usage.live)
            rows.append(_row(key, budget, available.get(key[0]), growth, elapsed, settings.get(key[0])))
        self._updated = now
        self._remember(now, {key: budget.usage.live for key, budget in budgets.items() if budget.usage.live})
        return tuple(rows)

    def _growth(self, now: float, key: _Key, live: int) -> float | None:
        """By how many the live connections grow in a second. What may be chance is none: connections come and go."""
        if not self._live or now <= self._live[0][0]:
            return None
        since, before = self._live[0]
        change = live - before.get(key, 0)
        return change / (now - since) if abs(change) > _CHANCE * math.sqrt(live) else 0.0

    def _remember(self, now: float, live: dict[_Key, int]) -> None:
        while self._live and now - self._live[0][0] > _REMEMBERED_SECONDS:
            self._live.popleft()
        if not self._live or now - self._live[-1][0] >= _REMEMBERED_EVERY_SECONDS:
            self._live.append((now, live))


def _add_up(
    places: Mapping[Place, Mapping[int, int]],
    waiting: Mapping[Group, WaitingSockets],
    process: Callable[[int], ProcessKey | None],
) -> dict[_Key, _Budget]:
    budgets: dict[_Key, _Budget] = {}
    for place, states in places.items():
        if _is_told_apart(place):
            budget = budgets.setdefault(_key(place), _Budget())
            count = sum(states.values())
            budget.usage.live += count
            key = process(place.holder)
            if key is not None:
                budget.users[key] += count
    for group, sockets in waiting.items():
        if _is_told_apart(group.place):
            budget = budgets.setdefault(_key(group.place), _Budget())
            budget.usage.time_wait.extend(sockets.time_wait)
            budget.usage.fin_wait2.extend(sockets.fin_wait2)
            if group.owner.key is not None:
                budget.users[group.owner.key] += len(sockets.time_wait) + len(sockets.fin_wait2)
    return budgets


def _is_told_apart(place: Place) -> bool:
    return place.role == ROLE_OPENED and place.port != 0


def _key(place: Place) -> _Key:
    return place.namespace, place.family, place.source, place.destination, place.port


def _row(
    key: _Key,
    budget: _Budget,
    available: int | None,
    live_growth: float | None,
    elapsed: float | None,
    rules: NamespaceSettings | None,
) -> PortBudget:
    namespace, family, source, destination, port = key
    reuse_after = _reuse_after(rules, family, (source, destination))
    seconds = {} if elapsed is None else {"elapsed": elapsed}
    result = forecast(budget.usage, available, live_growth, reuse_after, **seconds)
    return PortBudget(
        namespace=namespace,
        source=address_text(family, source),
        destination=endpoint_text(family, destination, port),
        used=budget.usage.used,
        available=available,
        time_wait=len(budget.usage.time_wait),
        reusable=result.reusable,
        connects_per_second=result.connects_per_second,
        exhausting_connects_per_second=result.exhausting_connects_per_second,
        exhausted_in_seconds=result.exhausted_in_seconds,
        owner=_heaviest(budget),
    )


def _ephemeral_ports(rules: NamespaceSettings | None) -> int | None:
    if rules is None or rules.port_range is None or rules.reserved_ports is None:
        return None
    first, last = rules.port_range
    return last - first + 1 - rules.reserved_ports


def _heaviest(budget: _Budget) -> ProcessKey | None:
    """The process that uses the most ports, where that is more than half of them."""
    for key, count in budget.users.most_common(1):
        if 2 * count > budget.usage.used:
            return key
    return None


def _reuse_after(rules: NamespaceSettings | None, family: int, addresses: Iterable[bytes]) -> float | None:
    """After how many seconds a port in TIME_WAIT is taken again; None if it is not, or if that is not known.

    tcp_tw_reuse is 0 for never, 1 for always, 2 for loopback alone (ip-sysctl in the kernel's documentation).
    """
    if rules is None or not rules.tw_reuse:
        return None
    if rules.tw_reuse == 2 and not any(is_loopback(family, address) for address in addresses):
        return None
    delay = rules.tw_reuse_delay_ms
    return (_DEFAULT_REUSE_DELAY_MS if delay is None else delay) / 1_000
