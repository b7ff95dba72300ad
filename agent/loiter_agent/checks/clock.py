"""Whether the clock is right: kept by something, and that of the aggregator."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from typing import Final

from loiter.durations import format_duration
from loiter.limits import TOLERATED_SKEW_SECONDS
from loiter_agent.checks.finding import Finding, State
from loiter_agent.probe import Probe

_STA_UNSYNC: Final = 0x40  # include/uapi/linux/timex.h
_STATUS_AT: Final = 5 * struct.calcsize("l")  # struct timex: modes, padded to a long, four longs, status
_TIMEX_BYTES: Final = 256


def is_synchronized() -> bool | None:
    """Whether something keeps the clock, as the kernel has it (adjtimex(2)). None where that can not be asked."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        if ctypes.CDLL(None).adjtimex(buffer) < 0:
            return None
    except AttributeError:
        return None
    return not struct.unpack_from("i", buffer.raw, _STATUS_AT)[0] & _STA_UNSYNC


def check_clock(synchronized: bool | None, probes: Iterable[Probe]) -> Finding:
    """The clock, by the kernel and by what aggregators say of theirs."""
    skews = [(one.server, one.skew_seconds) for one in probes if one.skew_seconds is not None]
    for server, skew in skews:
        if abs(skew) >= TOLERATED_SKEW_SECONDS:
            direction = "ahead of" if skew > 0 else "behind"
            return Finding(
                "clock",
                State.LIMITED,
                f"{format_duration(abs(skew))} {direction} {server}, which sets the times of samples right",
                "run a time service, such as systemd-timesyncd or chrony",
            )
    close = f"; {abs(skews[0][1]):.1f} s off {skews[0][0]}" if skews else ""
    if synchronized is False:
        return Finding(
            "clock",
            State.LIMITED,
            f"nothing keeps it, as the kernel has it{close}",
            "run a time service, such as systemd-timesyncd or chrony",
        )
    return Finding("clock", State.OK, ("synchronized" if synchronized else "not known to the kernel") + close)
