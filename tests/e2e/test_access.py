"""Who gets in, and who does not: real agents and a real aggregator, by TLS, with certificates and tokens.

Each refusal has to say why in the log of both sides, and leave nothing in the store.
"""

from __future__ import annotations

import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from loiter.transport import Security
from loiter_aggregator.access import tokens
from loiter_aggregator.access.principal import Right
from support.certificates import LONG_AGO, Pki, self_signed
from support.programs import (
    BIN,
    Program,
    agent_command,
    ask,
    free_port,
    loiter,
    run,
    running,
    wait_until,
)
from support.side_by_side import side_by_side

SECONDS = 60


@dataclass
class Fleet:
    """An aggregator, and agents with a folder each."""

    folder: Path
    server: str
    readers: str
    program: Program

    @property
    def port(self) -> str:
        return self.server.rpartition(":")[2]

    @property
    def tokens(self) -> Path:
        return self.folder / "store/tokens.json"

    def logged(self) -> str:
        return self.program.logged()

    @contextmanager
    def agent(
        self, name: str, security: Security, hostname: str | None = None, host: str = "127.0.0.1", token: str = ""
    ) -> Iterator[Program]:
        """An agent whose host id says which of them it is."""
        folder = self.folder / name
        folder.mkdir()
        flags: list[str] = ["--hostname", hostname or name]
        for flag, file in (("--ca", security.ca), ("--certificate", security.certificate), ("--key", security.key)):
            flags += [flag, str(file)] if file is not None else []
        if token:
            (folder / "token").write_text(token)
            (folder / "token").chmod(0o600)
            flags += ["--token-file", str(folder / "token")]
        command = agent_command(f"{host}:{self.port}", folder, *flags, interval="1s")
        environment = {"LOITER_HOST_ID": f"{abs(hash(name)):032x}"[-32:]}
        with running(command, folder / "agent.log", environment) as program:
            yield program

    def stored(self) -> set[str]:
        """Stops the aggregator, and returns the names of the hosts of which there is anything."""
        assert self.program.stop() == 0, self.logged()
        with duckdb.connect(str(self.folder / "store/loiter.duckdb"), read_only=True) as store:
            known = {row[0] for row in store.execute("SELECT hostname FROM host").fetchall()}
            (strangers,) = store.execute(
                "SELECT count(*) FROM host_sample WHERE host_key NOT IN (SELECT host_key FROM host)"
            ).fetchone() or (None,)
        assert strangers == 0
        return known


@contextmanager
def fleet(folder: Path, *flags: str | Path) -> Iterator[Fleet]:
    """Runs an aggregator with a read token for `ask`, which these tests have in their folder."""
    server, readers = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    (folder / "store").mkdir()
    made = tokens.add(folder / "store/tokens.json", "reader", Right.READ, None, datetime.now(UTC))
    (folder / "reader").write_text(made)
    (folder / "reader").chmod(0o600)
    command = [
        *(BIN / "loiter", "serve", "--listen", server, "--listen-readers", readers),
        *("--data-dir", folder / "store", *flags),
    ]
    with running(command, folder / "aggregator.log") as program:
        program.wait_for_log("store in", SECONDS)
        yield Fleet(folder, server, readers, program)
        assert "Traceback" not in program.logged()


def tls_flags(pki: Pki, *, mutual: bool) -> list[str | Path]:
    flags: list[str | Path] = ["--certificate", pki.server.certificate, "--key", pki.server.key]
    return [*flags, "--client-ca", pki.ca, "--revoked", pki.folder / "revoked.txt"] if mutual else flags


def reader_flags(one: Fleet, pki: Pki) -> list[str]:
    return ["--ca", str(pki.ca), "--token-file", str(one.folder / "reader")]


def reports(one: Fleet, pki: Pki) -> set[str]:
    """The hosts that the command line shows to a reader."""
    rows = ask(one.readers, "top", "hosts", "--window", "5m", *reader_flags(one, pki))
    return {row["host"] for row in rows}


