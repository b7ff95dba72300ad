"""What people get to see when something is wrong: what failed, where, what to do, and an exit status. No traceback."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.programs import BIN, Aggregator, agent_command, aggregator, free_port, loiter, run, running, wait_until

AGENT, LOITER = BIN / "loiter-agent", BIN / "loiter"


def _failed(done: subprocess.CompletedProcess[str], status: int, *texts: str) -> None:
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ((AGENT, "run", "--intervall", "3s"), "--intervall"),
        ((AGENT, "run", "--interval", "3"), "is not a duration"),
        ((AGENT, "run", "--interval", "1ms"), "is not between"),
        ((AGENT, "run", "--server", "nowhere"), "is not HOST:PORT"),
        ((AGENT, "run", "--cpu-budget", "0.02"), "is not a percentage such as 2%"),
        ((AGENT, "run", "--ca", "/nowhere/ca.pem"), "tls.ca: cannot read /nowhere/ca.pem: No such file"),
        ((AGENT, "run", "--ca", "/etc/passwd"), "/etc/passwd: does not hold a certificate in PEM"),
        ((AGENT, "run", "--certificate", "/nowhere/host.pem"), "tls.certificate is of no use without tls.key"),
        ((AGENT, "run", "--key", "/nowhere/host.key"), "tls.key is of no use without tls.certificate"),
        ((AGENT, "run", "--token-file", "/etc"), "token_file: cannot read /etc: Is a directory"),
        ((AGENT, "run", "--label", "role"), "key=value"),
        ((AGENT, "sample", "-o", "yaml"), "invalid choice"),
        ((AGENT, "frobnicate"), "frobnicate"),
        ((AGENT,), "required"),
        ((LOITER, "frobnicate"), "frobnicate"),
        ((LOITER, "top", "cats"), "cats"),
        ((LOITER, "top", "hosts", "--by", "beauty"), "beauty"),
        ((LOITER, "top", "hosts", "--window", "soon"), "is not a duration"),
        ((LOITER, "top", "hosts", "--limit", "0"), "0"),
        ((LOITER, "top", "hosts", "--label", "role"), "key=value"),
        ((LOITER, "top", "hosts", "--server", "nowhere"), "is not HOST:PORT"),
        ((LOITER, "serve", "--listen", "nowhere"), "is not HOST:PORT"),
        ((LOITER, "serve", "--listen", "0.0.0.0:7433"), "not encrypted"),
    ],
)
def test_wrong_usage_exits_2_and_names_what_is_wrong(command: Sequence[str | Path], text: str) -> None:
    """Unknown flags and verbs, and values that can not be."""
    _failed(run(command), 2, text)


@pytest.mark.parametrize("program", ["agent", "aggregator"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("interval = \n", "not valid TOML"),
        ('# a comment\nlog_lebel = "info"\n', ":2: log_lebel: unknown setting; did you mean log_level?"),
        ('\n\nlog_level = "loud"\n', ":3: log_level: 'loud' is not one of"),
        ("[nonsense]\na = 1\n", "nonsense"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_bad_settings_file_is_named_with_line_and_key(
    tmp_path: Path, program: str, content: str | bytes, text: str
) -> None:
    """The same for both programs, in one line: the flags are good."""
    file = tmp_path / "settings.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run([*_runs(program, tmp_path), "--config", file])
    _failed(done, 2, str(file), text)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("program", ["agent", "aggregator"])
def test_a_settings_file_that_can_not_be_read_is_named(tmp_path: Path, program: str) -> None:
    """Missing, or no file at all."""
    command = _runs(program, tmp_path)
    _failed(run([*command, "--config", tmp_path / "none.toml"]), 2, "none.toml", "No such file")
    _failed(run([*command, "--config", tmp_path]), 2, str(tmp_path), "Is a directory")


def _runs(program: str, folder: Path) -> list[str | Path]:
    return [AGENT, "run"] if program == "agent" else [LOITER, "serve", "--data-dir", folder / "store"]


def test_a_wrong_environment_variable_is_named() -> None:
    """Both a bad value and a slip in the name."""
    _failed(run([AGENT, "sample"], {"LOITER_INTERVAL": "fast"}), 2, "LOITER_INTERVAL")
    _failed(run([AGENT, "sample"], {"LOITER_INTERVALL": "3s"}), 2, "did you mean LOITER_INTERVAL?")


def test_an_aggregator_that_is_down_is_said_once(tmp_path: Path) -> None:
    """The agent keeps sampling: when the aggregator comes, it gets what was taken before."""
    server = Aggregator(tmp_path)
    with running(agent_command(server.server, tmp_path, interval="500ms"), tmp_path / "agent.log") as agent:
        agent.wait_for_log("cannot report to")
        server.start()
        try:
            agent.wait_for_log("again after", 60)
            assert agent.logged().count("cannot report to") == 1
            assert "Traceback" not in agent.logged()
        finally:
            server.stop()


def test_asking_an_aggregator_that_is_down_exits_1() -> None:
    """With where it was looked for."""
    server = f"127.0.0.1:{free_port()}"
    for verb in (("top", "hosts"), ("fleet",), ("host", "web-1")):
        _failed(loiter(*verb, server=server), 1, f"no aggregator answers at {server}")


def test_a_port_or_store_in_use_is_named(tmp_path: Path) -> None:
    """A second aggregator on the same port, and on the same folder."""
    with aggregator(tmp_path) as first:
        port = run([LOITER, "serve", "--listen", first.server, "--data-dir", tmp_path / "other"])
        _failed(port, 1, first.server, "in use")
        elsewhere = f"127.0.0.1:{free_port()}"
        folder = run([LOITER, "serve", "--listen", elsewhere, "--data-dir", tmp_path / "store"])
        _failed(folder, 1, "in use by another process")


def test_a_folder_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    """The aggregator's store below a file."""
    (tmp_path / "file").write_text("")
    _failed(run([LOITER, "serve", "--data-dir", tmp_path / "file/store"]), 1, "file/store")


def test_an_unknown_host_exits_1_with_near_misses(tmp_path: Path) -> None:
    """The names that come close are offered."""
    with (
        aggregator(tmp_path) as server,
        running(
            agent_command(server.server, tmp_path, "--hostname", "web-17", interval="500ms"), tmp_path / "agent.log"
        ),
    ):
        wait_until(lambda: "web-17" in loiter("top", "hosts", server=server.server).stdout, 20, "the agent reports")
        _failed(loiter("host", "web-71", server=server.server), 1, "no host 'web-71'", "did you mean web-17?")
