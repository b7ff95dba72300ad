"""Evaluates the rules again and again, keeps what they came to, and pushes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Final

from loiter.logs import fields
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.alerts.alertmanager import Alertmanager
from loiter_aggregator.alerts.figures import AlertFigures, count_alerts
from loiter_aggregator.alerts.file import AlertFile
from loiter_aggregator.alerts.measure import NotMeasured, Present, measure
from loiter_aggregator.alerts.memory import FILE, Memory, recall, remember
from loiter_aggregator.alerts.messages import alert_message, in_order, receiver_message, rule_message
from loiter_aggregator.alerts.state import (
    MAX_ALERTS,
    MAX_OF_ONE_HOST,
    Alert,
    Alerts,
    Key,
    Measurement,
    evaluate,
    forget_resolved,
    retire,
    shifted,
)
from loiter_aggregator.alerts.words import summary
from loiter_aggregator.background import Mistakes, keep_running
from loiter_aggregator.clock import Clock, Steps, boot_clock, is_step, to_timestamp
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.links import Links

_log = logging.getLogger(__name__)

# Between two evaluations there are as many times the last one's length, so that they never take more than a tenth of
# what ingest and people need.
_REST: Final = 9.0


class Alerting:
    """The alerts of a fleet."""

    def __init__(
        self,
        file: AlertFile,
        fleet: Fleet,
        links: Links,
        data_dir: Path,
        clock: Clock,
        steady_clock: Clock = boot_clock,
    ) -> None:
        """Takes the rules, whom to ask, where links lead, the folder to keep the state in, the clock, and a steady one.

        The steady one tells when the other was set: in between, what lasts goes on.
        """
        self._rules, self._settings = file.rules, file.settings
        self._fleet, self._links, self._clock = fleet, links, clock
        self._file = data_dir / FILE
        self._receivers = [Alertmanager(one, file.settings, links, clock, steady_clock) for one in file.receivers]
        self._alerts: dict[Key, Alert] = {}
        self._steps = Steps(clock, steady_clock)
        self._clock_set: int | None = None
        self._troubles: dict[str, str] = {}
        self._mistakes = Mistakes()
        self._share = MAX_ALERTS // max(1, len(self._rules))
        self._left_out: dict[str, int] = {}
        self._is_recalled = False
        self._evaluated: int | None = None
        self._seconds: float | None = None
        self._evaluations = self._failed = 0

    async def run(self) -> None:
        """Evaluates and pushes until it is cancelled."""
        if not self._is_recalled:  # else it was started again, and what it knows is newer
            await self.recall()
        async with asyncio.TaskGroup() as tasks:
            for receiver in self._receivers:
                tasks.create_task(keep_running(f"pushing alerts to {receiver.url}", receiver.run))
            while True:
                await asyncio.sleep(self._pause())
                try:
                    await self.evaluate()
                except Exception as error:  # those of a rule are its own: see `measure`
                    self._failed += len(self._rules)
                    self._mistakes.note("an evaluation of the alerts ended", error)

    def _pause(self) -> float:
        seconds = self._seconds or 0.0
        return max(self._settings.every - seconds, _REST * seconds)

    async def recall(self) -> None:
        """Goes on with the alerts that there were before the aggregator was started.

        Where the clock is not certain to go by the same setting as then, as after a boot, it is taken to be set now.
        """
        now = self._clock()
        kept = Memory()
        try:
            kept = await asyncio.to_thread(recall, self._file, now)
        except (OSError, ValueError) as error:
            _log.warning(
                "cannot read %s: %s; alerts begin anew", self._file, error, extra=fields(file=self._file, reason=error)
            )
        else:
            is_other = kept.clock_offset is not None and is_step(self._steps.offset - kept.clock_offset)
            self._clock_set = now if is_other else kept.clock_set
        self._alerts = retire(kept.alerts, self._rules, now)
        self._is_recalled = True
        await self._remember()
        self._offer()

    async def evaluate(self) -> None:
        """Evaluates every rule once, keeps what they came to, and offers it to the receivers."""
        before = monotonic()
        if await self._follow_the_clock():
            return  # the store follows it, too, which takes a moment
        now = self._clock()
        present = Present(now, self._clock_set)
        measured = await measure(self._fleet, self._rules, present, self._settings.forget, self._alerts, self._mistakes)
        if await self._follow_the_clock():
            return  # what was found is of no one time
        alerts, changed = await asyncio.to_thread(self._advance, measured, now)
        self._note_troubles({name: str(one) for name, one in measured.items() if isinstance(one, NotMeasured)})
        self._note_left_out()
        _log_changes(self._alerts, alerts)
        self._alerts = alerts
        try:
            # Before anybody hears of it: after a crash in between, what was told of would begin, or end, once more.
            if changed:
                await self._remember()
        finally:
            self._offer()
        self._evaluations += 1
        self._evaluated, self._seconds = now, monotonic() - before

    async def list_alerts(self, request: pb.ListAlertsRequest) -> pb.ListAlertsResponse:
        """Lists the alerts that are pending, firing, or were resolved of late."""
        del request
        alerts = self._alerts  # which is replaced, and never changed
        return await asyncio.to_thread(self._list, alerts)

    def _list(self, alerts: Alerts) -> pb.ListAlertsResponse:
        return pb.ListAlertsResponse(
            alerts=[alert_message(alert, self._links) for alert in in_order(alerts.values())],
            rules=[rule_message(rule, self._left_out.get(rule.name, 0)) for rule in self._rules],
            evaluated_time=None if self._evaluated is None else to_timestamp(self._evaluated),
            receivers=[receiver_message(receiver) for receiver in self._receivers],
        )

    def figures(self) -> AlertFigures:
        """What it comes to in numbers."""
        return AlertFigures(
            firing=self._count(firing=True),
            pending=self._count(firing=False),
            evaluation_seconds=self._seconds,
            evaluated_time=self._evaluated,
            evaluations=self._evaluations,
            evaluations_failed=self._failed,
            pushes={receiver.url: receiver.pushes for receiver in self._receivers},
            push_failures={receiver.url: receiver.failures for receiver in self._receivers},
        )

    def _advance(self, measured: Mapping[str, Measurement | NotMeasured], now: int) -> tuple[dict[Key, Alert], bool]:
        """The alerts after an evaluation, and whether anything about them is new."""
        keep_resolved = round(1_000 * self._settings.keep_resolved)
        alerts = forget_resolved(self._alerts, now, keep_resolved)
        for rule in self._rules:
            found = measured[rule.name]
            if not isinstance(found, NotMeasured):  # else its alerts stay as they are
                alerts, self._left_out[rule.name] = evaluate(alerts, rule, found, now, keep_resolved, self._share)
        return alerts, alerts != self._alerts

    def _count(self, *, firing: bool) -> dict[tuple[str, str], int]:
        """Of every rule in force, also where there are none."""
        return {(rule.name, rule.severity): 0 for rule in self._rules} | count_alerts(self._alerts, firing=firing)

    def _offer(self) -> None:
        for receiver in self._receivers:
            receiver.offer(self._alerts.values())

    async def _follow_the_clock(self) -> bool:
        """Whether the clock was set since this was asked last: then what lasts goes on by the new time."""
        step = self._steps.latest()
        if not step:
            return False
        self._alerts = shifted(self._alerts, step)
        self._clock_set = self._clock()
        try:
            await self._remember()
        finally:
            self._offer()
        return True

    async def _remember(self) -> None:
        try:
            await asyncio.to_thread(remember, self._file, Memory(self._alerts, self._clock_set, self._steps.offset))
        except OSError as error:
            self._note("file", f"cannot write {self._file}: {error.strerror}; a restart would begin alerts anew")
        else:
            self._troubles.pop("file", None)

    def _note_troubles(self, troubles: Mapping[str, str]) -> None:
        self._failed += len(troubles)
        for rule in self._rules:
            about = f"rule {rule.name}"
            if rule.name in troubles:
                self._note(
                    about, f"cannot evaluate the rule {rule.name}: {troubles[rule.name]}; its alerts stay as they are"
                )
            else:
                self._troubles.pop(about, None)

    def _note_left_out(self) -> None:
        for name, left_out in self._left_out.items():
            if left_out:
                self._note(
                    f"room of {name}",
                    f"{left_out:,} more break the rule {name} than it has room for in alerts ({self._share:,}, and "
                    f"{MAX_OF_ONE_HOST} of one host alone); they wait until some are over",
                )
            else:
                self._troubles.pop(f"room of {name}", None)

    def _note(self, about: str, trouble: str) -> None:
        """Logs what is wrong once, not at every evaluation."""
        if about not in self._troubles:
            _log.warning("%s", trouble, extra=fields(reason=trouble))
        self._troubles[about] = trouble


def _log_changes(before: Alerts, after: Alerts) -> None:
    fire = [one for key, one in after.items() if one.is_firing and not (key in before and before[key].is_firing)]
    resolved = [one for key, one in after.items() if one.resolved_at and key in before and before[key].is_firing]
    for alert in fire:
        _log.info("alert %s fires: %s", alert.rule, summary(alert), extra=fields(rule=alert.rule))
    for alert in resolved:
        _log.info("alert %s is resolved: %s", alert.rule, summary(alert), extra=fields(rule=alert.rule))
