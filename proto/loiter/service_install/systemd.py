"""Asks systemd: whether it runs here, what has become of a unit, and what the unit has logged."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loiter.text import printable

# The first that finds credentials by name in /etc/credstore (systemd.exec(5), LoadCredential=).
OLDEST_SYSTEMD: Final = 251

_TIMEOUT_SECONDS: Final = 30.0
_STATE: Final = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "UnitFileState",
    "NeedDaemonReload",
    "MainPID",
    "ExecMainStartTimestampMonotonic",
)


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What systemd has of a service. `started_at` is in seconds since the epoch, 0 where it has not started."""

    loaded: bool = False
    enabled: bool = False
    active: bool = False
    needs_reload: bool = False
    main_pid: int = 0
    started_at: float = 0.0
    summary: str = "not installed"


def why_not() -> str | None:
    """Why no service can be installed here; None where one can."""
    if not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return "systemd is not what runs this machine"
    version = systemd_version()
    if version is not None and version < OLDEST_SYSTEMD:
        return f"this is systemd {version}, and the unit needs {OLDEST_SYSTEMD} or later"
    return None


def systemd_version() -> int | None:
    """The version of systemd; None where there is none."""
    found = re.match(r"systemd (\d+)", _ask(("systemctl", "--version")) or "")
    return int(found[1]) if found else None


def properties(unit: str, *names: str) -> Mapping[str, str]:
    """Properties of a unit by name; empty where systemd does not answer."""
    said = _ask(("systemctl", "show", "--property", ",".join(names), unit)) or ""
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def service_state(unit: str) -> ServiceState:
    """Looks at a unit. One that is not there is not an error."""
    return parse_state(properties(unit, *_STATE), time.time() - time.monotonic())


def parse_state(found: Mapping[str, str], epoch_of_boot: float) -> ServiceState:
    """Reads what `systemctl show` says. `epoch_of_boot` is when the monotonic clock began, by that of the day."""
    if found.get("LoadState", "not-found") == "not-found":
        return ServiceState()
    started = int(found.get("ExecMainStartTimestampMonotonic") or 0) / 1e6
    active = found.get("ActiveState", "unknown")
    return ServiceState(
        loaded=True,
        enabled=found.get("UnitFileState") in ("enabled", "enabled-runtime"),
        active=active in ("active", "reloading"),
        needs_reload=found.get("NeedDaemonReload") == "yes",
        main_pid=int(found.get("MainPID") or 0),
        started_at=epoch_of_boot + started if started else 0.0,
        summary=f"{active} ({found.get('SubState', '')})",
    )


def last_log_lines(unit: str, count: int = 12) -> list[str]:
    """What the unit has logged last, since the boot; empty where there is no journal.

    That a systemd does not know a setting of the unit is left out: some are for later ones. It is fit for a terminal.
    """
    command = ("journalctl", "--unit", unit, "--boot", "--lines", str(count), "--no-pager", "--output", "cat")
    return [
        printable(line)
        for line in (_ask(command) or "").splitlines()
        if not line.startswith("-- ") and "Unknown key" not in line
    ]


def _ask(command: tuple[str, ...]) -> str | None:
    try:
        return subprocess.run(  # noqa: S603 - a list, and no shell
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
