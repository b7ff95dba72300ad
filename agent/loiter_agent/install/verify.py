"""Tells by the agent's own status whether what it reports is acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from loiter_agent.status import Status

_LOOK_EVERY_SECONDS: Final = 0.25
# An acknowledgement comes once a batch is on the aggregator's disk.
_PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """Whether reports are acknowledged, and the last status that was seen; None where there was none."""

    acknowledged: bool
    status: Status | None


def is_delivering(status: Status, main_pid: int, now: float, version: str | None = None) -> bool:
    """Whether a status is that of the running agent, and says that what it reports is acknowledged.

    With `version` it has to be an agent of that version.
    """
    if version is not None and status.version != version:
        return False
    if status.pid != main_pid or not status.connected or status.last_acknowledged_at is None:
        return False
    age = now - datetime.fromisoformat(status.last_acknowledged_at).timestamp()
    return age <= 3 * status.interval_seconds + _PATIENCE_SECONDS


def wait_for_delivery(
    file: Path,
    main_pid: Callable[[], int],
    timeout: float,
    version: str | None = None,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Delivery:
    """Waits, for `timeout` seconds at most, until the running agent has had a report acknowledged."""
    end = monotonic() + timeout
    while True:
        status = read_status(file)
        if status is not None and is_delivering(status, main_pid(), clock(), version):
            return Delivery(True, status)
        if monotonic() >= end:
            return Delivery(False, status)
        sleep(_LOOK_EVERY_SECONDS)


def read_status(file: Path) -> Status | None:
    """Reads the status; None where there is none, as before the first tick."""
    try:
        return Status.read(file)
    except (OSError, ValueError):
        return None
