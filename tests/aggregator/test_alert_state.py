"""How alerts come and go, with a clock of the test's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loiter_aggregator.alerts.rule import Rule
from loiter_aggregator.alerts.state import (
    MAX_OF_ONE_HOST,
    Alert,
    Found,
    Key,
    Measurement,
    Subject,
    evaluate,
    forget_resolved,
    retire,
    shifted,
)
from support.alerts import APP, measured, rule
from support.reports import HOUR, MINUTE, NOW, SECOND

KEY: Key = ("the-rule", APP)


class Life:
    """The life of the alerts of one rule, an evaluation every half minute."""

    def __init__(self, one: Rule) -> None:
        """Begins without any."""
        self.rule = one
        self.now = NOW
        self.alerts: dict[Key, Alert] = {}

    def goes_on(
        self,
        figures: Mapping[str, float | None],
        seconds: float = 30,
        *,
        unheard: tuple[str, ...] = (),
        complete: bool = True,
    ) -> Alert | None:
        """Lets time pass, then evaluates: the alert of APP."""
        self.now += round(seconds * 1_000)
        found = measured(self.rule, figures, unheard=unheard, complete=complete)
        self.alerts, _ = evaluate(self.alerts, self.rule, found, self.now, HOUR)
        return self.alerts.get(KEY)

    def state(self) -> str:
        """How far the alert of APP is."""
        alert = self.alerts.get(KEY)
        if alert is None:
            return "inactive"
        if alert.resolved_at is not None:
            return "resolved"
        return "firing" if alert.firing_since is not None else "pending"


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """More than 100 stuck for a minute; less than 80 for a minute ends it."""
    return Life(rule(tmp_path, for_="1m", keep_for="1m"))


def _fire(life: Life, **figures: float) -> None:
    for _ in range(3):
        life.goes_on(figures or {"web-1": 200.0})
    assert life.state() == "firing"


def test_it_is_pending_until_the_rule_was_broken_for_long_enough(life: Life) -> None:
    """And fires from then on."""
    life.goes_on({"web-1": 99.0})
    assert life.state() == "inactive"
    begun = life.goes_on({"web-1": 100.0})
    assert life.state() == "pending"
    life.goes_on({"web-1": 150.0}, 59)
    assert life.state() == "pending"
    fires = life.goes_on({"web-1": 150.0}, 1)
    assert life.state() == "firing"
    assert begun is not None
    assert fires is not None
    assert (fires.active_since, fires.firing_since) == (begun.active_since, life.now)


def test_without_a_duration_it_fires_at_once(tmp_path: Path) -> None:
    life = Life(rule(tmp_path, for_="0s"))
    life.goes_on({"web-1": 100.0})
    assert life.state() == "firing"


def test_what_ends_before_it_fires_was_nothing(life: Life) -> None:
    """The next one begins anew."""
    life.goes_on({"web-1": 200.0})
    life.goes_on({"web-1": 10.0})
    assert life.state() == "inactive"
    life.goes_on({"web-1": 200.0}, 31)
    assert life.state() == "pending"


def test_around_the_threshold_it_does_not_flap(life: Life) -> None:
    """It goes on down to the figure at which it is cleared; but nothing begins there."""
    life.goes_on({"web-1": 85.0})
    assert life.state() == "inactive"
    _fire(life)
    for figure in (99.0, 101.0, 85.0, 80.0, 120.0):
        life.goes_on({"web-1": figure}, 120)
        assert life.state() == "firing"


def test_it_is_resolved_when_it_was_kept_for_long_enough(life: Life) -> None:
    """A relapse before that goes on with the same alert."""
    _fire(life)
    fired = life.alerts[KEY].firing_since
    life.goes_on({"web-1": 10.0})
    life.goes_on({"web-1": 10.0}, 59)
    assert life.state() == "firing"
    life.goes_on({"web-1": 200.0})
    assert life.alerts[KEY].firing_since == fired
    life.goes_on({})
    assert life.state() == "firing", "the minute begins anew"
    life.goes_on({}, 60)
    assert life.state() == "resolved"
    assert life.alerts[KEY].members["web-1"].figure == 200.0, "of what it was about"


def test_a_resolved_alert_is_listed_for_a_while_and_one_that_breaks_again_is_another(life: Life) -> None:
    _fire(life)
    fired = life.alerts[KEY].firing_since
    for _ in range(3):
        life.goes_on({})
    assert life.state() == "resolved"
    life.goes_on({"web-1": 200.0})
    assert life.state() == "pending"
    life.goes_on({"web-1": 200.0}, 60)
    assert life.alerts[KEY].firing_since != fired
    for _ in range(3):
        life.goes_on({})
    assert forget_resolved(life.alerts, life.now + HOUR - 1, HOUR)
    assert not forget_resolved(life.alerts, life.now + HOUR, HOUR)


def test_a_host_that_fell_silent_does_not_resolve_its_alert(life: Life) -> None:
    """It stays, marked, until the host is heard of again."""
    _fire(life)
    for _ in range(10):
        life.goes_on({}, unheard=("web-1",))
    assert life.state() == "firing"
    assert life.alerts[KEY].members["web-1"].stale
    life.goes_on({"web-1": 150.0})
    assert not life.alerts[KEY].members["web-1"].stale
    for _ in range(3):
        life.goes_on({})
    assert life.state() == "resolved", "its host reports, and the application is not there any more"


def test_a_figure_that_is_not_known_changes_nothing(life: Life) -> None:
    """Unknown is not zero."""
    life.goes_on({"web-1": None})
    assert life.state() == "inactive"
    _fire(life)
    for _ in range(10):
        life.goes_on({"web-1": None})
    assert life.state() == "firing"
    assert life.alerts[KEY].members["web-1"].figure == 200.0


def test_an_answer_that_leaves_hosts_out_resolves_nothing(life: Life) -> None:
    _fire(life)
    for _ in range(10):
        life.goes_on({}, complete=False)
    assert life.state() == "firing"


def test_nothing_fires_by_what_is_old(life: Life) -> None:
    """A host that fell silent while the alert was pending."""
    life.goes_on({"web-1": 200.0})
    for _ in range(10):
        life.goes_on({}, unheard=("web-1",))
    assert life.state() == "pending"
    life.goes_on({"web-1": 200.0})
    assert life.state() == "firing"


def test_one_alert_has_all_the_hosts_of_an_application(life: Life) -> None:
    """Each joins and leaves by its own figure."""
    _fire(life, **{f"web-{number}": 200.0 + number for number in range(200)})
    assert len(life.alerts) == 1
    life.goes_on({"web-7": 90.0, "web-8": 79.0, "new": 90.0})
    assert list(life.alerts[KEY].members) == ["web-7"]


def test_the_alerts_of_a_rule_that_is_gone_are_resolved(life: Life, tmp_path: Path) -> None:
    """Pending ones were nothing. Those of a rule that stays, stay."""
    _fire(life)
    life.alerts |= {("other", APP): Alert("other", "stuck", "warning", APP, NOW)}
    (gone,) = retire(life.alerts, [], life.now).values()
    assert gone.resolved_at == life.now
    assert gone.firing_since == life.alerts[KEY].firing_since
    assert list(retire(life.alerts, [life.rule], life.now)) == [KEY]
    renamed = rule(tmp_path, "close-wait-growth", above=5)
    assert retire(life.alerts, [renamed], life.now)[KEY].resolved_at == life.now, "another kind of the same name"


def _stuck(*apps: str, host: str = "") -> Measurement:
    """Applications that are stuck, on one host or on one each."""
    return Measurement({Subject(app=app): {host or app: Found(host or app, 200.0, True, True)} for app in apps})


def test_a_rule_has_room_for_so_many_alerts(tmp_path: Path) -> None:
    """Those that are there go on, what is left out is counted, and what another rule has does not matter."""
    one = rule(tmp_path, for_="0s")
    other = {("other", APP): Alert("other", "stuck", "warning", APP, NOW)}
    first, left_out = evaluate(other, one, _stuck(*"abcde"), NOW, HOUR, room=3)
    assert (len(first), left_out) == (4, 2)
    second, left_out = evaluate(first, one, _stuck(*"edcba"), NOW + SECOND, HOUR, room=3)
    assert (second.keys(), left_out) == (first.keys(), 2)


def test_what_is_over_gives_way_to_what_begins(tmp_path: Path) -> None:
    """That which was resolved first before the others."""
    one = rule(tmp_path, for_="0s", keep_for="0s")
    alerts, _ = evaluate({}, one, _stuck("a", "b", "c"), NOW, HOUR, room=3)
    for second, apps in ((1, ("b", "c")), (2, ("c",))):
        alerts, _ = evaluate(alerts, one, _stuck(*apps), NOW + second * SECOND, HOUR, room=3)
    alerts, left_out = evaluate(alerts, one, _stuck("c", "d"), NOW + 3 * SECOND, HOUR, room=3)
    assert {subject.app: alert.is_firing for (_, subject), alert in alerts.items()} == {
        "b": False,
        "c": True,
        "d": True,
    }
    assert left_out == 0


def test_one_host_can_not_take_all_the_room(tmp_path: Path) -> None:
    """With names of its own making, new ones each time; an application that is on another host, too, has room."""
    one = rule(tmp_path, for_="0s", keep_for="0s")
    alerts: dict[Key, Alert] = {}
    for look in range(3):
        storm = _stuck(*(f"{look}-{number}" for number in range(100)), host="evil")
        both = {APP: {"evil": Found("evil", 200.0, True, True), "web-1": Found("web-1", 200.0, True, True)}}
        found = Measurement({**storm.found, **both, **_stuck("calm").found})
        alerts, left_out = evaluate(alerts, one, found, NOW + look * SECOND, HOUR, room=400)
        firing = {alert.subject.app for alert in alerts.values() if alert.is_firing}
        assert {APP.app, "calm"} <= firing
        assert (len(firing), left_out) == (MAX_OF_ONE_HOST + 2, 100 - MAX_OF_ONE_HOST)


def test_what_is_resolved_is_there_to_be_told_once_at_least(tmp_path: Path) -> None:
    one = rule(tmp_path, for_="0s", keep_for="0s")
    alerts, _ = evaluate({}, one, _stuck("a"), NOW, 0)
    alerts, _ = evaluate(alerts, one, _stuck(), NOW + SECOND, 0)
    assert [alert.resolved_at for alert in alerts.values()] == [NOW + SECOND]
    assert not evaluate(alerts, one, _stuck(), NOW + 2 * SECOND, 0)[0]


def test_nor_by_what_was_over_and_comes_again(tmp_path: Path) -> None:
    one = rule(tmp_path, for_="0s", keep_for="0s")
    alerts: dict[Key, Alert] = {}
    for second, start in enumerate((0, 20, 40)):
        names = (str(number) for number in range(start, start + 20))
        alerts, _ = evaluate(alerts, one, _stuck(*names, host="evil"), NOW + second * SECOND, HOUR)
    everything = _stuck(*map(str, range(60)), host="evil")
    alerts, left_out = evaluate(alerts, one, everything, NOW + 3 * SECOND, HOUR)
    assert sum(alert.is_firing for alert in alerts.values()) == MAX_OF_ONE_HOST
    assert (len(alerts), left_out) == (60, 40)


@given(st.integers(-10 * HOUR, 10 * HOUR))
def test_what_lasts_lasts_on_when_the_clock_is_set(step: int) -> None:
    """Neither does it fire early, nor begin anew."""
    one = Alert("the-rule", "stuck", "warning", APP, NOW, NOW + MINUTE, NOW + 2 * MINUTE, NOW + 3 * MINUTE)
    moved = shifted({KEY: one}, step)[KEY]
    assert (moved.active_since, moved.firing_since) == (NOW + step, NOW + MINUTE + step)
    assert (moved.quiet_since, moved.resolved_at) == (NOW + 2 * MINUTE + step, NOW + 3 * MINUTE + step)
