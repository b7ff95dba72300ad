"""Both programs as services: what they tell systemd, and that nothing but work that is done feeds their watchdog."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loiter_agent.status import Status
from support.programs import BIN, ROOT, Command, Program, agent_command, free_port, run, running, wait_until
from support.service_manager import ServiceManager


def order(messages: list[str], *kinds: str) -> list[str]:
    """The messages of some kinds, in their order, each run of one kind as one."""
    names = [kind for message in messages for kind in kinds if message.startswith(kind)]
    return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


def test_both_say_when_they_are_ready_that_they_work_and_that_they_stop(tmp_path: Path) -> None:
    """In that order; `status.json` tells of reports that were acknowledged."""
    (tmp_path / "run").mkdir()
    server = f"127.0.0.1:{free_port()}"
    serve: Command = [BIN / "loiter", "serve", "--listen", server, "--data-dir", tmp_path / "store"]
    with ServiceManager(tmp_path, "serve") as of_serve, ServiceManager(tmp_path, "agent") as of_agent:
        agent_environment = {**of_agent.environment(watchdog_seconds=1), "RUNTIME_DIRECTORY": str(tmp_path / "run")}
        with running(serve, tmp_path / "serve.log", of_serve.environment(watchdog_seconds=1)) as aggregator:
            of_serve.wait_for("READY=1")
            command = agent_command(server, tmp_path, interval="500ms")
            with running(command, tmp_path / "agent.log", agent_environment) as agent:
                of_agent.wait_for("WATCHDOG=1", 2)
                of_agent.wait_for(f"STATUS=reporting to {server}, ")
                status = Status.read(tmp_path / "run/status.json")
                agent.process.send_signal(signal.SIGHUP)
                of_agent.wait_for("READY=1", 2)
                assert agent.stop() == 0
            of_serve.wait_for("STATUS=1 agents connected")
            # As a service it is started again, with the settings of then. Where it is ignored, it was never sent.
            ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert aggregator.stop(signal.SIGTERM if ignored else signal.SIGHUP) == 0
        said = order(of_agent.heard(), "EXTEND_TIMEOUT_USEC", "READY", "WATCHDOG=1", "RELOADING", "STOPPING")
        assert said[:5] == ["EXTEND_TIMEOUT_USEC", "READY", "WATCHDOG=1", "RELOADING", "READY"]
        assert "STOPPING" in said[5:], "after which a tick under way may end"
        assert any(re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", message) for message in of_agent.heard())
        assert "WATCHDOG_USEC=2000000" in of_agent.heard(), "four intervals are more than the second of the unit"
        said = order(of_serve.heard(), "EXTEND_TIMEOUT_USEC", "READY", "WATCHDOG=1", "STOPPING")
        assert said[:4] == ["EXTEND_TIMEOUT_USEC", "READY", "WATCHDOG=1", "STOPPING"]
    assert (status.pid, status.server, status.connected, status.error) == (agent.pid, server, True, None)
    assert status.acknowledged_reports >= 1
    assert status.last_acknowledged_at is not None
    assert status.ticks >= 1
    assert status.last_tick_at is not None


def test_the_first_tick_comes_at_once_where_somebody_waits_for_it(tmp_path: Path) -> None:
    """Without an aggregator, too: it is ready once it samples, and says in its status what is wrong."""
    server = f"127.0.0.1:{free_port()}"
    with ServiceManager(tmp_path) as manager:
        command = agent_command(server, tmp_path, interval="30m")
        with running(command, tmp_path / "agent.log", manager.environment(watchdog_seconds=30)) as agent:
            manager.wait_for("READY=1")
            manager.wait_for("WATCHDOG_USEC=7200000000")
            manager.wait_for(f"STATUS=cannot report to {server} (UNAVAILABLE: ")
            agent.stop(signal.SIGKILL)  # it would try for some seconds to send what waits


@contextmanager
def hung_tick(agent: Program) -> Iterator[None]:
    """Hangs the next tick of an agent for as long as the block lasts, or the agent."""
    command: list[str | Path] = [sys.executable, ROOT / "tests/support/hang_tick.py", str(agent.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hanging:
        try:
            assert hanging.stdout is not None
            assert hanging.stdout.readline().startswith("hung ")
            yield
        finally:
            hanging.kill()


def test_a_tick_that_hangs_starves_the_watchdog_which_ends_the_agent(tmp_path: Path) -> None:
    """All else goes on, and nothing else may feed it. SIGABRT ends the agent at once, and it says where it hung."""
    with ServiceManager(tmp_path) as manager:
        command = agent_command(f"127.0.0.1:{free_port()}", tmp_path, interval="500ms")
        with running(command, tmp_path / "agent.log", manager.environment(watchdog_seconds=1)) as agent:
            manager.wait_for("WATCHDOG=1", 2)
            with hung_tick(agent):
                fed = manager.count("WATCHDOG=1")
                agent.process.send_signal(signal.SIGHUP)
                agent.wait_for_log("settings reloaded")
                wait_until(lambda: manager.heard()[-1] == "READY=1", 10, "the event loop goes on")
                with pytest.raises(subprocess.TimeoutExpired):
                    agent.process.wait(1.2)  # two intervals and more
                assert manager.count("WATCHDOG=1") == fed
                assert agent.stop(signal.SIGABRT, 5) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in agent.logged()
    assert re.search(r'File ".*sampler.py", line \d+ in sample', agent.logged())


def test_the_log_of_both_can_be_json(tmp_path: Path) -> None:
    """From the first line to the last, also where they end because of a setting."""
    commands: tuple[list[str | Path], ...] = (
        [BIN / "loiter-agent", "run", "--log-format", "json", "--interval", "none"],
        [BIN / "loiter", "serve", "--log-format", "json", "--listen", "none", "--data-dir", tmp_path],
    )
    for command in commands:
        done = run(command)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        line = json.loads(done.stderr)
        assert line["level"] == "critical"
        assert "'none' is not" in line["message"]
