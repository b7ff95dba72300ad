"""Looks with the rights of the service: a user of its own, and the capabilities of its unit."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from loiter.own_python import module_command
from loiter_agent.checks.finding import Finding
from loiter_agent.checks.seen import from_document

_TIMEOUT_SECONDS: Final = 60.0
# nobody(5): any user that owns nothing.
_NOBODY: Final = "65534"


def seen_by_service(capabilities: Sequence[str]) -> list[Finding] | None:
    """What a process sees that is nobody's and has these capabilities, such as cap_sys_ptrace.

    None where that can not be found out, as without setpriv(1).
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return None
    caps = ",".join(["-all", *(f"+{name.removeprefix('cap_')}" for name in capabilities)])
    command = [setpriv, "--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups", "--no-new-privs"]
    command += [f"--bounding-set={caps}", f"--inh-caps={caps}", f"--ambient-caps={caps}"]
    command += module_command("loiter_agent.checks.seen")
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=True, cwd="/")  # noqa: S603
        return from_document(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None
