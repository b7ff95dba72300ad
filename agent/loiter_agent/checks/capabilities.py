"""What the process may do, by its effective capabilities (capabilities(7))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from loiter_agent.checks.finding import Finding, State

# Bits of include/uapi/linux/capability.h.
_BITS: Final = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
NEEDED: Final = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")


def effective(status: str) -> frozenset[str]:
    """Those of the capabilities above that /proc/PID/status says are in force."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    mask = int(found[1], 16) if found else 0
    return frozenset(name for name, bit in _BITS.items() if mask >> bit & 1)


def check_capabilities(status: Path = Path("/proc/self/status")) -> Finding:
    """Whether the descriptors of other users' processes may be read."""
    found = effective(status.read_text())
    missing = [name for name in NEEDED if name not in found]
    if missing:
        return Finding(
            "capabilities",
            State.LIMITED,
            f"without {' and '.join(missing)}, the descriptors of other users' processes can not be read",
            "run it as the service that 'loiter-agent install' makes, or as root",
        )
    more = [name for name in _BITS if name in found and name not in NEEDED]
    return Finding("capabilities", State.OK, ", ".join([*NEEDED, *more]))
