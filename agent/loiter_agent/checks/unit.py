"""The unit: whether it is installed and runs, and what of its sandbox is in the agent's way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from loiter.durations import parse_duration
from loiter.service_install.systemd import ServiceState
from loiter_agent.checks.finding import Finding, State

PROPERTIES: Final = (
    "AmbientCapabilities",
    "User",
    "DynamicUser",
    "PrivateUsers",
    "PrivateNetwork",
    "ProcSubset",
    "MemoryMax",
    "CPUQuotaPerSecUSec",
)
# What of a unit hides from the agent what it is there to see, and what that is.
_HIDING: Final = {
    ("PrivateUsers", "yes"): "other users' processes can not be read",
    ("PrivateNetwork", "yes"): "the sockets of the host are not seen",
    ("ProcSubset", "pid"): "/proc lacks what the agent reads of the host",
}


def check_unit(service: ServiceState, properties: Mapping[str, str]) -> Finding:
    """Whether it runs."""
    if not service.loaded:
        return Finding(
            "service", State.LIMITED, "not installed: nothing is reported unless you run it", "loiter-agent install"
        )
    if not service.active:
        return Finding(
            "service",
            State.MISSING,
            f"{service.summary}",
            "systemctl start loiter-agent; why it ended: journalctl -u loiter-agent",
        )
    for (name, value), hidden in _HIDING.items():
        if properties.get(name) == value:
            return Finding("service", State.MISSING, f"{name}={value}: {hidden}", f"a drop-in with {name}=")
    if not service.enabled:
        return Finding("service", State.LIMITED, "runs, but not after the next boot", "systemctl enable loiter-agent")
    return Finding("service", State.OK, f"{service.summary}, starts at boot{_caps(properties)}")


def rights_of(properties: Mapping[str, str]) -> list[str] | None:
    """The capabilities that the unit gives; None where it runs as root, with all that root may."""
    if properties.get("User") in (None, "", "root") and properties.get("DynamicUser") != "yes":
        return None
    return properties.get("AmbientCapabilities", "").split()


def _caps(properties: Mapping[str, str]) -> str:
    memory, quota = properties.get("MemoryMax", ""), properties.get("CPUQuotaPerSecUSec", "")
    limits = []
    if memory.isdecimal() and int(memory) < 1 << 60:
        limits.append(f"{int(memory) >> 20:,} MiB")
    with suppress(ValueError):
        limits.append(f"{parse_duration(quota):.0%} of a processor")
    return f"; may take {' and '.join(limits)}" if limits else ""
