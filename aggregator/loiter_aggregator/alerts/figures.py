"""What alerts come to in numbers, for /metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from loiter_aggregator.alerts.state import Alerts

# The rule and its severity.
RuleKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class AlertFigures:
    """Alerts by rule and severity, and what it takes to find and push them.

    `evaluation_seconds` is how long the last evaluation took and `evaluated_time` when it began, in milliseconds since
    the epoch; None where there was none yet. `evaluations`, those of a rule that failed, and pushes (requests, by the
    address of the receiver) count from the start of the aggregator.
    """

    firing: Mapping[RuleKey, int] = field(default_factory=dict)
    pending: Mapping[RuleKey, int] = field(default_factory=dict)
    evaluation_seconds: float | None = None
    evaluated_time: int | None = None
    evaluations: int = 0
    evaluations_failed: int = 0
    pushes: Mapping[str, int] = field(default_factory=dict)
    push_failures: Mapping[str, int] = field(default_factory=dict)


def count_alerts(alerts: Alerts, *, firing: bool) -> dict[RuleKey, int]:
    """Counts the alerts that fire, or those that are pending."""
    return dict(
        Counter(
            (alert.rule, alert.severity)
            for alert in alerts.values()
            if alert.resolved_at is None and alert.is_firing == firing
        )
    )
