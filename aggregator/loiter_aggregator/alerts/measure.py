"""Asks about the fleet what rules are evaluated by: each question once, however many rules need its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.duration_pb2 import Duration

from loiter.limits import MAX_RANKING_ROWS
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.alerts.rule import Rule
from loiter_aggregator.alerts.state import Alerts, Found, Measurement, Subject
from loiter_aggregator.background import Mistakes
from loiter_aggregator.clock import from_timestamp, to_duration
from loiter_aggregator.fleet.errors import InvalidRequest, Overloaded, TookTooLong, Unavailable
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.output.rows import value
from loiter_aggregator.store.duckdb_store import StoreError

# Most fleets have little to alert of: more rows are asked for where all of those are bad.
_ROWS: Final = (1_000, MAX_RANKING_ROWS)
# As many hosts as GetFleet names.
_MAX_NAMED_HOSTS: Final = 1_000
# The totals of a fleet are not needed: over a short window they cost least.
_SHORT: Final = Duration(seconds=10)
# By then, the store has followed a clock that was set.
_FOLLOWED_MS: Final = 2_000
# No question is about less, in seconds.
_SHORTEST: Final = 0.001
# Until a window is full again, what is not found on a host is over once it has sent so many samples.
_ENOUGH: Final = 5
_NOT_ANSWERED: Final = (InvalidRequest, Overloaded, TookTooLong, Unavailable, StoreError)

Labels = tuple[tuple[str, str], ...]
Rank = pb.HostRank | pb.ProcessRank
# Of an alert, whom it is about and the id of a host.
_Member = tuple[Subject, str]


class NotMeasured(Exception):
    """A rule could not be evaluated; the message says why."""


@dataclass(frozen=True, slots=True)
class Present:
    """The time by the aggregator's clock, and when that was set last; in milliseconds since the epoch.

    What is stored of before then has times by another setting: a line through both would be of neither.
    """

    now: int
    clock_set: int | None = None

    def window(self, seconds: float) -> float:
        """How far to look back where a rule says so many seconds: not to before the clock was set."""
        if self.clock_set is None:
            return seconds
        return max(_SHORTEST, min(seconds, (self.now - self.clock_set - _FOLLOWED_MS) / 1_000))


@dataclass(frozen=True, slots=True)
class _Question:
    """A ranking that is asked for."""

    about: str
    by: pb.RankBy.ValueType
    window: float
    labels: Labels

    async def ask(self, fleet: Fleet, limit: int, host_ids: Collection[str] | None = None) -> Sequence[Rank]:
        """Asks for so many rows, of some hosts alone where their ids are given."""
        query = pb.RankingQuery(
            by=self.by, window=to_duration(round(1_000 * self.window)), limit=limit, labels=dict(self.labels)
        )
        if self.about == "app":
            return await fleet.process_figures(query, host_ids)
        return await fleet.host_figures(query, host_ids)


async def measure(
    fleet: Fleet, rules: Iterable[Rule], present: Present, forget: float, alerts: Alerts, mistakes: Mistakes
) -> dict[str, Measurement | NotMeasured]:
    """Measures rules, and says of each what was found, or why it is not known.

    Args:
        fleet: Whom to ask, one question after the other, so that there is room for those of people.
        rules: The rules.
        present: The time, and when the clock was set.
        forget: Hosts that have been silent for so many seconds are taken for gone.
        alerts: Those that there are: what became of their hosts has to be known, too.
        mistakes: Where to log errors that nobody foresaw. One in a rule leaves the others alone.
    """
    fleets = _Fleets(fleet, present.now, forget)
    by_question: dict[_Question | None, list[Rule]] = {}
    for rule in rules:
        by_question.setdefault(_question(rule, present), []).append(rule)
    measured: dict[str, Measurement | NotMeasured] = {}
    for question, sharing in by_question.items():
        try:
            if question is None:
                measured |= await _silence(fleets, sharing)
            else:
                measured |= await _rank(fleet, fleets, question, sharing, _members(sharing, alerts))
        except _NOT_ANSWERED as error:
            measured |= {rule.name: NotMeasured(str(error)) for rule in sharing}
        except Exception as error:
            names = ", ".join(rule.name for rule in sharing)
            mistakes.note(f"the evaluation of {names} ended", error)
            reason = f"{type(error).__name__}, a mistake of loiter's; its log says more"
            measured |= {rule.name: NotMeasured(reason) for rule in sharing}
    return measured


def _question(rule: Rule, present: Present) -> _Question | None:
    kind = rule.kind
    return None if kind.by is None else _Question(kind.about, kind.by, present.window(rule.window), rule.labels)


class _Fleets:
    """What GetFleet says in one evaluation, by the labels that were asked for."""

    def __init__(self, fleet: Fleet, now: int, forget: float) -> None:
        self._fleet = fleet
        self._now = now
        self._forget = round(1_000 * forget)
        self._answers: dict[Labels, pb.GetFleetResponse] = {}

    async def of(self, labels: Labels) -> pb.GetFleetResponse:
        if labels not in self._answers:
            request = pb.GetFleetRequest(window=_SHORT, labels=dict(labels), silent_within=to_duration(self._forget))
            self._answers[labels] = await self._fleet.get_fleet(request)
        return self._answers[labels]

    async def unheard(self, left_out: int) -> tuple[set[str], bool]:
        """The hosts that are silent, or leave out what is left out from a step on; and whether these are all."""
        answer = await self.of(())
        silent = {host.host_id for host in answer.silent_hosts}
        degraded = {host.host_id for host in answer.degraded_hosts if host.degradation >= left_out}
        complete = max(len(answer.silent_hosts), len(answer.degraded_hosts)) < _MAX_NAMED_HOSTS
        return silent | degraded, complete

    def seconds_silent(self, host: pb.SilentHost, aggregator: pb.AggregatorStatus) -> float:
        """For how long a host has been silent. While there was no aggregator, it could not be heard."""
        heard = max(from_timestamp(host.last_report_time), from_timestamp(aggregator.start_time))
        return max(0, self._now - heard) / 1_000


async def _silence(fleets: _Fleets, rules: Iterable[Rule]) -> dict[str, Measurement]:
    measured = {}
    for rule in rules:
        answer = await fleets.of(rule.labels)
        found: dict[Subject, dict[str, Found]] = {}
        for host in answer.silent_hosts:
            seconds = fleets.seconds_silent(host, answer.aggregator)
            one = Found(host.hostname, seconds, rule.breaks(seconds, None), holds=True)
            found.setdefault(Subject(host=host.hostname), {})[host.host_id] = one
        measured[rule.name] = Measurement(found, complete=len(answer.silent_hosts) < _MAX_NAMED_HOSTS)
    return measured


async def _rank(
    fleet: Fleet, fleets: _Fleets, question: _Question, rules: Sequence[Rule], members: Collection[_Member]
) -> dict[str, Measurement]:
    unheard, complete = await fleets.unheard(rules[0].kind.left_out)
    rows, all_rows = await _rows(fleet, question, rules)
    unknown: set[str] = set()
    if not all_rows:
        # Of what is not in the list the figure may be unknown, or it may be gone: that is asked for by the host.
        missing = _not_in(rows, members) - unheard
        more = await question.ask(fleet, MAX_RANKING_ROWS, missing) if missing else ()
        if len(more) == MAX_RANKING_ROWS:
            unknown = missing
        rows = (*rows, *more)
    is_full = all(question.window >= rule.window for rule in rules)
    if members and not is_full:  # since the clock was set
        missing = _not_in(rows, members) - unheard
        unknown |= missing - await _seen_enough(fleet, question, missing)

    def look() -> dict[str, Measurement]:
        return {
            rule.name: Measurement(_found(rule, rows, unheard, is_full), unheard | unknown, complete) for rule in rules
        }

    return await asyncio.to_thread(look)  # through twenty thousand rows, at worst


def _not_in(rows: Iterable[Rank], members: Collection[_Member]) -> set[str]:
    """The hosts of members that are not listed."""
    listed = {(_subject(row), row.host_id) for row in rows}
    return {host_id for subject, host_id in members if (subject, host_id) not in listed}


async def _seen_enough(fleet: Fleet, question: _Question, host_ids: Collection[str]) -> set[str]:
    """Of some hosts, those that sent enough samples within a window to say what is not wrong with them."""
    if not host_ids:
        return set()
    hosts = await replace(question, about="host", by=pb.RANK_BY_CLOSE_WAIT).ask(fleet, MAX_RANKING_ROWS, host_ids)
    return {host.host_id for host in hosts if host.close_wait.samples >= _ENOUGH}


def _members(rules: Iterable[Rule], alerts: Alerts) -> set[_Member]:
    """What is part of the alerts of rules."""
    names = {rule.name for rule in rules}
    of_rules = (alert for alert in alerts.values() if alert.rule in names and alert.resolved_at is None)
    return {(alert.subject, host_id) for alert in of_rules for host_id in alert.members}


async def _rows(fleet: Fleet, question: _Question, rules: Sequence[Rule]) -> tuple[Sequence[Rank], bool]:
    """The rows of a ranking down to where no rule can be broken any more; and whether those say all there is to know.

    They do not where the list ends before figures that are unknown.
    """
    rows: Sequence[Rank] = ()
    kind = rules[0].kind
    for limit in _ROWS:
        rows = await question.ask(fleet, limit)
        if len(rows) < limit:
            return rows, True
        last = kind.figure(rows[-1])
        if last is None or not any(rule.reaches(last) for rule in rules):
            return rows, kind.absent_is_none
    return rows, False


def _found(rule: Rule, rows: Iterable[Rank], unheard: set[str], is_full: bool) -> Mapping[Subject, Mapping[str, Found]]:
    found: dict[Subject, dict[str, Found]] = {}
    for row in rows:
        if row.silent or row.host_id in unheard:  # its figures are old
            continue
        subject = _subject(row)
        if not rule.is_about(subject.app):
            continue
        one = _look_at(rule, row, is_full)
        if one is None:
            continue
        hosts = found.setdefault(subject, {})
        other = hosts.get(row.host_id)
        if other is None or _rank_of(rule, one) > _rank_of(rule, other):
            hosts[row.host_id] = one
    return found


def _subject(row: Rank) -> Subject:
    return Subject(host=row.hostname) if isinstance(row, pb.HostRank) else Subject(app=row.app or row.name)


def _look_at(rule: Rule, row: Rank, is_full: bool) -> Found | None:
    """What a row says; None where it says that nothing is wrong.

    In a window that is not full, what would be wrong if its line did fit is not known yet.
    """
    figure = rule.kind.figure(row)
    if figure is None:
        return None if rule.kind.absent_is_none else Found(row.hostname, None)
    fit = value(row.close_wait, "growth_fit") if rule.kind.fits else None
    if not rule.holds(figure, fit):
        return None if is_full or not rule.reaches(figure) else Found(row.hostname, None)
    cause = row.cause if rule.kind.about == "app" else sample_pb2.CAUSE_UNSPECIFIED
    return Found(row.hostname, figure, rule.breaks(figure, fit), holds=True, cause=cause)


def _rank_of(rule: Rule, one: Found) -> tuple[bool, bool, float]:
    """Of several processes of an application on one host, that which matters: known, broken, and the worst."""
    return one.figure is not None, one.breaks, rule.badness(one.figure or 0.0)
