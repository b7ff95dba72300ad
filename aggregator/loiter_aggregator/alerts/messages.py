"""Turns alerts into messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.alerts.alertmanager import Alertmanager
from loiter_aggregator.alerts.rule import Rule
from loiter_aggregator.alerts.state import Alert
from loiter_aggregator.alerts.words import NAMED_HOSTS, cause, figure, link, summary, worst_first
from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.links import Links

_ORDER: Final = (pb.ALERT_STATE_FIRING, pb.ALERT_STATE_PENDING, pb.ALERT_STATE_RESOLVED)


def in_order(alerts: Iterable[Alert]) -> list[Alert]:
    """Firing ones first, then pending, then resolved; the latest first in each."""
    return sorted(alerts, key=lambda one: (_ORDER.index(_state(one)), -_latest(one), one.rule, str(one.subject)))


def alert_message(alert: Alert, links: Links) -> pb.Alert:
    """An alert."""
    worst = worst_first(alert)
    return pb.Alert(
        rule=alert.rule,
        severity=alert.severity,
        state=_state(alert),
        app=alert.subject.app,
        hostnames=[one.hostname for one in worst[:NAMED_HOSTS]],
        hosts=len(worst),
        active_time=to_timestamp(alert.active_since),
        firing_time=None if alert.firing_since is None else to_timestamp(alert.firing_since),
        resolved_time=None if alert.resolved_at is None else to_timestamp(alert.resolved_at),
        figure=figure(alert),
        cause=cause(alert),
        summary=summary(alert),
        url=link(alert, links),
    )


def rule_message(rule: Rule, left_out: int) -> pb.AlertRule:
    """A rule, and how many break it that there is no room for in alerts."""
    return pb.AlertRule(name=rule.name, severity=rule.severity, summary=rule.summary, left_out=left_out)


def receiver_message(receiver: Alertmanager) -> pb.AlertReceiver:
    """Where alerts are pushed to."""
    last = receiver.last_success
    return pb.AlertReceiver(
        url=receiver.url, last_success_time=None if last is None else to_timestamp(last), error=receiver.error
    )


def _state(alert: Alert) -> pb.AlertState.ValueType:
    if alert.resolved_at is not None:
        return pb.ALERT_STATE_RESOLVED
    return pb.ALERT_STATE_PENDING if alert.firing_since is None else pb.ALERT_STATE_FIRING


def _latest(alert: Alert) -> int:
    return alert.resolved_at or alert.firing_since or alert.active_since
