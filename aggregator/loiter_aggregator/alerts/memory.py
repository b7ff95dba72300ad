"""Keeps alerts over a restart, as a JSON file: so that what is pending goes on, and nothing fires a second time.

With them, when the clock was set, and by which setting of it that is known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from loiter.files import write_atomically
from loiter.v1 import sample_pb2
from loiter_aggregator.alerts.kinds import KINDS
from loiter_aggregator.alerts.state import MAX_ALERTS, Alert, Alerts, Member, Subject

FILE: Final = "alerts.json"
_VERSION: Final = 1
# As many hosts as a ranking has rows, in as many alerts as there may be, are never all of them broken at once.
_MAX_BYTES: Final = 256 << 20
# No count and no time is as large.
_MAX_FIGURE: Final = 2.0**64


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept; times in milliseconds.

    `clock_set` is when the clock was set last, and `clock_offset` what was between it and the time since boot; None
    where that is not known.
    """

    alerts: Alerts = field(default_factory=dict)
    clock_set: int | None = None
    clock_offset: int | None = None


def remember(file: Path, memory: Memory) -> None:
    """Writes what is to be kept. After a crash the file holds that, or what it held before. Raises OSError."""
    document = {
        "version": _VERSION,
        "alerts": [asdict(alert) for alert in memory.alerts.values()],
        "clock_set": memory.clock_set,
        "clock_offset": memory.clock_offset,
    }
    write_atomically(file, json.dumps(document, separators=(",", ":")).encode(), 0o600)


def recall(file: Path, now: int) -> Memory:
    """Reads what was kept; nothing where there is no file yet. No time is later than now, by which a clock was set.

    Raises:
        OSError: The file can not be read.
        ValueError: It does not hold alerts.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return Memory()
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
    try:
        document = json.loads(content)
        if document["version"] != _VERSION:
            raise ValueError(f"it is of version {document['version']!r}, not {_VERSION}")
        # Besides those of today's rules, as many of rules that are not in force any more.
        alerts = [_alert(one, now) for one in document["alerts"][: 2 * MAX_ALERTS]]
        clock_set, clock_offset = (_optional_int(document.get(name)) for name in ("clock_set", "clock_offset"))
        clock_set = None if clock_set is None else min(clock_set, now)
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from None
    return Memory({alert.key: alert for alert in alerts}, clock_set, clock_offset)


def _alert(found: Mapping[str, Any], now: int) -> Alert:
    def time(name: str) -> int | None:
        milliseconds = _optional_int(found[name])
        if milliseconds is not None and milliseconds < 0:
            raise ValueError(f"it is damaged ({name} is before 1970)")
        return None if milliseconds is None else min(milliseconds, now)

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


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(_checked(value, int))


def _checked(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{str(value)[:40]!r} is of the wrong type")
    return value
