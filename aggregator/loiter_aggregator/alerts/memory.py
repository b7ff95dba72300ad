"""Keeps alerts over a restart, as a JSON file: so that what is pending goes on, and nothing fires a second time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from loiter.files import write_atomically
from loiter.v1 import sample_pb2
from loiter_aggregator.alerts.kinds import KINDS
from loiter_aggregator.alerts.state import MAX_ALERTS, Alert, Alerts, Key, Member, Subject

FILE: Final = "alerts.json"
_VERSION: Final = 1
# As many hosts as a ranking has rows, in as many alerts as there may be, are never all of them broken at once.
_MAX_BYTES: Final = 256 << 20
# No count and no time is as large.
_MAX_FIGURE: Final = 2.0**64


def remember(file: Path, alerts: Alerts) -> None:
    """Writes alerts. After a crash the file holds them, or those before. Raises OSError."""
    document = {"version": _VERSION, "alerts": [asdict(alert) for alert in alerts.values()]}
    write_atomically(file, json.dumps(document, separators=(",", ":")).encode(), 0o600)


def recall(file: Path, now: int) -> dict[Key, Alert]:
    """Reads alerts; none where there is no file yet. No time is later than now: the clock may have been set back.

    Raises:
        OSError: The file can not be read.
        ValueError: It does not hold alerts.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
    try:
        document = json.loads(content)
        if document["version"] != _VERSION:
            raise ValueError(f"it is of version {document['version']!r}, not {_VERSION}")
        # Besides those of today's rules, as many of rules that are not in force any more.
        alerts = [_alert(one, now) for one in document["alerts"][: 2 * MAX_ALERTS]]
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from None
    return {alert.key: alert for alert in alerts}


def _alert(found: Mapping[str, Any], now: int) -> Alert:
    def time(name: str) -> int | None:
        if found[name] is None:
            return None
        milliseconds: int = _checked(found[name], int)
        if milliseconds < 0:
            raise ValueError(f"it is damaged ({name} is before 1970)")
        return min(milliseconds, now)

    active_since = time("active_since")
    if found["kind"] not in KINDS or active_since is None:
        raise ValueError("it is damaged (an alert of no known kind, or without a time)")
    return Alert(
        rule=_checked(found["rule"], str),
        kind=found["kind"],
        severity=_checked(found["severity"], str),
        subject=Subject(_checked(found["subject"]["app"], str), _checked(found["subject"]["host"], str)),
        active_since=active_since,
        firing_since=time("firing_since"),
        quiet_since=time("quiet_since"),
        resolved_at=time("resolved_at"),
        members={_checked(host_id, str): _member(one) for host_id, one in found["members"].items()},
        add_labels=tuple((_checked(name, str), _checked(content, str)) for name, content in found["add_labels"]),
    )


def _member(found: Mapping[str, Any]) -> Member:
    figure, cause = float(_checked(found["figure"], (int, float))), _checked(found["cause"], int)
    if not math.isfinite(figure) or abs(figure) > _MAX_FIGURE or cause not in sample_pb2.Cause.values():
        raise ValueError("it is damaged (a figure out of range, or a cause that there is none of)")
    return Member(
        hostname=_checked(found["hostname"], str),
        figure=figure,
        cause=cause,
        stale=_checked(found["stale"], bool),
    )


def _checked(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{str(value)[:40]!r} is of the wrong type")
    return value
