"""What one receiver is to be told, and when. Times are in seconds of a clock that never steps."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from loiter_aggregator.alerts.state import Alert, Key

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0

# What makes an alert one that a receiver has not heard of; figures alone do not.
_News = tuple[bool, int]


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a receiver has heard of; where it was refused, it is told by itself the next time."""

    news: _News
    at: float
    refused: bool = False


class Outbox:
    """The alerts that fire or were resolved, and which of them the receiver has taken."""

    def __init__(self, resend: float) -> None:
        """Takes after how many seconds an alert that fires is told again."""
        self._resend = resend
        self._alerts: dict[Key, Alert] = {}
        self._taken: dict[Key, _Taken] = {}
        self._tried: dict[Key, int] = {}
        self._failures = 0
        self._not_before = 0.0

    def offer(self, alerts: Iterable[Alert]) -> None:
        """Takes what there is now. A resolved alert that the receiver did not hear of firing is news, too."""
        self._alerts = {alert.key: alert for alert in alerts if alert.firing_since is not None}
        self._taken = {key: taken for key, taken in self._taken.items() if key in self._alerts}
        self._tried = {key: times for key, times in self._tried.items() if key in self._alerts}

    def due(self, now: float) -> list[Alert]:
        """What is to be told now: what is news, and what fires and was told a while ago.

        What was not taken the last times stands behind what was not tried as often, so that it holds up nothing.
        """
        if now < self._not_before:
            return []
        due = [key for key, alert in self._alerts.items() if self._is_due(key, alert, now)]
        return [self._alerts[key] for key in sorted(due, key=lambda key: self._tried.get(key, 0))]

    @property
    def refused(self) -> int:
        """How many of the alerts the receiver has refused."""
        return sum(taken.refused for taken in self._taken.values())

    def was_refused(self, alert: Alert) -> bool:
        """Whether the receiver has refused an alert before."""
        taken = self._taken.get(alert.key)
        return taken is not None and taken.refused

    def took(self, alerts: Iterable[Alert], now: float) -> None:
        """Notes that the receiver has taken alerts."""
        self._failures, self._not_before = 0, 0.0
        for alert in alerts:
            self._taken[alert.key] = _Taken(_news(alert), now)
            self._tried.pop(alert.key, None)

    def refuse(self, alert: Alert, now: float) -> None:
        """Notes that the receiver will not have an alert: it is told again as one that it has taken."""
        self._taken[alert.key] = _Taken(_news(alert), now, refused=True)
        self._tried.pop(alert.key, None)

    def failed(self, alerts: Iterable[Alert], now: float) -> None:
        """Notes that the receiver did not take alerts: next time after a pause, of double the length."""
        for alert in alerts:
            self._tried[alert.key] = self._tried.get(alert.key, 0) + 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._failures += 1
        # Aggregators that lost one receiver at one time shall not come back at one time.
        self._not_before = now + pause * random.uniform(0.8, 1.0)  # noqa: S311 - no secret

    def pause(self, now: float) -> float | None:
        """For how long there is nothing to tell; None for as long as nothing is offered."""
        times = [
            0.0 if self._is_due(key, alert, now) else self._taken[key].at + self._resend
            for key, alert in self._alerts.items()
            if alert.is_firing or self._is_due(key, alert, now)
        ]
        return max(0.0, max(min(times), self._not_before) - now) if times else None

    def _is_due(self, key: Key, alert: Alert, now: float) -> bool:
        taken = self._taken.get(key)
        if taken is None or taken.news != _news(alert):
            return True
        return alert.is_firing and now - taken.at >= self._resend


def _news(alert: Alert) -> _News:
    return alert.is_firing, alert.firing_since or 0
