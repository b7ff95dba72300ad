"""One release beside the next: agents, aggregators and command lines that are a minor version apart, and upgrades.

The release before this one is a wheel in tests/fixtures/releases. It runs on the libraries of this one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loiter.version import version
from support.audit import check_accounts, stored
from support.certificates import Pki
from support.programs import ROOT, Program, free_port, run, running, wait_until
from support.reports import host_id
from support.side_by_side import side_by_side
from support.spools import waiting

(WHEEL,) = (ROOT / "tests/fixtures/releases").glob("loiter-*-py3-none-any.whl")
SECONDS = 30
# Reports that an agent has and nobody takes.
MANY = 3


@dataclass(frozen=True)
class Release:
    """The programs of one release."""

    version: str
    environment: dict[str, str] = field(default_factory=dict)

    def loiter(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs the command line."""
        return run([sys.executable, "-m", "loiter_aggregator", *words], self.environment)

    def ask(self, server: str, *words: str | Path) -> Any:
        """What the command line answers. Fails where it fails."""
        done = self.loiter(*words, "-o", "json", "--server", server)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def serving(self, folder: Path, *flags: str | Path) -> Iterator[tuple[Program, str]]:
        """Runs an aggregator on a store, and yields it and its address."""
        server = f"127.0.0.1:{free_port()}"
        command: list[str | Path] = [sys.executable, "-m", "loiter_aggregator", "serve", "--listen", server]
        command += ["--data-dir", folder / "store", *flags]
        with running(command, folder / f"aggregator-{self.version}.log", self.environment) as program:
            program.wait_for_log("store in", SECONDS)
            yield program, server
            assert "Traceback" not in program.logged()

    @contextmanager
    def reporting(self, name: str, server: str, folder: Path, *flags: str | Path) -> Iterator[Program]:
        """Runs the agent of a host, every half second."""
        command: list[str | Path] = [sys.executable, "-m", "loiter_agent", "run", "--server", server]
        command += ["--hostname", name, "--interval", "500ms", "--cpu-budget", "100%", "--label", "role=web"]
        command += ["--state-dir", folder / name, *flags]
        environment = {"LOITER_HOST_ID": host_id(name), **self.environment}
        with running(command, folder / f"{name}-{self.version}.log", environment) as program:
            yield program
            assert "Traceback" not in program.logged()


