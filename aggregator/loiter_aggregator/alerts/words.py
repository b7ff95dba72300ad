"""Says of an alert what is wrong, to people. What agents are called or call things is made safe to show."""

from __future__ import annotations

from typing import Final

from loiter.text import printable
from loiter.v1 import sample_pb2
from loiter_aggregator.alerts.kinds import KINDS
from loiter_aggregator.alerts.state import Alert, Member
from loiter_aggregator.links import Links, app_page, host_page
from loiter_aggregator.output.rows import cause_name

# As many hosts of an alert are named.
NAMED_HOSTS: Final = 10


def worst_first(alert: Alert) -> list[Member]:
    """The hosts of an alert."""
    down = KINDS[alert.kind].worse == "above"
    return sorted(
        alert.members.values(), key=lambda one: (-one.figure if down else one.figure, one.hostname, one.stale)
    )


def figure(alert: Alert) -> float | None:
    """The worst figure, in the unit of the rule."""
    return next((one.figure for one in worst_first(alert)), None)


def cause(alert: Alert) -> sample_pb2.Cause.ValueType:
    """Why, on the host where it is worst."""
    return sample_pb2.Cause.ValueType(next((one.cause for one in worst_first(alert)), 0))


def summary(alert: Alert) -> str:
    """What is wrong, in one sentence."""
    kind = KINDS[alert.kind]
    worst = worst_first(alert)
    said = kind.broken.format(kind.write(worst[0].figure)) if worst else ""
    if alert.subject.host:
        return f"{printable(alert.subject.host)}: {said}{_staleness(worst)}"
    why = cause_name(cause(alert))
    why = "cause unknown" if why == "unknown" else why
    said += f" on {printable(worst[0].hostname)}{_others(len(worst) - 1)}" if worst else ""
    return f"{printable(alert.subject.app)}: {said}{f' ({why})' if why else ''}{_staleness(worst)}"


def hosts(alert: Alert) -> str:
    """The hosts of an alert, worst first."""
    worst = worst_first(alert)
    names = ", ".join(printable(one.hostname) for one in worst[:NAMED_HOSTS])
    return f"{names}{_others(len(worst) - NAMED_HOSTS)}"


def link(alert: Alert, links: Links) -> str:
    """The page that shows it; empty where no address is set."""
    if alert.subject.host:
        return links.to(host_page(alert.subject.host))
    return links.to(app_page(alert.subject.app))


def _others(number: int) -> str:
    return f" and {number:,} more" if number > 0 else ""


def _staleness(members: list[Member]) -> str:
    stale = sum(one.stale for one in members)
    if not stale:
        return ""
    if len(members) == 1:
        return "; that was the last heard of it"
    return f"; of {stale:,} of {len(members):,} hosts nothing new is heard"
