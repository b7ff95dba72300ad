"""Gives each host a cgroup of its own in every hierarchy, beneath that of the caller: it never escapes his limits.

Without, two containers would share one cgroup named `payload`, and their cgroup namespaces would begin at the root.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from systemd.lab.tools import LabError

ROOT: Final = Path("/sys/fs/cgroup")
_CONTROLLERS: Final = frozenset({"memory", "cpu", "cpuacct", "pids", "blkio", "freezer", "devices"})


def controllers() -> list[str]:
    """The hierarchies of version 1 that hosts are given, as they are mounted: `memory`, or `cpu,cpuacct`."""
    found = (folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.is_symlink())
    return sorted(folder.name for folder in found if _CONTROLLERS & set(folder.name.split(",")))


def folders(name: str) -> list[Path]:
    """The cgroups of a host, one a hierarchy, whether or not they are there."""
    own = _parse(Path("/proc/self/cgroup").read_text())
    hierarchies = [(each, frozenset(each.split(","))) for each in controllers()]
    hierarchies += [("systemd", frozenset({"name=systemd"})), ("unified", frozenset({""}))]
    return [ROOT / folder / own[key].strip("/") / name for folder, key in hierarchies]


def _parse(text: str) -> dict[frozenset[str], str]:
    """Reads /proc/PID/cgroup: the path in the hierarchy of each set of controllers."""
    lines = (line.split(":", 2) for line in text.splitlines())
    return {frozenset(controllers.split(",")): path for _, controllers, path in lines}


def joining(cgroups: Iterable[Path], command: Sequence[str | Path]) -> list[str]:
    """The command that goes into these cgroups and then becomes `command`."""
    files = " ".join(shlex.quote(str(folder / "cgroup.procs")) for folder in cgroups)
    script = f'for file in {files}; do echo $$ >"$file" || exit; done; exec "$@"'
    return ["sh", "-c", script, "joining", *map(str, command)]


def sweep(cgroups: Iterable[Path]) -> None:
    """Removes what a host has made in its cgroups: systemd asks to find none."""
    for folder in cgroups:
        for inner in sorted(folder.rglob("*/"), reverse=True):
            with suppress(OSError):
                inner.rmdir()


def remove(cgroups: Sequence[Path]) -> None:
    """Kills what runs in the cgroups of a host, and removes them once the kernel has let go of it.

    Raises LabError where that takes longer than some seconds, as with what waits for a disk.
    """
    for _ in range(200):
        _kill(cgroups)
        sweep(cgroups)
        for folder in cgroups:
            with suppress(OSError):
                folder.rmdir()
        if not any(folder.exists() for folder in cgroups):
            return
        time.sleep(0.02)
    left = ", ".join(str(folder) for folder in cgroups if folder.exists())
    raise LabError(f"not empty though all in it was killed: {left}")


def _kill(cgroups: Iterable[Path]) -> None:
    for folder in cgroups:
        for file in folder.rglob("cgroup.procs"):
            with suppress(OSError):  # it, or who was in it, has ended meanwhile
                for pid in file.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
