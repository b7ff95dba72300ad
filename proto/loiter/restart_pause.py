"""Has a service that fails at its start end later and later, so that systemd does not start it every few seconds.

systemd can do so by itself from version 254 on (RestartSteps=). What fails for the first time ends at once, so that
whoever has started it hears of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from loiter import sd_notify

_FILE: Final = "failed-starts"
_FIRST_SECONDS: Final = 5.0
# The service must have ended before TimeoutStartSec= of its unit.
MAX_SECONDS: Final = 60.0


def pause(environment: Mapping[str, str], message: str) -> None:
    """Waits before the process ends because of an error, if it is a service that has ended by the same one before.

    SIGTERM and SIGHUP end the wait.
    """
    file = _file(environment)
    if file is None:
        return
    seconds = seconds_after(_count(file, message))
    if seconds == 0:
        return
    sd_notify.from_environment(environment).status(f"{message}; ends in {seconds:.0f} s, to be started again")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # nor is it ignored then
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.sigtimedwait({signal.SIGHUP}, seconds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def forget(environment: Mapping[str, str]) -> None:
    """Takes note that the service is up."""
    file = _file(environment)
    if file is not None:
        with suppress(OSError):
            file.unlink()


def seconds_after(failures: int) -> float:
    """How long to wait after so many failures of the same kind before this one."""
    return min(_FIRST_SECONDS * 2.0 ** (min(failures, 10) - 1), MAX_SECONDS) if failures else 0.0


def _file(environment: Mapping[str, str]) -> Path | None:
    """Where failures are counted: in the StateDirectory of a service that systemd waits for, or nowhere."""
    folder = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(folder, _FILE) if os.path.isabs(folder) and environment.get("NOTIFY_SOCKET") else None


def _count(file: Path, message: str) -> int:
    """How often the service has failed so before; counts this failure. 0 where that can not be kept."""
    try:
        count, _, said = file.read_text(errors="replace").partition("\n")
        before = int(count) if said == message else 0
    except (OSError, ValueError):
        before = 0
    try:
        file.write_text(f"{before + 1}\n{message}", errors="replace")
    except OSError:
        return 0
    return before
