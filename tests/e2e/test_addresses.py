"""Where an agent finds its aggregator: by names that come to mean another address, by several addresses in turn."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest

from support.programs import Aggregator, agent_command, ask, running, wait_until


class Elsewhere(Aggregator):
    """An aggregator on an address of the loopback network of its own."""

    def __init__(self, folder: Path, host: str, port: str) -> None:
        """Takes the address."""
        folder.mkdir()
        super().__init__(folder)
        self.server = f"{host}:{port}"


def _reports(server: str) -> int:
    hosts = ask(server, "top", "hosts")
    return int(hosts[0]["samples"]) if hosts else 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting an /etc/hosts of the agent's own takes root")
def test_a_name_is_resolved_anew_for_every_connection(tmp_path: Path) -> None:
    """An aggregator that moves takes its name along: the agent follows, and nothing is lost on the way."""
    first = Elsewhere(tmp_path / "first", "127.0.0.2", Aggregator(tmp_path).server.rpartition(":")[2])
    port = first.server.rpartition(":")[2]
    second = Elsewhere(tmp_path / "second", "127.0.0.3", port)
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.2 aggregator.test\n")
    agent = agent_command(f"aggregator.test:{port}", tmp_path, "--insecure", interval="500ms")
    inside = f"mount --bind {shlex.quote(str(hosts))} /etc/hosts && exec {shlex.join(map(str, agent))}"
    first.start()
    try:
        with running(["unshare", "--mount", "sh", "-c", inside], tmp_path / "agent.log") as program:
            program.wait_for_log("reporting to aggregator.test")
            first.stop(signal.SIGKILL)
            second.start()
            hosts.write_text("127.0.0.3 aggregator.test\n")
            program.wait_for_log("again after", 60)
            wait_until(lambda: _reports(second.server) > 1, 20, "reports at the new address")
            assert ask(second.server, "fleet")["losing_hosts"] == []
    finally:
        first.stop()
        second.stop()


def test_another_address_takes_over_within_seconds(tmp_path: Path) -> None:
    """Of two aggregators the one that stops says so, and the agent goes to the other."""
    first, second = (Elsewhere(tmp_path / name, "127.0.0.1", _free(tmp_path)) for name in ("first", "second"))
    first.start()
    second.start()
    try:
        command = agent_command(first.server, tmp_path, "--server", second.server, interval="500ms")
        with running(command, tmp_path / "agent.log") as program:
            program.wait_for_log(f"reporting to {first.server}")
            assert first.stop() == 0
            program.wait_for_log(f"reporting to {second.server}", 10)
            wait_until(lambda: _reports(second.server) > 1, 20, "reports with the other")
            assert ask(second.server, "fleet")["losing_hosts"] == []
            assert program.stop() == 0
            assert "lost" not in program.logged()
    finally:
        first.stop()
        second.stop()


def _free(folder: Path) -> str:
    return Aggregator(folder).server.rpartition(":")[2]
