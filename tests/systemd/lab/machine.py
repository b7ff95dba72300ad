"""Says whether this machine can run the lab."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from systemd.lab.cgroups import ROOT
from systemd.lab.tools import here

_TOOLS: Final = ("systemd-nspawn", "debootstrap", "nsenter", "unshare", "ip", "pgrep", "tar")


def why_not() -> str | None:
    """Returns the reason why this machine can not run the lab, or None where it can.

    The kernel's controllers must be the version 1 of cgroups(7), beside an empty version 2 ("hybrid"). Where systemd is
    this machine's own PID 1 it would have to be asked for a cgroup per host, which nobody has written yet.
    """
    if os.geteuid() != 0:
        return "it needs root"
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)} (tests/systemd/packages.sh)"
    unified = ROOT / "unified"
    if not unified.is_dir() or here("stat", "-fc", "%T", unified).stdout.strip() != "cgroup2fs":
        return f"{unified} is not cgroup2: the lab knows the hybrid layout of cgroups alone"
    if not (ROOT / "systemd").is_dir() or Path("/run/systemd/system").exists():
        return "systemd is this machine's PID 1, or its hierarchy in /sys/fs/cgroup is missing"
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        return "the kernel has no overlay file system"
    if here("unshare", "--mount", "true", check=False).returncode != 0:
        return "a mount namespace can not be made"
    return None
