"""`make run`: an aggregator and an agent of this machine, and the live ranking until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from support.programs import BIN, CLEAN_ENVIRONMENT, ROOT, free_port, wait_until


def _session_processes(session: int) -> list[str]:
    listing = subprocess.run(["ps", "-ewwo", "sid=,pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if line.split()[0] == str(session)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_shows_this_machine_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end every process it started and remove its files."""
    output = tmp_path / "output"
    environment = {
        **CLEAN_ENVIRONMENT,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "LOITER_LISTEN": (address := f"127.0.0.1:{free_port()}"),
        "LOITER_SERVER": address,
    }
    with output.open("wb") as out:
        script = subprocess.Popen(
            [ROOT / "deploy/run-local.sh"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    try:
        wait_until(lambda: b"CLOSE-WAIT" in output.read_bytes(), 40, "the ranking is shown")
        started = subprocess.run(["ps", "-ewwo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        mine = [line.split()[0] for line in started.splitlines() if str(tmp_path) in line]
        assert len(mine) >= 2, started
    finally:
        os.killpg(script.pid, number)
        script.wait(30)
    assert os.uname().nodename.split(".")[0] in output.read_text()
    assert "Traceback" not in output.read_text()
    wait_until(lambda: not _session_processes(script.pid), 10, "the script's processes are gone")
    for pid in mine:
        assert not Path(f"/proc/{pid}").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["output"]
