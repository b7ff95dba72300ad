"""What an agent without rights says: what it could not see, in a word and once, and never 0 for it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.netns import netns
from support.programs import BIN, leaklab, run, running

NOBODY = 65_534
AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
)
SAMPLE = (BIN / "loiter-agent", "sample", "-o", "json")
WITHOUT_SYS_ADMIN = ("setpriv", "--inh-caps=-all", "--bounding-set=-sys_admin")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights")


@pytest.fixture(autouse=True)
def _installed_where_nobody_may_look() -> None:
    if subprocess.run([*AS_NOBODY, "test", "-x", str(BIN / "loiter-agent")], check=False).returncode != 0:
        pytest.skip("the folder of this checkout is closed to other users")


def test_what_other_users_hold_is_unknown_and_that_is_said_once(tmp_path: Path) -> None:
    """Neither their sockets nor how many namespaces there are can be told; a line in the log, and not one for each."""
    with running(leaklab("holder", "--close-wait", "20"), tmp_path / "log") as holder:
        assert holder.line() == "ready 0"
        done = run([*AS_NOBODY, *SAMPLE], {"LOITER_PROCESSES_TOP": "2000", "LOITER_PROCESSES_LIMIT": "2000"})
    assert done.returncode == 0, done.stderr
    sample = json.loads(done.stdout)
    rows = {row["pid"]: row for row in sample["processes"]}
    for key in ("close_wait", "sockets", "established", "time_wait", "stuck", "peers", "cause"):
        assert rows[holder.pid][key] is None, key
    assert sample["tcp_states"]["close_wait"] >= 20
    assert sample["coverage"]["processes_unreadable"] > 0
    assert sample["coverage"]["namespaces_unread"] is None
    assert done.stderr.count("\n") == 1
    assert "can not be looked into" in done.stderr


def test_hidden_processes_are_told_of(tmp_path: Path) -> None:
    """With hidepid, not even how many there are is known."""
    # The shell is the first process of a pid namespace of its own, and what is hidden.
    script = f"mount -t proc -o hidepid=2 proc /proc; {' '.join(map(str, (*AS_NOBODY, *SAMPLE)))}; exit $?"
    done = run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", script], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    coverage = json.loads(done.stdout)["coverage"]
    assert (coverage["processes_unreadable"], coverage["namespaces"]) == (None, None)
    assert done.stderr.count("\n") == 1
    assert "hidepid" in done.stderr


def test_without_the_right_to_enter_namespaces_sockets_are_seen_and_ages_are_not(tmp_path: Path) -> None:
    """They are read from procfs, which is said; since when they are in CLOSE_WAIT it does not tell."""
    with (
        netns() as inside,
        running(inside.command(leaklab("holder", "--close-wait", "20")), tmp_path / "log") as holder,
    ):
        assert holder.line() == "ready 0"
        done = run([*WITHOUT_SYS_ADMIN, *SAMPLE])
        assert done.returncode == 0, done.stderr
    sample = json.loads(done.stdout)
    (row,) = [row for row in sample["processes"] if row["pid"] == holder.pid]
    assert (row["close_wait"], row["close_wait_age_seconds"], row["stuck"]) == (20, None, None)
    assert row["cause"] == "unknown"
    assert sample["coverage"]["namespaces_by_procfs"] >= 1
    assert "procfs" in {one["sampler"] for one in sample["namespaces"]}
