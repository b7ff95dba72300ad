"""Alerts over a restart: what is kept, and what becomes of a file that is damaged."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from loiter_aggregator.alerts.memory import Memory, recall, remember
from loiter_aggregator.alerts.state import Alert, Member, Subject
from support.reports import HOUR, MINUTE, NOW

ONE = Alert(
    "the-rule",
    "stuck",
    "critical",
    Subject(app="<script>alert(1)</script>\x1b[2J"),
    NOW,
    NOW + MINUTE,
    NOW + 2 * MINUTE,
    None,
    {"1" * 32: Member("web-1", 200.5, 2, stale=True)},
    (("team", "payments"),),
)
TWO = Alert("host-silent", "host-silent", "warning", Subject(host="db-1"), NOW)
KEPT = Memory({one.key: one for one in (ONE, TWO)}, clock_set=NOW, clock_offset=5)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """In a file that only the aggregator may read: it says who talks to whom."""
    file = tmp_path / "alerts.json"
    assert recall(file, NOW) == Memory()
    remember(file, KEPT)
    assert recall(file, NOW + HOUR) == KEPT
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_after_a_clock_was_set_back_nothing_began_in_the_future(tmp_path: Path) -> None:
    """It would never fire, and never end."""
    file = tmp_path / "alerts.json"
    remember(file, KEPT)
    early = NOW - HOUR
    found = recall(file, early).alerts[ONE.key]
    assert (found.active_since, found.firing_since, found.quiet_since) == (early, early, early)


DAMAGED = {
    "no json": b"{",
    "no object": b"[]",
    "another version": b'{"version": 2, "alerts": []}',
    "no alerts": b'{"version": 1}',
    "no text": b"\xff\xfe",
    "an alert that is none": b'{"version": 1, "alerts": [1]}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_said_to_be(tmp_path: Path, name: str) -> None:
    file = tmp_path / "alerts.json"
    file.write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=r".+"):
        recall(file, NOW)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("figure", 10**400),
        ("figure", float("nan")),
        ("figure", 1e300),
        ("cause", 10**30),
        ("active_since", -(10**30)),
        ("firing_since", -1),
    ],
)
def test_so_is_one_with_a_value_that_none_can_be(tmp_path: Path, where: str, value: float) -> None:
    """Each time that alerts are listed or pushed, it would fail anew."""
    file = tmp_path / "alerts.json"
    remember(file, KEPT)
    document = json.loads(file.read_text())
    alert = document["alerts"][0]
    (alert if where in alert else alert["members"]["1" * 32])[where] = value
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="damaged"):
        recall(file, NOW)


@pytest.mark.parametrize("name", ["rule", "kind", "active_since", "subject", "members", "add_labels", "firing_since"])
def test_so_is_one_with_a_value_of_another_type(tmp_path: Path, name: str) -> None:
    file = tmp_path / "alerts.json"
    remember(file, KEPT)
    document = json.loads(file.read_text())
    document["alerts"][0][name] = [1]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="damaged"):
        recall(file, NOW)


def test_when_the_clock_was_set_need_not_be_there(tmp_path: Path) -> None:
    """An older version does not write it. It is no later than now, either, and a number."""
    file = tmp_path / "alerts.json"
    remember(file, KEPT)
    assert recall(file, NOW - HOUR).clock_set == NOW - HOUR
    document = json.loads(file.read_text())
    del document["clock_set"], document["clock_offset"]
    file.write_text(json.dumps(document))
    assert recall(file, NOW + HOUR) == Memory(KEPT.alerts)
    file.write_text(json.dumps({**document, "clock_set": [1]}))
    with pytest.raises(ValueError, match="damaged"):
        recall(file, NOW)
