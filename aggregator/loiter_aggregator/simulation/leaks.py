"""Which processes forget to close, on which hosts, and how many sockets an hour. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loiter_aggregator.simulation.apps import App, leaking_app
from loiter_aggregator.simulation.draws import between, log_between
from loiter_aggregator.simulation.plan import Kind, Plan

# Sockets an hour of an app, on a host that is as most are.
_SLOWEST: Final = 120.0
_FASTEST: Final = 3_600.0
# How much a host differs from most.
_LEAST: Final = 0.6
_MOST: Final = 1.4
# How long it has leaked as the fleet begins to run, in hours.
_SINCE_HOURS: Final = (0.1, 3.0)
# So that the fastest leaks on for a day.
_FD_LIMIT: Final = 131_072
_FEWEST_APPS: Final = 20
_HOSTS_AN_APP: Final = 10

_RATE: Final = 0x4C
_FACTOR: Final = 0x4D
_AGE: Final = 0x4E


@dataclass(frozen=True, slots=True)
class Leak:
    """A process that forgets to close. `since_hours` is for how long it has as the fleet begins to run."""

    app: App
    per_hour: float
    since_hours: float


def app_count(plan: Plan) -> int:
    """How many apps leak: twenty where there are as many leaking hosts, and more where there are very many."""
    hosts = plan.counts[Kind.LEAKING]
    return min(hosts, max(_FEWEST_APPS, hosts // _HOSTS_AN_APP))


def leaks_of(plan: Plan, place: int) -> tuple[Leak, ...]:
    """The leaks of a leaking host, by its place among those: two, of apps that leak on other hosts too."""
    apps = app_count(plan)
    first, second = place % apps, (place + max(1, apps // 3)) % apps
    chosen = (first,) if first == second or plan.processes < 2 else (first, second)
    return tuple(_leak(plan, place, app) for app in chosen)


def _leak(plan: Plan, place: int, app: int) -> Leak:
    rate = log_between(_SLOWEST, _FASTEST, plan.seed, _RATE, app)
    return Leak(
        leaking_app(app, _FD_LIMIT),
        rate * between(_LEAST, _MOST, plan.seed, _FACTOR, app, place),
        between(*_SINCE_HOURS, plan.seed, _AGE, app, place),
    )
