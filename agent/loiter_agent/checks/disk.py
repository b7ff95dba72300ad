"""Whether reports that wait have a place to be kept."""

from __future__ import annotations

import os
from pathlib import Path

from loiter_agent.checks.finding import Finding, State


def check_disk(state_dir: Path, needed_bytes: int, made_by_systemd: bool) -> Finding:
    """Whether the folder can be written, and the disk has room for all that may wait.

    With `made_by_systemd`, it is the service that has to be able to write it, and it can.
    """
    name = "state folder"
    there = next(folder for folder in (state_dir, *state_dir.parents) if os.path.exists(folder))
    if not made_by_systemd and not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            name, State.MISSING, f"{state_dir} can not be written", "run as root, or name another by --state-dir"
        )
    try:
        disk = os.statvfs(there)
    except OSError as error:
        return Finding(name, State.MISSING, f"{there}: {error.strerror}", "mend the file system")
    free = disk.f_bavail * disk.f_frsize
    if free < needed_bytes:
        return Finding(
            name,
            State.LIMITED,
            f"{state_dir} has {free / 1e6:,.0f} MB of room; reports that wait may take {needed_bytes / 1e6:,.0f} MB",
            "make room, or lower spool.max_bytes",
        )
    return Finding(name, State.OK, f"{state_dir}, {free / 1e9:,.1f} GB of room")
