"""How alerts come and go: inactive, pending, firing, resolved. Times are in milliseconds since the epoch.

An alert is one rule, broken on the hosts of one application, or on one host. A host joins it with a figure that breaks
the rule, and leaves it with one that is past `clear` (hysteresis). Of a host that is not heard of, or that leaves the
figure out, nothing new is known: it stays, marked as stale. The alert is pending from the first host on, fires once
there has been one for as long as the rule's `for`, and is resolved once there has been none for its `keep_for`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from loiter_aggregator.alerts.rule import Rule

# Rules that are broken by more than so many applications and hosts say nothing more by another one. Each has a share.
MAX_ALERTS: Final = 2_000
# Applications that are on one host alone may be its own invention: they shall not take the room of others.
MAX_OF_ONE_HOST: Final = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """What an alert is about: an application, or a host by its name."""

    app: str = ""
    host: str = ""


Key = tuple[str, Subject]


@dataclass(frozen=True, slots=True)
class Member:
    """A host of an alert with its worst figure, which is old where it is stale."""

    hostname: str
    figure: float
    cause: int = 0
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What was found on a host; the figure is None where it is not known."""

    hostname: str
    figure: float | None
    breaks: bool = False
    holds: bool = False
    cause: int = 0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found of one rule, by host id, and the ids of the hosts of which nothing is heard.

    Where it is not `complete`, hosts that are not in it may break the rule, and may be silent.
    """

    found: Mapping[Subject, Mapping[str, Found]]
    unheard: Collection[str] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert. It keeps what it needs to be resolved by, should its rule be gone by then."""

    rule: str
    kind: str
    severity: str
    subject: Subject
    active_since: int
    firing_since: int | None = None
    quiet_since: int | None = None
    resolved_at: int | None = None
    members: Mapping[str, Member] = field(default_factory=dict)
    add_labels: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> Key:
        """What names it."""
        return self.rule, self.subject

    @property
    def is_firing(self) -> bool:
        """Whether it fires."""
        return self.firing_since is not None and self.resolved_at is None


Alerts = Mapping[Key, Alert]


def evaluate(
    alerts: Alerts, rule: Rule, measured: Measurement, now: int, keep_resolved: int, room: int = MAX_ALERTS
) -> tuple[dict[Key, Alert], int]:
    """The alerts of all rules after one rule was measured. Those of the others are as they were.

    With the number of those that would have begun if there had been room: for so many of the rule, of which those that
    are over give way, and for some that are of one host alone.
    """

    def advance(alert: Alert | None, subject: Subject) -> Alert | None:
        return _advance(alert, rule, subject, measured, now, keep_resolved)

    own = {subject: alert for (name, subject), alert in alerts.items() if name == rule.name}
    went_on = {subject: advance(alert, subject) for subject, alert in own.items() if alert.resolved_at is None}
    there = {subject: alert for subject, alert in went_on.items() if alert is not None}
    kept = {subject: alert for subject, alert in there.items() if alert.resolved_at is None}
    over = {subject: alert for subject, alert in (own | there).items() if alert.resolved_at is not None}
    alone = Counter(_only_host(alert) for alert in kept.values())
    left_out = 0
    # What was found stands in the order of how bad it is.
    for subject in (one for one in measured.found if one not in kept):
        begun = advance(over.get(subject), subject)
        if begun is None or begun.resolved_at is not None:
            continue
        host_id = _only_host(begun)
        if len(kept) >= room or (host_id and alone[host_id] >= MAX_OF_ONE_HOST):
            left_out += 1
            continue
        over.pop(subject, None)
        kept[subject] = begun
        alone[host_id] += 1
    kept |= _latest(over, now, keep_resolved, room - len(kept))
    others = {key: alert for key, alert in alerts.items() if key[0] != rule.name}
    return others | {(rule.name, subject): alert for subject, alert in kept.items()}, left_out


def _only_host(alert: Alert) -> str:
    """The id of the host of an alert that is of one alone; else empty, as it is for a host's own."""
    return next(iter(alert.members)) if len(alert.members) == 1 and alert.subject.app else ""


