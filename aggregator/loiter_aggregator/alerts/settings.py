"""The tables of a file of alerts, and how their values are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loiter.durations import format_duration
from loiter.limits import MAX_STRING_CHARS, MAX_WINDOW_SECONDS
from loiter.settings import REQUIRED, Where, boolean, duration, labels, matching, one_of, path, setting, text
from loiter_aggregator.alerts.kinds import KINDS
from loiter_aggregator.receivers import web_address

_DAY: Final = 86_400.0
_MAX_PATTERNS: Final = 100
# Three of an agent's usual intervals: with fewer samples no line is drawn, and with none nothing is known.
_MIN_WINDOW: Final = 30.0
_EXAMPLE: Final = "http://127.0.0.1:9093"
# What loiter gives an alert; a rule can not add labels of these names.
_OWN_LABELS: Final = ("alertname", "severity", "app", "host")


def _threshold(value: object) -> object:
    """Reads a number such as 100, a duration such as 4h or a percentage such as 80%, as the kind has it."""
    return value  # what it has to be, the kind knows: see `_read`


def _window(value: object) -> float:
    """Reads a duration, 30s to 366d."""
    seconds = float(duration(0, MAX_WINDOW_SECONDS)(value))
    if seconds < _MIN_WINDOW:
        raise ValueError(
            f"{value!r} is too short to know anything by, and the rule would never fire; take three of the agents' "
            f"intervals at least, and no less than {format_duration(_MIN_WINDOW)}"
        )
    return seconds


def _fit(value: object) -> float:
    """Reads a number from 0 to 1."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a number from 0 to 1")
    return float(value)


def _patterns(value: object) -> tuple[str, ...]:
    """Reads a list of names, in which `*` stands for anything."""
    if not isinstance(value, list) or not value or len(value) > _MAX_PATTERNS:
        raise ValueError(f"{value!r} is not a list of 1 to {_MAX_PATTERNS} names")
    for item in value:
        if len(text(item)) > MAX_STRING_CHARS:
            raise ValueError(f"a name of more than {MAX_STRING_CHARS} characters")
    return tuple(value)


def _added_labels(value: object) -> tuple[tuple[str, str], ...]:
    """Reads a table of labels with names as Prometheus takes them, such as `{ team = "payments" }`."""
    found = labels(value)
    for name, content in found:
        if name in _OWN_LABELS or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None or not content:
            raise ValueError(
                f"{name!r} can not be added; take letters, digits and '_', not empty, and none of "
                + ", ".join(_OWN_LABELS)
            )
    return found


def _receiver(value: object) -> str:
    """Reads the address of an Alertmanager, such as http://127.0.0.1:9093."""
    parts = web_address(text(value), _EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address is no place for a password; set user and password_file, or token_file")
    if parts.query or parts.fragment:
        raise ValueError(f"not an address such as {_EXAMPLE}")
    # That of the API, as programs are told it elsewhere, is that of the Alertmanager with a path behind it.
    address = re.sub(r"/api/v2(/alerts)?$", "", text(value).rstrip("/"))
    if re.search(r"/api(/v[0-9]+(/alerts)?)?$", address) is not None:
        raise ValueError(f"not the address of an Alertmanager, but of another API; write it as {_EXAMPLE}")
    return address


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """A table `[[rule]]`. One that is called as a rule of loiter's own changes what it says of that."""

    name: str = setting(
        REQUIRED,
        matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", "a name: at most 63 letters, digits, '_', '.' and '-'"),
        "what it is called; the label `alertname`",
    )
    kind: str | None = setting(
        None, one_of(*KINDS), "what it is about; has to be set, but in a rule that is called as one of loiter's own"
    )
    above: Any = setting(None, _threshold, "the figure from which on it is broken")
    below: Any = setting(None, _threshold, "of `fd-eta`: the time left from which on it is broken")
    clear: Any = setting(None, _threshold, "the figure at which a broken rule is kept again")
    min_fit: float | None = setting(None, _fit, "of `close-wait-growth`: the least r²; 0.9 if not set")
    window: float | None = setting(
        None, _window, "how far back to look; at least three of the agents' intervals, or nothing is known"
    )
    for_: float | None = setting(None, duration(0, 31 * _DAY), "how long it has to be broken before an alert fires")
    keep_for: float = setting(120.0, duration(0, 31 * _DAY), "how long it has to be kept before an alert is resolved")
    severity: str = setting(
        "warning", matching(r"[a-z][a-z0-9_-]{0,30}", "a word in lower case, such as critical"), "the label `severity`"
    )
    labels: tuple[tuple[str, str], ...] = setting((), labels, "only hosts that carry all of these labels")
    apps: tuple[str, ...] = setting((), _patterns, "only these applications")
    except_apps: tuple[str, ...] = setting((), _patterns, "not these applications")
    add_labels: tuple[tuple[str, str], ...] = setting((), _added_labels, "labels that its alerts get, to route them by")
    enabled: bool = setting(True, boolean, "whether it is in force")
    where: Where = field(default=Where(), compare=False)


@dataclass(frozen=True, slots=True)
class DefaultSettings:
    """The table `[defaults]`."""

    enabled: bool = setting(True, boolean, "whether loiter's own rules are in force")
    where: Where = field(default=Where(), compare=False)


@dataclass(frozen=True, slots=True)
class AlertmanagerSettings:
    """A table `[[alertmanager]]`: where alerts are pushed to. Of a cluster, each member has one."""

    url: str = setting(REQUIRED, _receiver, "its address, with the prefix of its paths if it has one")
    ca: Path | None = setting(None, path, "authorities to trust it by (PEM); those of the system if not set")
    token_file: Path | None = setting(None, path, "file with a token to show (Bearer)")
    user: str | None = setting(None, text, "the name to log in with (Basic)")
    password_file: Path | None = setting(None, path, "file with the password of `user`")
    insecure: bool = setting(False, boolean, "send a token or a password without TLS, off this machine")
    timeout: float = setting(10.0, duration(0.1, 300), "how long a push may take")
    where: Where = field(default=Where(), compare=False)


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """The table `[settings]`."""

    every: float = setting(30.0, duration(0.5, 3_600), "the time between two evaluations")
    resend: float = setting(60.0, duration(1, 3_600), "the time between two pushes of an alert that fires")
    expires: float = setting(
        300.0, duration(2, _DAY), "when Alertmanager resolves an alert that it hears no more of: the aggregator is down"
    )
    forget: float = setting(
        _DAY, duration(60, 30 * _DAY), "how long a host may be silent before its alerts end, as it will not come back"
    )
    keep_resolved: float = setting(3_600.0, duration(0, 7 * _DAY), "how long a resolved alert is listed")
    where: Where = field(default=Where(), compare=False)
