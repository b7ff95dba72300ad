"""A service that fails again and again is not started every few seconds, also by a systemd that can not wait longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loiter import restart_pause
from support.service_manager import ServiceManager


def test_the_pause_grows_and_leaves_time_to_end_within_the_start_timeout() -> None:
    """90 s is the shorter one."""
    assert [restart_pause.seconds_after(failures) for failures in range(7)] == [0, 5, 10, 20, 40, 60, 60]
    assert restart_pause.seconds_after(10**9) == restart_pause.MAX_SECONDS


def test_only_the_same_failure_of_a_service_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who starts the program, or another mistake in the settings, is answered at once."""
    waited: list[float] = []
    monkeypatch.setattr(signal, "sigtimedwait", lambda _, seconds: waited.append(seconds))
    with ServiceManager(tmp_path) as manager:
        service = {**manager.environment(), "STATE_DIRECTORY": str(tmp_path)}
        restart_pause.pause({"STATE_DIRECTORY": str(tmp_path)}, "a typo")
        assert list(tmp_path.glob("failed-*")) == []
        for message in ("a typo", "a typo", "a typo", "another", "another"):
            restart_pause.pause(service, message)
        assert waited == [5, 10, 5]
        assert manager.heard()[0] == "STATUS=a typo; ends in 5 s, to be started again"
        restart_pause.forget(service)
        restart_pause.pause(service, "another")
    assert waited == [5, 10, 5], "it was up in the meantime"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, 2)], ids=["SIGTERM", "SIGHUP"]
)
@pytest.mark.parametrize("program", ["agent", "aggregator"])
def test_a_signal_ends_the_pause(tmp_path: Path, program: str, number: signal.Signals, status: int) -> None:
    """A stop or a restart by hand does not wait for it."""
    settings = tmp_path / "settings.toml"
    settings.write_text("intervall = 5\n")
    (tmp_path / "failed-starts").write_text("x")
    words = {
        "agent": ("loiter_agent", "run", "--config"),
        "aggregator": ("loiter_aggregator", "serve", "--config"),
    }[program]
    with ServiceManager(tmp_path) as manager:
        environment = {**os.environ, **manager.environment(), "STATE_DIRECTORY": str(tmp_path)}
        command = [sys.executable, "-m", *words, str(settings)]
        first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert first.returncode == 2
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as second:
            manager.wait_for("STATUS=")
            second.send_signal(number)
            assert second.wait(3) == status, "and not after 5 s"
    assert "intervall" in first.stderr


def test_an_agent_that_is_told_to_read_its_settings_before_it_has_does_not_end(tmp_path: Path) -> None:
    """By default, SIGHUP ends a process."""
    settings = tmp_path / "settings"
    os.mkfifo(settings)
    command = [sys.executable, "-m", "loiter_agent", "run", "--config", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
        with settings.open("w") as said:  # the agent has come to its settings
            agent.send_signal(signal.SIGHUP)
            said.write("intervall = 5\n")
        _, errors = agent.communicate(timeout=20)
    assert agent.returncode == 2
    assert "intervall" in errors
