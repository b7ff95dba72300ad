"""Where the kernel refuses sock_diag, psutil reads the sockets, and the sample says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from support.netns import netns
from support.programs import BIN, ROOT, leaklab, run, running


def test_psutil_is_the_sampler_where_sock_diag_is_refused(tmp_path: Path) -> None:
    """The same counts and charges; what psutil can not tell is null, not 0."""
    with netns() as inside:
        counts = ("--established", "20", "--close-wait", "30", "--time-wait", "40")
        with running(inside.command(leaklab("holder", *counts)), tmp_path / "holder.log") as holder:
            assert holder.line() == "ready 0"
            done = run(
                inside.command(
                    [
                        sys.executable,
                        ROOT / "tests/support/refusing_sock_diag.py",
                        BIN / "loiter-agent",
                        "sample",
                        "-o",
                        "json",
                    ]
                )
            )
    assert done.returncode == 0, done.stderr
    sample = json.loads(done.stdout)
    states = sample["tcp_states"]
    assert sample["sampler"] == "psutil"
    assert (states["established"], states["close_wait"], states["time_wait"]) == (40, 30, 40)
    assert (states["new_syn_recv"], states["bound_inactive"]) == (None, None)
    assert {row["pid"]: row["close_wait"] for row in sample["processes"] if row["close_wait"]} == {holder.pid: 30}
    assert done.stderr.count("sock_diag is not to be had") == 1
    assert "Traceback" not in done.stderr