def _latest(over: Mapping[Subject, Alert], now: int, keep_resolved: int, room: int) -> dict[Subject, Alert]:
    """Of resolved alerts, those that were resolved last and not long ago, as many as there is room for."""
    recent = {
        subject: alert
        for subject, alert in over.items()
        # What is over by now has to be told, however short it is kept.
        if alert.resolved_at is not None and (alert.resolved_at == now or now - alert.resolved_at < keep_resolved)
    }
    latest = sorted(recent, key=lambda subject: recent[subject].resolved_at or 0, reverse=True)[: max(0, room)]
    return {subject: recent[subject] for subject in latest}


def retire(alerts: Alerts, rules: Iterable[Rule], now: int) -> dict[Key, Alert]:
    """Ends the alerts of rules that are no longer in force: those that fire are resolved, so that receivers hear it."""
    in_force = {(rule.name, rule.kind.name) for rule in rules}
    kept = {}
    for key, alert in alerts.items():
        if (alert.rule, alert.kind) in in_force or alert.resolved_at is not None:
            kept[key] = alert
        elif alert.is_firing:
            kept[key] = replace(alert, resolved_at=now)
    return kept


def forget_resolved(alerts: Alerts, now: int, keep_resolved: int) -> dict[Key, Alert]:
    """Leaves out what was resolved long ago."""
    return {
        key: alert
        for key, alert in alerts.items()
        if alert.resolved_at is None or now - alert.resolved_at < keep_resolved
    }


def shifted(alerts: Alerts, step: int) -> dict[Key, Alert]:
    """The alerts after the clock was set by `step`: what lasts has lasted for as long as before."""

    def moved(time: int | None) -> int | None:
        return None if time is None else time + step

    return {
        key: replace(
            alert,
            active_since=alert.active_since + step,
            firing_since=moved(alert.firing_since),
            quiet_since=moved(alert.quiet_since),
            resolved_at=moved(alert.resolved_at),
        )
        for key, alert in alerts.items()
    }


def _advance(
    alert: Alert | None, rule: Rule, subject: Subject, measured: Measurement, now: int, keep_resolved: int
) -> Alert | None:
    before = alert.members if alert is not None and alert.resolved_at is None else {}
    members = _members(before, measured.found.get(subject, {}), measured)
    if members:
        return _broken(alert, rule, subject, members, now)
    if alert is None or alert.firing_since is None:
        return None
    if alert.resolved_at is not None:
        return alert if now - alert.resolved_at < keep_resolved else None
    quiet_since = now if alert.quiet_since is None else alert.quiet_since
    resolved = now - quiet_since >= rule.keep_for * 1_000
    return replace(alert, quiet_since=quiet_since, resolved_at=now if resolved else None)


def _members(before: Mapping[str, Member], found: Mapping[str, Found], measured: Measurement) -> dict[str, Member]:
    members = {
        host_id: Member(one.hostname, one.figure, one.cause)
        for host_id, one in found.items()
        if one.figure is not None and (one.breaks or (one.holds and host_id in before))
    }
    for host_id, member in before.items():
        if host_id in found:
            unknown = found[host_id].figure is None
        else:
            unknown = not measured.complete or host_id in measured.unheard
        if unknown:
            members[host_id] = replace(member, stale=True)
    return members


def _broken(alert: Alert | None, rule: Rule, subject: Subject, members: Mapping[str, Member], now: int) -> Alert:
    begun = alert if alert is not None and alert.resolved_at is None else None
    active_since = now if begun is None else begun.active_since
    firing_since = None if begun is None else begun.firing_since
    known = any(not member.stale for member in members.values())
    if firing_since is None and known and now - active_since >= rule.for_ * 1_000:
        firing_since = now
    return Alert(
        rule=rule.name,
        kind=rule.kind.name,
        severity=rule.severity,
        subject=subject,
        active_since=active_since,
        firing_since=firing_since,
        members=members,
        add_labels=rule.add_labels,
    )
