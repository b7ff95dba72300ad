"""The file of alerts: rules, and where alerts are pushed to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AlertFile:
    """What a file says; without one, the rules that loiter comes with, pushed nowhere."""


def load_alerts(file: Path | None) -> AlertFile:
    """Reads a file of alerts. Raises SettingsError, whose message says where in the file and what would be right."""
    del file
    return AlertFile()
