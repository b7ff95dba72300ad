"""The process that a host lives beneath. It makes what a host needs, and takes it away however the host ends.

It is a child of the tests and holds the other end of a pipe: when the tests end, or are killed, the pipe does, and the
host with it. Should it be killed itself, the next fleet takes the host away.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys

from systemd.lab import network
from systemd.lab.plan import Plan, run_lock
from systemd.lab.remains import take_away
from systemd.lab.tools import locked

# The container's mounts are in a mount namespace of their own, and vanish with its last process. The one it comes from
# must hear nothing of them, but it must hear of network namespaces that are added later, so it is a slave.
_CONTAINER = ("unshare", "--mount", "--propagation=slave", sys.executable, "-m", "systemd.lab.container")


def main() -> None:
    """Runs a host until standard input ends, SIGTERM comes, or the host powers itself off."""
    plan = Plan.of_word(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with locked(run_lock()):
        plan.folder.mkdir(parents=True)
        mark = (plan.folder / "lock").open("w")
        fcntl.flock(mark, fcntl.LOCK_EX)
    try:
        with locked(run_lock()):
            network.plug(plan.fleet, plan.name, plan.address)
        for folder in plan.cgroups:
            folder.mkdir(exist_ok=True)
        _run(plan)
    finally:
        with locked(run_lock()):
            take_away(plan.fleet, plan.name)


def _run(plan: Plan) -> None:
    with subprocess.Popen([*_CONTAINER, plan.to_word()], stdin=subprocess.DEVNULL) as container:
        try:
            ended = os.pidfd_open(container.pid)
            select.select([sys.stdin, ended], [], [])
        finally:
            # As if its power was cut: nothing in a host is worth the wait for an orderly end. What it runs is killed as
            # its cgroups are removed: systemd in a container outlives systemd-nspawn.
            container.kill()


if __name__ == "__main__":
    main()
