"""Takes away what is left of hosts that have ended."""

from __future__ import annotations

import fcntl
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from systemd.lab import cgroups, network
from systemd.lab.plan import run_lock, runs_folder
from systemd.lab.tools import LabError, locked


def sweep() -> None:
    """Takes away the hosts whose supervisor was killed, of whichever fleet: nobody holds the lock of their folder."""
    with locked(run_lock()):
        for mark in runs_folder().glob("*/*/lock"):
            with mark.open("a") as handle, suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    take_away(mark.parent.parent.name, mark.parent.name)
                except LabError as error:  # a later sweep tries again
                    print(f"the lab leaves behind: {error}", file=sys.stderr)


def take_away(fleet: str, name: str) -> None:
    """Ends a host at once and removes every trace of it. Call under the lock.

    Raises LabError where something of it can not be ended; its folder then stays, by which `sweep` finds it.
    """
    whole_name = network.namespace(fleet, name)
    cgroups.remove(cgroups.folders(whole_name))
    network.unplug(fleet, name)
    with suppress(OSError):
        Path("/run/systemd/nspawn/propagate", whole_name).rmdir()
    folder = runs_folder() / fleet / name
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # the last host of a fleet takes its folder along
        folder.parent.rmdir()
