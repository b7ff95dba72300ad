"""What `loiter simulate` refuses, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loiter_aggregator.commands import loiter
from support.aggregators import FakeClock, open_store, serving_in_background
from support.programs import free_port


def simulate(*arguments: str) -> Result:
    """Runs the command."""
    return CliRunner().invoke(loiter, ["simulate", *arguments])


def test_it_sends_to_no_other_machine_unasked() -> None:
    """Simulated hosts would stand among the real ones."""
    done = simulate("--hosts", "5", "--server", "192.0.2.1:7433")
    assert done.exit_code == 2
    assert "192.0.2.1:7433 is not on this machine" in done.stderr
    assert "--allow-remote" in done.stderr


def test_nobody_there_is_said(tmp_path: Path) -> None:
    """As the commands that ask say it, and nothing is written."""
    server = f"127.0.0.1:{free_port()}"
    done = simulate("--hosts", "5", "--server", server, "--truth", str(tmp_path / "truth.json"))
    assert done.exit_code == 1
    assert f"no aggregator answers at {server}" in done.stderr
    assert not (tmp_path / "truth.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hosts", "0"], "0 is not in the range"),
        (["--hosts", "5", "--leaking", "60%", "--busy", "50%"], "more than 100 %"),
        (["--hosts", "5", "--leaking", "-1%"], "not between 0% and 100%"),
        (["--hosts", "5", "--leaking", "many"], "not between 0% and 100%"),
        (["--hosts", "5", "--start", "2026-11-23T12:00:00Z", "--backfill", "1h"], "give one of them"),
        (["--hosts", "5", "--start", "2096-11-23T12:00:00Z"], "in the future"),
        (["--hosts", "5", "--interval", "2h"], "every 1h or more often"),
        (["--hosts", "1000000", "--workers", "1"], "ulimit -n"),
    ],
)
def test_wrong_usage_is_named(arguments: list[str], words: str) -> None:
    """With status 2, before anything is sent."""
    done = simulate(*arguments, "--server", "127.0.0.1:1")
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    """With the reason."""
    store, file = open_store(tmp_path), tmp_path / "there is no folder" / "truth.json"
    try:
        with serving_in_background(store, FakeClock()) as server:
            done = simulate("--hosts", "5", "--server", server, "--truth", str(file))
    finally:
        store.close()
    assert done.exit_code == 1
    assert f"cannot write {file}: No such file or directory" in done.stderr
    assert "Traceback" not in done.output
