"""A cgroup whose processes get little of the processor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PERIOD_US = 100_000


@contextmanager
def cpu_quota(share: float) -> Iterator[Path]:
    """Makes a cgroup with `share` of one processor, and yields its folder; removes it after its processes have ended.

    Takes the cpu controller where it is: version 1 or 2 (cgroups(7)). Raises OSError where it is in neither.
    """
    folder = _cpu_hierarchy(Path("/proc/self/mountinfo").read_text()) / f"loiter-leaklab-{os.getpid()}"
    folder.mkdir()
    try:
        quota = int(PERIOD_US * share)
        if (folder / "cpu.cfs_quota_us").exists():
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        yield folder
    finally:
        folder.rmdir()


def _cpu_hierarchy(mountinfo: str) -> Path:
    """Where children can be made that have the cpu controller. The format is that of proc_pid_mountinfo(5)."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        mount, kind, options = Path(left.split()[4]), right.split()[0], right.split()[2].split(",")
        if kind == "cgroup" and "cpu" in options:
            return mount
        if kind == "cgroup2" and "cpu" in (mount / "cgroup.subtree_control").read_text().split():
            return mount
    raise OSError("no cgroup hierarchy with the cpu controller")
