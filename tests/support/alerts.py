"""Rules and measurements for the tests of alerts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loiter_aggregator.alerts.file import AlertFile, load_alerts
from loiter_aggregator.alerts.rule import Rule
from loiter_aggregator.alerts.state import Found, Measurement, Subject

APP = Subject(app="order-api.service")


def alert_file(folder: Path, text: str) -> AlertFile:
    """Reads a file of alerts without loiter's own rules."""
    file = folder / "alerts.toml"
    file.write_text(f"[defaults]\nenabled = false\n{text}")
    return load_alerts(file)


def rule(folder: Path, kind: str = "stuck", **settings: Any) -> Rule:
    """A rule of a kind: more than 100 sockets are stuck, unless told otherwise."""
    given = {"above": 100, **settings} if kind == "stuck" else settings
    lines = "".join(f"{name.rstrip('_')} = {_toml(value)}\n" for name, value in given.items())
    return alert_file(folder, f'[[rule]]\nname = "the-rule"\nkind = "{kind}"\n{lines}').rules[0]


def measured(
    one: Rule, figures: Mapping[str, float | None], *, unheard: tuple[str, ...] = (), complete: bool = True
) -> Measurement:
    """What was found of APP: figures by host, which stand for their ids, too."""
    found = {
        host: Found(
            host,
            figure,
            breaks=figure is not None and one.breaks(figure, 1.0),
            holds=figure is not None and one.holds(figure, 1.0),
            cause=1,
        )
        for host, figure in figures.items()
        if figure is None or one.holds(figure, 1.0)
    }
    return Measurement({APP: found} if found else {}, unheard, complete)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