def test_agents_without_a_good_certificate_are_refused(tmp_path: Path) -> None:
    """Eight that are refused, each for a reason of its own, and one that is not."""
    pki, other = Pki(tmp_path / "ca"), Pki(tmp_path / "other", "another authority")
    pki.renew_server("127.0.0.1")
    good = pki.agent("web-0")
    stranger = other.agent("web-4")
    refused = "the server refuses this side's certificate"
    cases = {
        # name: what it is set to, what its log says, what the aggregator's log says
        "wrong-ca": (
            Security(other.ca, good.certificate, good.key),
            "the server's certificate is issued by 'loiter', an authority that",
            "it hung up in the middle, as one does that does not trust this aggregator's certificate",
        ),
        "expired": (pki.agent("expired", ago=LONG_AGO), "has expired on 20", "its certificate has expired"),
        "self-signed": (
            Security(pki.ca, *self_signed(tmp_path, "self-signed")),
            "is self-signed",
            "its certificate is self-signed",
        ),
        "stranger": (
            Security(pki.ca, stranger.certificate, stranger.key),
            "is issued by 'another authority', an authority that",
            "its certificate is issued by an authority that tls.client_ca does not hold",
        ),
        "none": (
            Security(pki.ca),
            "the server asks for a certificate, and none is configured",
            "it shows no certificate",
        ),
        "plaintext": (Security(), "the server speaks TLS, and it was asked in plaintext", "it speaks no TLS"),
        "as-server": (
            Security(pki.ca, pki.server.certificate, pki.server.key),
            f"{refused}: {pki.server.certificate} is not made for clients",
            "its certificate is not made for clients",
        ),
        "web-2": (pki.agent("web-1"), "the certificate is for web-1, not for web-2", "the certificate is for web-1"),
    }
    with fleet(tmp_path, *tls_flags(pki, mutual=True)) as one, ExitStack() as stack:
        agents = {name: stack.enter_context(one.agent(name, case[0])) for name, case in cases.items()}
        stack.enter_context(one.agent("web-0", good))
        for name, (_, said, heard) in cases.items():
            agents[name].wait_for_log(said, SECONDS)
            one.program.wait_for_log(heard, SECONDS)
        assert refused in agents["expired"].logged()
        wait_until(lambda: reports(one, pki) == {"web-0"}, SECONDS, "the good one reports")
        for agent in agents.values():
            assert "reporting to" not in agent.logged()
            agent.process.kill()  # by SIGTERM, each would try for three more seconds
        stack.close()
        assert one.stored() == {"web-0"}


def test_an_agent_reports_to_no_server_of_another_name(tmp_path: Path) -> None:
    """A server with a good certificate, for another host."""
    pki = Pki(tmp_path / "ca")
    pki.renew_server("127.0.0.1")
    with fleet(tmp_path, *tls_flags(pki, mutual=True)) as one:
        with one.agent("web-1", pki.agent("web-1"), host="localhost") as agent:
            agent.wait_for_log("the server's certificate is for 127.0.0.1, not for localhost", SECONDS)
            agent.process.kill()
        assert one.stored() == set()


def test_agents_without_a_good_token_are_refused(tmp_path: Path) -> None:
    """A token for reading, none, one that is unknown, has expired or was revoked; and one that is good."""
    pki = Pki(tmp_path / "ca")
    now = datetime.now(UTC)
    with fleet(tmp_path, *tls_flags(pki, mutual=False)) as one, ExitStack() as stack:

        def token(name: str, right: Right = Right.INGEST, ago: bool = False) -> str:
            return tokens.add(one.tokens, name, right, 60.0 if ago else None, now - LONG_AGO if ago else now)

        cases = {
            "reads": (token("alice", Right.READ), "token alice allows read, not ingest"),
            "none": ("", "no token: this needs one with the right to ingest"),
            "unknown": (f"loiter_00000000_{'0' * 64}", "the token is unknown"),
            "expired": (token("old", ago=True), "token old expired on 20"),
            "revoked": (token("lost"), "token lost was revoked on 20"),
        }
        tokens.revoke(one.tokens, "lost", now)
        agents = {
            name: stack.enter_context(one.agent(name, Security(pki.ca), token=text))
            for name, (text, _) in cases.items()
        }
        stack.enter_context(one.agent("web-0", Security(pki.ca), token=token("agents")))
        for name, (_, said) in cases.items():
            agents[name].wait_for_log(said, SECONDS)
            assert f"cannot report to {one.server}" in agents[name].logged()
            assert f"127.0.0.1 refused at StreamReports: {said}" in one.logged()
        wait_until(lambda: reports(one, pki) == {"web-0"}, SECONDS, "the good one reports")
        for text, _ in cases.values():
            assert not text or text not in one.logged()
        for agent in agents.values():
            agent.process.kill()
        stack.close()
        assert one.stored() == {"web-0"}


