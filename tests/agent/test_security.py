"""How the agent connects: whom it trusts, what it shows, and what it says when that does not work."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from loiter.transport import SecurityFileError, read_token, system_roots, wants_tls
from loiter_agent import security as module
from loiter_agent.security import Security, call_metadata, explain_failure, open_channel
from loiter_aggregator.access.listening import server_credentials
from loiter_aggregator.config import TlsSettings
from support.certificates import LONG_AGO, Pki, self_signed
from support.programs import free_port

TOKEN = f"loiter_0a1b2c3d_{'5e' * 32}"
OFF = "aggregator.example.net:7433"


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """What was explained to another test is forgotten."""
    module._explanations.clear()


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "ca")


@asynccontextmanager
async def serving(tls: TlsSettings | None) -> AsyncIterator[str]:
    """A gRPC server, which has no methods, and its address."""
    server = grpc.aio.server()
    credentials = None if tls is None else server_credentials(tls, "this", ask_clients=True)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def call(server: str, security: Security) -> tuple[grpc.StatusCode, str]:
    """Calls a method that there is not, and returns the status."""
    async with open_channel(server, security, ()) as channel:
        method: Any = channel.unary_unary("/nothing/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", timeout=20)
        return caught.value.code(), caught.value.details() or ""


def outcome(tls: TlsSettings | None, security: Security, host: str = "127.0.0.1") -> str:
    """What comes of a connection: `connected`, or what is said of the failure."""

    async def scenario() -> str:
        async with serving(tls) as server:
            address = f"{host}:{server.rpartition(':')[2]}"
            code, details = await call(address, security)
            if code is grpc.StatusCode.UNIMPLEMENTED:
                return "connected"
            return await explain_failure(address, security, details)

    return asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize(
    ("server", "security", "tls"),
    [
        ("127.0.0.1:7433", Security(), False),
        ("localhost:7433", Security(), False),
        ("127.0.0.1:7433", Security(ca=Path("ca.pem")), True),
        ("127.0.0.1:7433", Security(certificate=Path("a.pem"), key=Path("a.key")), True),
        (OFF, Security(), True),
        (OFF, Security(insecure=True), False),
        (OFF, Security(insecure=True, ca=Path("ca.pem")), True),
    ],
)
def test_off_this_machine_it_is_tls_unless_insecure(server: str, security: Security, tls: bool) -> None:
    """On it, where a CA or a certificate is given."""
    assert wants_tls(server, security) is tls


def test_a_good_certificate_connects(pki: Pki) -> None:
    """By TLS on both sides, or on the server's alone, or in plaintext."""
    assert outcome(pki.tls, pki.agent("web-1")) == "connected"
    assert outcome(TlsSettings(pki.server.certificate, pki.server.key), Security(pki.ca)) == "connected"
    assert outcome(None, Security()) == "connected"


def test_what_is_wrong_with_the_server_is_said(pki: Pki, tmp_path: Path) -> None:
    """Wrong authority, self-signed, expired, another name, no TLS at all."""
    agent = pki.agent("web-1")
    other = Pki(tmp_path / "other", "another authority")
    distrusting = replace(agent, ca=other.ca)
    assert outcome(pki.tls, distrusting) == (
        f"the server's certificate is issued by 'loiter', an authority that {other.ca} does not hold"
    )
    certificate, key = self_signed(tmp_path, "localhost")
    alone = replace(pki.tls, certificate=certificate, key=key)
    assert outcome(alone, agent) == f"the server's certificate is self-signed, and {pki.ca} does not hold it"
    pki.renew_server("elsewhere.example")
    assert outcome(pki.tls, agent) == "the server's certificate is for elsewhere.example, not for 127.0.0.1"
    pki.renew_server("127.0.0.1", ago=LONG_AGO)
    assert outcome(pki.tls, agent).startswith("the server's certificate has expired on 20")
    assert outcome(None, agent) == "the server speaks no TLS: it listens in plaintext"


