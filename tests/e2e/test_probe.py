"""`loiter-agent check` and `install` try an aggregator as the agent would report to it, and report nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from loiter.transport import Security
from loiter_agent.probe import Probe, Verdict, probe
from loiter_aggregator.access import tokens
from loiter_aggregator.access.principal import Right
from loiter_aggregator.install.serving import Door, wait_until_serving, why_not_serving
from support.certificates import Pki
from support.programs import BIN, Program, free_port, running


class Aggregator:
    """One that serves by TLS and asks for tokens."""

    def __init__(self, folder: Path, pki: Pki, server: str, program: Program) -> None:
        self.folder, self.pki, self.server, self.program = folder, pki, server, program

    def token(self, right: Right) -> Path:
        """A file with a token."""
        file = self.folder / right.value
        if not file.exists():
            file.write_text(
                tokens.add(self.folder / "store/tokens.json", right.value, right, None, datetime.now(UTC)) + "\n"
            )
            file.chmod(0o600)
        return file


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aggregator]:
    """A real one."""
    folder = tmp_path_factory.mktemp("aggregator")
    pki, server = Pki(folder / "ca"), f"127.0.0.1:{free_port()}"
    (folder / "store").mkdir()
    tokens.add(folder / "store/tokens.json", "somebody", Right.READ, None, datetime.now(UTC))
    command: list[str | Path] = [BIN / "loiter", "serve", "--listen", server, "--data-dir", folder / "store"]
    command += ["--certificate", pki.server.certificate, "--key", pki.server.key]
    with running(command, folder / "log") as program:
        program.wait_for_log("store in")
        yield Aggregator(folder, pki, server, program)
        assert program.stop() == 0
        assert "Traceback" not in program.logged()
        with duckdb.connect(str(folder / "store/loiter.duckdb"), read_only=True) as store:
            assert store.execute("SELECT count(*) FROM host").fetchall() == [(0,)]


def test_an_agent_with_a_good_token_is_let_in_and_told_the_time(aggregator: Aggregator) -> None:
    tried = probe(aggregator.server, Security(ca=aggregator.pki.ca, token_file=aggregator.token(Right.INGEST)))
    assert (tried.verdict, tried.words) == (Verdict.ADMITTED, "lets this agent report, by TLS, with its token")
    assert tried.skew_seconds is not None
    assert abs(tried.skew_seconds) < 5
    assert "without a hello" not in aggregator.program.logged()


def test_whoever_shows_nothing_or_the_wrong_thing_is_refused_with_the_reason(aggregator: Aggregator) -> None:
    ca, reader = aggregator.pki.ca, aggregator.token(Right.READ)
    for security, words in (
        (Security(ca=ca), "token"),
        (Security(ca=ca, token_file=reader), "allows read, not ingest"),
        (Security(ca=ca, token_file=aggregator.folder / "none"), "cannot read"),
        (Security(insecure=True), "the server speaks TLS, and it was asked in plaintext"),
    ):
        tried = probe(aggregator.server, security)
        assert tried.verdict is Verdict.REFUSED, tried
        assert words in tried.words


def test_a_certificate_of_another_authority_or_name_is_refused_with_the_reason(
    aggregator: Aggregator, tmp_path: Path
) -> None:
    stranger = probe(aggregator.server, Security(ca=Pki(tmp_path, "stranger").ca))
    assert stranger.verdict is Verdict.REFUSED
    assert "the server's certificate is issued by 'loiter', an authority that" in stranger.words
    port = aggregator.server.rpartition(":")[2]
    renamed = probe(f"127.0.0.2:{port}", Security(ca=aggregator.pki.ca))
    assert renamed.verdict in (Verdict.AWAY, Verdict.REFUSED)


def test_nobody_there_is_told_from_a_name_that_leads_nowhere() -> None:
    port = free_port()
    assert probe(f"127.0.0.1:{port}", Security()) == Probe(
        f"127.0.0.1:{port}", Verdict.AWAY, f"127.0.0.1 port {port}: Connection refused"
    )
    assert "no-such-host.invalid can not be resolved" in probe("no-such-host.invalid:1", Security()).words


def test_something_else_that_listens_is_no_aggregator() -> None:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        tried = probe(f"127.0.0.1:{silent.getsockname()[1]}", Security(), timeout=0.5)
        assert tried.verdict is not Verdict.ADMITTED
        assert time.monotonic() - began < 10


def test_the_installer_tells_an_aggregator_that_serves_from_one_that_does_not(aggregator: Aggregator) -> None:
    own = aggregator.pki.server.certificate
    assert why_not_serving(Door(aggregator.server, own, aggregator.pki.ca, "localhost")) is None
    assert why_not_serving(Door(aggregator.server, own, None, "localhost")) is None
    assert "shows another certificate" in (why_not_serving(Door(aggregator.server, aggregator.pki.ca)) or "")
    closed = f"127.0.0.1:{free_port()}"
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert "does not answer" in (wait_until_serving(Door(closed), 1.0, lambda: now[0], sleep) or "")
    assert now[0] == 1.0
    assert Door("0.0.0.0:7433").address == "127.0.0.1:7433"
    assert Door("[::]:7433").address == "[::1]:7433"
    assert Door("10.0.0.1:7433").address == "10.0.0.1:7433"