def test_what_is_revoked_ends_a_stream(tmp_path: Path) -> None:
    """Within seconds; another that is made lets the agent in again."""
    side_by_side(check_revocation, ["token", "certificate"], tmp_path)


def check_revocation(by: str, tmp_path: Path) -> None:
    pki = Pki(tmp_path / "ca")
    mutual = by == "certificate"
    with fleet(tmp_path, *tls_flags(pki, mutual=mutual)) as one:
        token = "" if mutual else tokens.add(one.tokens, "web-1", Right.INGEST, None, datetime.now(UTC))
        security = pki.agent("web-1") if mutual else Security(pki.ca)
        with one.agent("web-1", security, token=token) as agent:
            wait_until(lambda: reports(one, pki) == {"web-1"}, SECONDS, "it reports")
            if mutual:
                done = run([BIN / "loiter", "ca", "revoke", pki.folder, "web-1"])
            else:
                done = run([BIN / "loiter", "token", "revoke", "web-1", "--tokens", one.tokens])
            assert done.returncode == 0, done.stderr
            said = "the certificate of web-1 is revoked" if mutual else "token web-1 was revoked on 20"
            one.program.wait_for_log(f"127.0.0.1 refused at StreamReports: {said}", SECONDS)
            agent.wait_for_log(said, SECONDS)
            stored = ask(one.readers, "fleet", *reader_flags(one, pki))["aggregator"]["reports_stored"]
            if mutual:
                pki.agent("web-1")
            else:
                text = tokens.add(one.tokens, "web-1", Right.INGEST, None, datetime.now(UTC))
                (one.folder / "web-1/token").write_text(text)
            agent.process.send_signal(signal.SIGHUP)  # it would try by itself, some time

            def more() -> bool:
                answer = ask(one.readers, "fleet", *reader_flags(one, pki))
                return bool(answer["aggregator"]["reports_stored"] > stored)

            wait_until(more, SECONDS, "the agent is let in again")


def test_readers_without_the_right_to_read_are_refused(tmp_path: Path) -> None:
    """By each verb's exit status and message, and in the aggregator's log."""
    pki, other = Pki(tmp_path / "ca"), Pki(tmp_path / "other", "another authority")
    pki.renew_server("127.0.0.1")
    agent, now = pki.agent("web-1"), datetime.now(UTC)
    with fleet(tmp_path, *tls_flags(pki, mutual=True)) as one:
        texts = {
            name: tokens.add(one.tokens, name, right, None, now)
            for name, right in (("agents", Right.INGEST), ("lost", Right.READ))
        }
        tokens.revoke(one.tokens, "lost", now)

        def asked(server: str, *flags: str | Path, token: str = "") -> subprocess.CompletedProcess[str]:
            environment = {"LOITER_TOKEN": token} if token else {}
            return run([BIN / "loiter", "fleet", "--server", server, *flags], environment)

        certificate = ("--certificate", agent.certificate or "", "--key", agent.key or "")
        ca = ("--ca", pki.ca)
        cases = (
            (asked(one.server, *ca, *certificate), "the certificate of web-1 allows ingest, not read"),
            (asked(one.readers, *ca, token=texts["agents"]), "token agents allows ingest, not read"),
            (asked(one.readers, *ca, token=texts["lost"]), "token lost was revoked on"),
            (asked(one.readers, *ca), "no token: this needs one with the right to read"),
        )
        for done, said in cases:
            assert (done.returncode, done.stdout) == (1, "")
            assert said in done.stderr
            assert f"127.0.0.1 refused at GetFleet: {said}" in one.logged()

        localhost = f"localhost:{one.readers.rpartition(':')[2]}"
        for done, said in (
            (asked(one.server, *ca), "the server asks for a certificate, and none is configured"),
            (asked(one.readers, "--ca", other.ca), "an authority that"),
            (asked(localhost, *ca), "the server's certificate is for 127.0.0.1, not for localhost"),
            (asked(one.readers), "the server speaks TLS"),
            (asked(one.readers, "--ca", tmp_path / "none"), f"cannot read {tmp_path / 'none'}"),
            (asked(one.readers, *ca, token="secret"), "LOITER_TOKEN does not hold a token"),
        ):
            assert (done.returncode, done.stdout) == (1, "")
            assert said in done.stderr
            assert "Traceback" not in done.stderr
            assert "secret" not in done.stderr

        refused = ask(one.readers, "fleet", *reader_flags(one, pki))["aggregator"]["calls_refused"]
        assert refused == len(cases)
        both = [*map(str, certificate), *reader_flags(one, pki)]
        assert ask(one.server, "fleet", *both)["coverage"]["hosts"] == 0