NEW = Release(version())


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release before, as its wheel has it."""
    folder = tmp_path_factory.mktemp("release")
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    release = Release(WHEEL.name.split("-")[1], {"PYTHONPATH": str(folder)})
    for program in ("loiter_agent", "loiter_aggregator"):
        done = run([sys.executable, "-m", program, "--version"], release.environment)
        assert done.stdout.split()[-1] == release.version
    return release


def test_the_release_before_is_one_minor_version_before(old: Release) -> None:
    """Whoever makes a release puts its wheel where the one before was: see the README there."""
    (major, minor), before = map(int, version().split(".")[:2]), tuple(map(int, old.version.split(".")[:2]))
    assert before == (major, minor - 1) if minor else before[0] == major - 1


def test_two_releases_work_beside_each_other_and_one_after_the_other(old: Release, tmp_path: Path) -> None:
    """Older agents with a newer aggregator, the other way round, and an upgrade of both."""
    cases = {
        "an older agent": lambda folder: check_together(NEW, old, folder),
        "an older aggregator": lambda folder: check_together(old, NEW, folder),
        "an upgrade": lambda folder: check_upgrade(old, folder),
    }
    side_by_side(lambda case, folder: cases[case](folder), list(cases), tmp_path)


def check_together(aggregator: Release, agent: Release, folder: Path) -> None:
    """The agent reports to the aggregator, and the command lines of both releases ask it."""
    with aggregator.serving(folder) as (_, server), agent.reporting("web-1", server, folder) as program:
        program.wait_for_log(f"reporting to {server}", SECONDS)
        for asker in (agent, aggregator):
            check_answers(asker, aggregator, server, agent, program)
        check_alerts(NEW.loiter("alerts", "-o", "json", "--server", server), aggregator, server)
        assert "cannot report" not in program.logged()


def check_answers(asker: Release, aggregator: Release, server: str, agent: Release, program: Program) -> None:
    """All that the older of the three knows is there: the host with its labels and processes, and the fleet."""
    host = asker.ask(server, "host", "web-1", "--limit", "999")
    assert host["samples"] >= 1
    assert (host["host"], host["agent_version"], host["labels"]) == ("web-1", agent.version, {"role": "web"})
    assert host["tcp_states"]["listen"] >= 2
    assert host["cost"]["cpu_seconds"] > 0
    assert any(row["pid"] == program.pid for row in host["processes"])
    fleet = asker.ask(server, "fleet")
    assert (fleet["aggregator"]["version"], fleet["aggregator"]["reports_rejected"]) == (aggregator.version, 0)
    assert (fleet["coverage"]["hosts"], fleet["coverage"]["hosts_reporting"]) == (1, 1)


def check_alerts(asked: subprocess.CompletedProcess[str], aggregator: Release, server: str) -> None:
    """An older aggregator knows no alerts: what it is, and what to do, is said."""
    if aggregator is NEW:
        assert (asked.returncode, asked.stderr) == (0, "")
        assert json.loads(asked.stdout) is not None
        return
    assert (asked.returncode, asked.stdout) == (1, "")
    assert asked.stderr == (
        f"Error: the aggregator at {server} is of release {aggregator.version}, which does not know this question; "
        f"upgrade it to {version()}, the release of this command\n"
    )


def check_upgrade(old: Release, folder: Path) -> None:
    """The aggregator and an agent are killed with -9, another agent is stopped, and the next release goes on.

    Rows, tokens and marks are kept, all that waits is delivered, and nothing comes twice.
    """
    pki = Pki(folder / "ca")
    tls = ("--certificate", pki.server.certificate, "--key", pki.server.key)
    reader, ingest = (token(old, right, folder) for right in ("read", "ingest"))
    flags = ("--ca", pki.ca, "--token-file")
    names = ("web-1", "web-2")
    with ExitStack() as stack:
        program, server = stack.enter_context(old.serving(folder, *tls))
        killed, stopped = (stack.enter_context(old.reporting(name, server, folder, *flags, ingest)) for name in names)
        for agent in (killed, stopped):
            agent.wait_for_log(f"reporting to {server}", SECONDS)
        program.stop(signal.SIGKILL)
        wait_until(lambda: spooled(folder, "web-2"), SECONDS, "a report waits")
        stopped.process.send_signal(signal.SIGTERM)
        wait_until(lambda: len(spooled(folder, "web-1")) >= MANY, SECONDS, "reports wait")
        killed.stop(signal.SIGKILL)
        assert stopped.stop() == 0
        unsent = {name: spooled(folder, name) for name in names}
        assert f"{len(unsent['web-2'])} reports stay in the spool" in stopped.logged()
    before = whole(folder)
    with ExitStack() as stack:
        program, server = stack.enter_context(NEW.serving(folder, *tls))
        asker = (*flags, reader)
        for row in NEW.ask(server, "top", "hosts", *asker):
            assert row["samples"] == len(before[row["host"]])
        assert NEW.ask(server, "host", "web-1", *asker)["agent_version"] == old.version
        agents = [stack.enter_context(NEW.reporting(name, server, folder, *flags, ingest)) for name in names]
        for name in names:
            wait_until(lambda name=name: gone(unsent[name], folder, name), SECONDS, "all is acknowledged")  # type: ignore[misc]
        assert NEW.ask(server, "host", "web-1", *asker)["agent_version"] == version()
        assert [agent.stop() for agent in agents] == [0, 0]
        assert program.stop() == 0
    after = whole(folder)
    for name in names:
        assert before[name], "the older agent has reported"
        assert before[name] | unsent[name] <= after[name]
        epochs = {epoch for epoch, _ in before[name] | unsent[name]}
        assert {epoch for epoch, _ in after[name]} > epochs, "the newer agent has reported, too"


def token(release: Release, right: str, folder: Path) -> Path:
    """A file with a token that the release has made."""
    file = folder / right
    file.touch(0o600)
    done = release.loiter("token", "add", right, "--right", right, "--data-dir", folder / "store")
    assert done.returncode == 0, done.stderr
    file.write_text(done.stdout)
    return file


def spooled(folder: Path, name: str) -> set[tuple[int, int]]:
    """The reports that wait on the disk of an agent, by epoch and sequence."""
    return set(waiting(folder / name, folder))


def gone(reports: set[tuple[int, int]], folder: Path, name: str) -> bool:
    """Whether none of these waits any more. A spool that changed as it was looked at is as good as empty."""
    return all(not reports & spooled(folder, name) for _ in range(2))


def whole(folder: Path) -> dict[str, set[tuple[int, int]]]:
    """The reports that the store has of each host, by epoch and sequence: none twice, no holes, nothing lost."""
    found = stored(folder / "store/loiter.duckdb")
    check_accounts(found.values())
    assert not any(one.lost for one in found.values())
    return {
        name: {(epoch, number) for epoch, sequences in one.epochs.items() for number in sequences}
        for name, one in found.items()
    }
