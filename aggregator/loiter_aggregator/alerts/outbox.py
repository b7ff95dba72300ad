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
    news: _News
    at: float


class Outbox:
    """The alerts that fire or were resolved, and which of them the receiver has taken."""

    def __init__(self, resend: float) -> None:
        """Takes after how many seconds an alert that fires is told again."""
        self._resend = resend
        self._alerts: dict[Key, Alert] = {}
        self._taken: dict[Key, _Taken] = {}
        self._failures = 0
        self._not_before = 0.0

    def offer(self, alerts: Iterable[Alert]) -> None:
        """Takes what there is now. A resolved alert that the receiver did not hear of firing is news, too."""
        self._alerts = {alert.key: alert for alert in alerts if alert.firing_since is not None}
        self._taken = {key: taken for key, taken in self._taken.items() if key in self._alerts}

    def due(self, now: float) -> list[Alert]:
        """What is to be told now: what is news, and what fires and was told a while ago."""
        if now < self._not_before:
            return []
        return [alert for key, alert in self._alerts.items() if self._is_due(key, alert, now)]

    def took(self, alerts: Iterable[Alert], now: float) -> None:
        """Notes that the receiver has taken alerts."""
        self._failures, self._not_before = 0, 0.0
        for alert in alerts:
            self._taken[alert.key] = _Taken(_news(alert), now)

    def failed(self, now: float) -> None:
        """Notes that the receiver did not take what was told: next time after a pause, of double the length."""
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
