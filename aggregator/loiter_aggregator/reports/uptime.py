"""A clock that is never set: by it, the wall clock of now says when something was done by the wall clock of then."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from loiter_aggregator.clock import boot_clock

# proc_sys_kernel(5): another one after each start of the machine.
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Uptime:
    """How long a machine has been up, in milliseconds, and which of its starts that is since."""

    boot: str
    milliseconds: int


def uptime() -> Uptime:
    """Reads it, with the time for which the machine was suspended."""
    return Uptime(_boot(), boot_clock())


@cache
def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def by_clock_of_now(then: int, up_then: Uptime | None, now: int, up_now: Uptime) -> int:
    """When something was done, by the wall clock as it is set now; both in milliseconds since the epoch.

    After another start of the machine nobody can tell how the clock was set in between: then it is believed.
    """
    if up_then is None or not up_now.boot or up_then.boot != up_now.boot:
        return then
    return now - (up_now.milliseconds - up_then.milliseconds)