def test_what_is_wrong_with_the_agent_is_said(pki: Pki, tmp_path: Path) -> None:
    """Of which the server, by gRPC, tells it nothing."""
    assert outcome(pki.tls, Security(pki.ca)) == (
        "the server asks for a certificate, and none is configured: tls.certificate, tls.key"
    )
    refused = "the server refuses this side's certificate: "
    expired = pki.agent("web-1", ago=LONG_AGO)
    assert outcome(pki.tls, expired).startswith(f"{refused}{expired.certificate} has expired on 20")
    stranger = replace(Pki(tmp_path / "other", "another authority").agent("web-1"), ca=pki.ca)
    assert outcome(pki.tls, stranger) == (
        f"{refused}{stranger.certificate} is issued by 'another authority', an authority that {pki.ca} does not hold"
    )
    alone = Security(pki.ca, *self_signed(tmp_path, "web-1"))
    assert outcome(pki.tls, alone) == f"{refused}{alone.certificate} is self-signed"
    as_server = Security(pki.ca, pki.server.certificate, pki.server.key)
    assert "not made for clients" in outcome(pki.tls, as_server)
    assert outcome(pki.tls, Security()) == (
        "the server speaks TLS, and it was asked in plaintext; name the authority that it is trusted by"
    )


def test_what_has_nothing_to_do_with_tls_is_left_as_it_is(pki: Pki) -> None:
    """Nobody there; a stream that was open and broke."""
    refused = (
        f"failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:{free_port()}: Connection refused"
    )

    async def scenario() -> None:
        async with serving(pki.tls) as server:
            for said in (refused, "Socket closed"):
                assert await explain_failure(server, Security(pki.ca), said) == said

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_the_same_failure_is_looked_into_once(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that can not connect tries again and again; looking into it costs more than the try."""
    processes = 0
    start = asyncio.create_subprocess_exec

    async def counting(*command: Any, **more: Any) -> asyncio.subprocess.Process:
        nonlocal processes
        processes += 1
        return await start(*command, **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", counting)

    async def scenario() -> None:
        async with serving(pki.tls) as server:
            failure = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed"
            said = {await explain_failure(server, Security(pki.ca), failure) for _ in range(5)}
            assert said == {"the server asks for a certificate, and none is configured: tls.certificate, tls.key"}

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert processes == 1


def test_the_agent_does_without_openssl() -> None:
    """3.4 MB on every host: what needs it is a process of its own."""
    program = "import sys\nsys.modules['ssl'] = None\nimport loiter_agent.security\nprint('_ssl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_files_that_can_not_be_used_are_named(pki: Pki, tmp_path: Path) -> None:
    """Missing, of something else, one without the other."""
    agent = pki.agent("web-1")
    none, nonsense = tmp_path / "none", tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    for security, text in (
        (replace(agent, ca=none), f"cannot read {none}: No such file"),
        (replace(agent, ca=tmp_path), f"cannot read {tmp_path}: Is a directory"),
        (replace(agent, ca=nonsense), f"{nonsense}: does not hold a certificate in PEM"),
        (replace(agent, certificate=agent.key), f"{agent.key}: does not hold a certificate in PEM"),
        (replace(agent, key=agent.certificate), f"{agent.certificate}: does not hold a private key"),
        (replace(agent, key=None), "come together"),
    ):
        with pytest.raises(SecurityFileError, match=text):
            open_channel(OFF, security, ())
        assert issubclass(SecurityFileError, OSError)


def test_a_key_that_does_not_fit_is_said(pki: Pki) -> None:
    """gRPC says that it failed, not at what."""
    mixed = replace(pki.agent("web-1"), key=pki.agent("web-2").key)
    assert outcome(pki.tls, mixed) == "the key does not fit the certificate that it is given with"


def test_a_token_goes_with_each_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first line of its file; one that everyone may read is warned of."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nof the agents\n")
    file.chmod(0o600)
    assert call_metadata(Security(token_file=file)) == (("authorization", f"Bearer {TOKEN}"),)
    assert call_metadata(Security()) == ()
    assert caplog.messages == []
    file.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert (read_token(file), read_token(file)) == (TOKEN, TOKEN)
    assert caplog.text.count("everyone on this machine may read the token") == 1
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("content", [b"", b"\n", b"secret", TOKEN.upper().encode(), TOKEN.encode() + b"0", b"\xff\xfe"])
def test_what_is_no_token_is_not_sent(tmp_path: Path, content: bytes) -> None:
    """It may be another secret: it is not in the message either."""
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(SecurityFileError, match="its first line is not a token") as caught:
        read_token(file)
    assert "secret" not in str(caught.value)


def test_without_a_ca_those_of_the_system_are_trusted(tmp_path: Path) -> None:
    """SSL_CERT_FILE names others, as for every program that uses OpenSSL."""
    assert system_roots({"SSL_CERT_FILE": str(tmp_path)}) == tmp_path
    found = system_roots({})
    assert found is None or found.exists()