def test_certificates_are_exchanged_under_a_running_stream(tmp_path: Path) -> None:
    """The server's, and the authorities that agents are trusted by: new agents get in, the old one stays connected."""
    pki, other = Pki(tmp_path / "ca"), Pki(tmp_path / "other", "another authority")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(pki.ca.read_bytes())
    late = other.agent("web-2")
    with fleet(tmp_path, *tls_flags(pki, mutual=False), "--client-ca", trusted) as one, ExitStack() as stack:
        first = stack.enter_context(one.agent("web-1", pki.agent("web-1")))
        wait_until(lambda: reports(one, pki) == {"web-1"}, SECONDS, "the first reports")
        trusted.write_bytes(pki.ca.read_bytes() + other.ca.read_bytes())
        pki.server = other.authority.issue_server(["localhost", "127.0.0.1"], 365, datetime.now(UTC), force=True)
        for new, old in ((pki.server.key, "ca/aggregator.key"), (pki.server.certificate, "ca/aggregator.pem")):
            (tmp_path / old).write_bytes(new.read_bytes())
        flags = ["--server", one.readers, *reader_flags(one, other)]
        wait_until(lambda: loiter("fleet", *flags).returncode == 0, SECONDS, "the new certificate is shown")
        stack.enter_context(one.agent("web-2", late))
        wait_until(lambda: "web-2" in reports(one, other), SECONDS, "one of the new authority reports")

        def last(host: str) -> str:
            return str(ask(one.readers, "host", host, *reader_flags(one, other))["last_report"])

        before = last("web-1")
        wait_until(lambda: last("web-1") > before, SECONDS, "the first goes on")
        assert first.logged().count("reporting to") == 1
        assert "cannot report" not in first.logged()
        stack.close()
        assert one.stored() == {"web-1", "web-2"}


def test_three_commands_are_enough_for_tls(tmp_path: Path) -> None:
    """As docs/explanation/security.md has them; the settings come from the environment as well."""
    ca = tmp_path / "ca"
    for words in (("init", ca), ("server", ca, "127.0.0.1"), ("agent", ca, "web-1")):
        assert run([BIN / "loiter", "ca", *words]).returncode == 0
    flags = ("--certificate", ca / "aggregator.pem", "--key", ca / "aggregator.key", "--client-ca", ca / "ca.pem")
    with fleet(tmp_path, *flags) as one:
        agent = Security(ca / "ca.pem", ca / "agents/web-1.pem", ca / "agents/web-1.key")
        with one.agent("web-1", agent):
            environment = {
                "LOITER_SERVER": one.readers,
                "LOITER_TLS_CA": str(ca / "ca.pem"),
                "LOITER_TOKEN_FILE": str(tmp_path / "reader"),
            }
            wait_until(
                lambda: "web-1" in run([BIN / "loiter", "top", "hosts", "--window", "5m"], environment).stdout,
                SECONDS,
                "it reports",
            )
    assert stat.S_IMODE((tmp_path / "store/loiter.duckdb").stat().st_mode) == 0o600
