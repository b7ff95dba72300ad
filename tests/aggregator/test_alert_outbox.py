"""What a receiver is told, and when."""

from __future__ import annotations

from dataclasses import replace

from loiter_aggregator.alerts.outbox import Outbox
from loiter_aggregator.alerts.state import Alert, Subject
from support.reports import MINUTE, NOW

FIRING = Alert("the-rule", "stuck", "warning", Subject(app="a"), NOW, NOW + MINUTE)
RESOLVED = replace(FIRING, resolved_at=NOW + 2 * MINUTE)


def _outbox(*alerts: Alert) -> Outbox:
    outbox = Outbox(resend=60.0)
    outbox.offer(alerts)
    return outbox


def test_what_is_pending_is_not_told() -> None:
    outbox = _outbox(replace(FIRING, firing_since=None))
    assert outbox.due(0.0) == []
    assert outbox.pause(0.0) is None


def test_what_fires_is_told_again_before_it_would_expire() -> None:
    """Not with each evaluation, though its figures change."""
    outbox = _outbox(FIRING)
    assert outbox.due(0.0) == [FIRING]
    assert outbox.pause(0.0) == 0.0
    outbox.took([FIRING], 0.0)
    outbox.offer([replace(FIRING, severity="warning", members={})])
    assert outbox.due(59.0) == []
    assert outbox.pause(59.0) == 1.0
    assert len(outbox.due(60.0)) == 1


def test_what_is_resolved_is_told_until_it_is_taken_and_then_no_more() -> None:
    outbox = _outbox(FIRING)
    outbox.took([FIRING], 0.0)
    outbox.offer([RESOLVED])
    outbox.failed([RESOLVED], 1.0)
    assert outbox.due(100.0) == [RESOLVED]
    outbox.took([RESOLVED], 100.0)
    assert outbox.due(1_000.0) == []
    assert outbox.pause(1_000.0) is None


def test_an_alert_that_fires_anew_is_news() -> None:
    outbox = _outbox(RESOLVED)
    outbox.took([RESOLVED], 0.0)
    again = replace(FIRING, firing_since=NOW + 3 * MINUTE)
    outbox.offer([again])
    assert outbox.due(1.0) == [again]


def test_what_changed_while_it_was_on_its_way_is_told_again() -> None:
    """It was taken as firing, and is resolved by now."""
    outbox = _outbox(FIRING)
    on_its_way = outbox.due(0.0)
    outbox.offer([RESOLVED])
    outbox.took(on_its_way, 1.0)
    assert outbox.due(1.0) == [RESOLVED]


def test_what_was_not_taken_holds_up_nothing() -> None:
    """The next time, it comes after what was not tried yet."""
    other = replace(FIRING, subject=Subject(app="b"))
    outbox = _outbox(FIRING, other)
    outbox.failed([FIRING], 0.0)
    assert outbox.due(2.0) == [other, FIRING]


def test_what_is_refused_is_told_as_seldom_as_what_is_taken() -> None:
    """When it is taken after all, it is as any other."""
    outbox = _outbox(FIRING)
    outbox.refuse(FIRING, 0.0)
    assert (outbox.due(59.0), outbox.due(60.0), outbox.refused) == ([], [FIRING], 1)
    assert outbox.was_refused(FIRING)
    outbox.took([FIRING], 60.0)
    assert (outbox.was_refused(FIRING), outbox.refused) == (False, 0)


def test_a_receiver_that_takes_nothing_is_asked_less_and_less_often() -> None:
    """Up to once a minute, and at once again when it has taken something."""
    outbox = _outbox(FIRING)
    pauses = []
    now = 0.0
    for _ in range(9):
        outbox.failed([FIRING], now)
        pause = outbox.pause(now)
        assert pause is not None
        assert outbox.due(now + pause * 0.99) == []
        assert outbox.due(now + pause) == [FIRING]
        pauses.append(pause)
        now += pause
    for pause, most in zip(pauses, (1, 2, 4, 8, 16, 32, 60, 60, 60), strict=True):
        assert 0.8 * most <= pause <= most
    outbox.took([FIRING], now)
    outbox.offer([RESOLVED])
    assert outbox.due(now) == [RESOLVED]
