"""Sees at a glance that a sample keeps the rules of `validation`: most do, and one look at many values costs little.

What does not pass breaks a rule, or is so seldom that it is not worth a look of its own: `validation` then goes by the
rules one by one, and names the first that is broken. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from loiter.limits import (
    MAX_COLLECTORS,
    MAX_INTERVAL_SECONDS,
    MAX_NAMESPACES,
    MAX_PORT_BUDGETS,
    MAX_STRING_CHARS,
    MAX_TIME_WAIT_GROUPS,
    MIN_INTERVAL_SECONDS,
)
from loiter.v1 import sample_pb2
from loiter_aggregator.store.figures import Processes

LATEST_SECONDS: Final = 4_102_444_800  # the year 2100
SAMPLERS: Final = frozenset(sample_pb2.Sampler.values())
CAUSES: Final = frozenset(sample_pb2.Cause.values())
OWNER_SOURCES: Final = frozenset(sample_pb2.OwnerSource.values())
DEGRADATIONS: Final = frozenset(sample_pb2.Degradation.values())

_NANOS: Final = 10**9

_Getter = Callable[[Any], tuple[Any, ...]]
_COLLECTOR_TEXTS: Final[_Getter] = attrgetter("name", "error")
_GROUP_TEXTS: Final[_Getter] = attrgetter("namespace", "destination", "listener")
_GROUP_OWNER: Final = attrgetter("owner")
_GROUP_CLOSES: Final = attrgetter("closes_per_second")
_OWNER_TEXTS: Final[_Getter] = attrgetter("name", "app")
_OWNER_SOURCE: Final = attrgetter("source")
_PORT_TEXTS: Final[_Getter] = attrgetter("namespace", "source", "destination")
_PORT_RATES: Final[_Getter] = attrgetter(
    "connects_per_second", "exhausting_connects_per_second", "exhausted_in_seconds"
)
_NAMESPACE_TEXTS: Final[_Getter] = attrgetter("id", "name")
_SAMPLER: Final = attrgetter("sampler")
_WHOLE: Final[_Getter] = attrgetter("sample_time", "sampler", "degradation")
_COST: Final[_Getter] = attrgetter("cpu_seconds", "wall_seconds", "process_cpu_seconds", "cpu_share", "cpu_budget")
_LIMITS: Final[_Getter] = attrgetter("seconds", "overflows_per_second")


def processes_hold(
    processes: Processes, check_details: Callable[[sample_pb2.ProcessSample], None] = lambda _: None
) -> bool:
    """Whether all processes keep the rules; `check_details` raises for what only some have, and is called of those."""
    if not processes.messages:
        return True
    _, pids, names, apps, users, arguments, causes, *_, shares = zip(*processes.figures, strict=True)
    seconds, nanos = zip(*processes.starts, strict=True)
    if not (
        len(set(pids)) == len(pids)
        and 0 not in pids
        # One that started in 1970 is seldom: more likely it does not say when.
        and min(seconds) > 0
        and max(seconds) < LATEST_SECONDS
        and min(nanos) >= 0
        and max(nanos) < _NANOS
        and _fit(chain(names, apps, users, arguments))
        and CAUSES.issuperset(causes)
        and _are_finite(shares)
    ):
        return False
    for process in processes.messages:
        has = process.HasField
        if has("close_wait_age") or has("container") or has("evidence") or process.peers:
            check_details(process)
    return True


def sample_holds(sample: sample_pb2.Sample) -> bool:
    """Whether what is not of single processes keeps the rules."""
    taken, sampler, degradation = _WHOLE(sample)
    return (
        0 < taken.seconds < LATEST_SECONDS
        and 0 <= taken.nanos < _NANOS
        and sampler in SAMPLERS
        and degradation in DEGRADATIONS
        and (not sample.HasField("interval") or _interval_holds(sample.interval))
        and (not sample.HasField("cost") or _are_finite(_COST(sample.cost)))
        and (not sample.HasField("time_wait_limits") or _are_finite(_LIMITS(sample.time_wait_limits)))
        and _collectors_hold(sample.collectors)
        and _groups_hold(sample.time_wait)
        and _ports_hold(sample.ports)
        and _namespaces_hold(sample.namespaces)
    )


def _interval_holds(interval: Duration) -> bool:
    seconds, nanos = interval.seconds, interval.nanos
    return 0 <= nanos < _NANOS and MIN_INTERVAL_SECONDS <= seconds + nanos // 1_000_000 / 1_000 <= MAX_INTERVAL_SECONDS


def _collectors_hold(collectors: Sequence[sample_pb2.CollectorStatus]) -> bool:
    return not collectors or (len(collectors) <= MAX_COLLECTORS and _texts_fit(_COLLECTOR_TEXTS, collectors))


def _groups_hold(groups: Sequence[sample_pb2.TimeWaitGroup]) -> bool:
    if not groups:
        return True
    if len(groups) > MAX_TIME_WAIT_GROUPS:
        return False
    owners = list(map(_GROUP_OWNER, groups))
    return (
        _texts_fit(_GROUP_TEXTS, groups)
        and _are_finite(list(map(_GROUP_CLOSES, groups)))
        and OWNER_SOURCES.issuperset(map(_OWNER_SOURCE, owners))
        and _texts_fit(_OWNER_TEXTS, owners)
        and all(map(_owner_holds, owners))
    )


def _owner_holds(owner: sample_pb2.TimeWaitOwner) -> bool:
    """The start_time of an owner that has a process id."""
    if not owner.pid:
        return not owner.HasField("pid") and not owner.HasField("start_time")
    start = owner.start_time
    return 0 <= start.seconds < LATEST_SECONDS and 0 <= start.nanos < _NANOS


def _ports_hold(budgets: Sequence[sample_pb2.PortBudget]) -> bool:
    return not budgets or (
        len(budgets) <= MAX_PORT_BUDGETS
        and _texts_fit(_PORT_TEXTS, budgets)
        and _are_finite(list(chain.from_iterable(map(_PORT_RATES, budgets))))
    )


def _namespaces_hold(namespaces: Sequence[sample_pb2.NetworkNamespace]) -> bool:
    return not namespaces or (
        len(namespaces) <= MAX_NAMESPACES
        and _texts_fit(_NAMESPACE_TEXTS, namespaces)
        and SAMPLERS.issuperset(map(_SAMPLER, namespaces))
    )


def _texts_fit(texts_of: _Getter, messages: Iterable[Any]) -> bool:
    return _fit(chain.from_iterable(map(texts_of, messages)))


def _fit(texts: Iterable[str]) -> bool:
    return max(map(len, texts)) <= MAX_STRING_CHARS


def _are_finite(figures: tuple[float, ...] | list[float]) -> bool:
    """Whether none is negative, infinite or not a number, of which a sum would be none either."""
    return min(figures) >= 0 and sum(figures) < math.inf
