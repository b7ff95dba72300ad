"""`make demo`: `make run` with programs of the leak lab, so that the ranking has something in it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from support.programs import BIN, CLEAN_ENVIRONMENT, ROOT, free_port, wait_until

# Names are cut where the columns are narrow.
LEAK_IN_RANKING = re.compile(r"^ *\d+ .* forgets.* leak ", re.MULTILINE)


def _started_with(folder: Path) -> list[str]:
    """The command lines of all processes that have this TMPDIR: the script and whatever it started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(folder):
                found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ranks_what_leaks_within_a_minute_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end every process it started and remove its files."""
    output = tmp_path / "output"
    environment = {
        **CLEAN_ENVIRONMENT,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "LOITER_LISTEN": f"127.0.0.1:{free_port()}",
    }
    with output.open("wb") as out:
        script = subprocess.Popen(
            [ROOT / "deploy/demo.sh"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    try:
        wait_until(lambda: LEAK_IN_RANKING.search(output.read_text()), 60, "the ranking has a leak in it")
        started = _started_with(tmp_path)
        for command in ("demo.sh", "loiter serve", "loiter-agent run", "loiter top", "crawler.py", "quiet_pool.py"):
            assert any(command in line for line in started), started
    finally:
        os.killpg(script.pid, number)
        script.wait(30)
    assert "Traceback" not in output.read_text()
    assert _started_with(tmp_path) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["output"]
