"""`make run`: an aggregator and an agent of this machine, and the live ranking until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from support.programs import BIN, CLEAN_ENVIRONMENT, ROOT, free_port, wait_until


def _started_with(folder: Path) -> list[str]:
    """The command lines of all processes that have this TMPDIR: the script and whatever it started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(folder):
                found.append(" ".join(process.cmdline()))
    return found


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
        "LOITER_HTTP": (page := f"127.0.0.1:{free_port()}"),
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
        wait_until(lambda: b"CLOSE_WAIT" in output.read_bytes(), 40, "the ranking is shown")
        started = _started_with(tmp_path)
        for command in ("run-local.sh", "loiter serve", "loiter-agent run", "loiter top"):
            assert any(command in line for line in started), started
        with urllib.request.urlopen(f"http://{page}/readyz", timeout=10) as answer:
            assert answer.status == 200
    finally:
        os.killpg(script.pid, number)
        script.wait(30)
    assert os.uname().nodename.split(".")[0] in output.read_text()
    assert f"web page: http://{page}/" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert _started_with(tmp_path) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["output"]
