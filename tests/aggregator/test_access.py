"""Who may do what: the check before every call, against real servers and connections."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from loiter.transport import Security, channel_credentials, token_metadata
from loiter_aggregator.access import tokens
from loiter_aggregator.access.authority import revoke as revoke_certificates
from loiter_aggregator.access.doors import ListenError, make_doors, no_ingest_handler
from loiter_aggregator.access.peers import peer_host
from loiter_aggregator.access.principal import ANYONE, Principal, Right, caller
from loiter_aggregator.access.refusals import RefusalLog
from loiter_aggregator.config import AggregatorSettings
from support.certificates import Pki
from support.programs import free_port

P = ParamSpec("P")

INGEST = "/loiter.v1.IngestService/StreamReports"
READ = "/loiter.v1.FleetService/GetFleet"


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs a test in an event loop of its own, for a minute at most."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


class Services:
    """Stands in for the two services: answers with who the handler is told is calling."""

    def __init__(self) -> None:
        self.callers: list[Principal] = []
        self.refused = 0

    async def stream(self, _: object, context: Any) -> None:
        """As IngestService does: reads and writes by the context, for as long as the other side does."""
        self.callers.append(caller.get())
        await context.write(b"hello")
        while await context.read() is not grpc.aio.EOF:
            pass

    async def answer(self, _: object, __: Any) -> bytes:
        self.callers.append(caller.get())
        return b"answer"

    def count(self) -> None:
        self.refused += 1


@asynccontextmanager
async def listening(settings: AggregatorSettings) -> AsyncIterator[Services]:
    """Opens the doors of an aggregator with these settings."""
    services = Services()
    doors = make_doors(settings, services.count)
    health_service = health.aio.HealthServicer()
    for door in doors:
        ingest = grpc.method_handlers_generic_handler(
            "loiter.v1.IngestService", {"StreamReports": grpc.stream_stream_rpc_method_handler(services.stream)}
        )
        fleet = grpc.method_handlers_generic_handler(
            "loiter.v1.FleetService", {"GetFleet": grpc.unary_unary_rpc_method_handler(services.answer)}
        )
        door.server.add_generic_rpc_handlers((ingest if door.ingest else no_ingest_handler(), fleet))
        health_pb2_grpc.add_HealthServicer_to_server(health_service, door.server)
        reflection.enable_server_reflection((reflection.SERVICE_NAME,), door.server)
        await door.server.start()
    guarding = [asyncio.create_task(door.interceptor.run()) for door in doors]
    try:
        yield services
    finally:
        for task in guarding:
            task.cancel()
        for door in doors:
            await door.server.stop(0)


def channel(server: str, security: Security | None) -> grpc.aio.Channel:
    if security is None:
        return grpc.aio.insecure_channel(server)
    return grpc.aio.secure_channel(server, channel_credentials(security))


async def ask(
    server: str, method: str, security: Security | None = None, token: str | None = None, **metadata: str
) -> str:
    """Calls a method. Returns what comes back: the answer, or the status with its text."""
    headers = tuple(metadata.items()) + (token_metadata(token) if token is not None else ())
    answer: Any
    async with channel(server, security) as connection:
        connected: Any = connection
        try:
            if method == INGEST:
                stream = connected.stream_stream(method)(metadata=headers, timeout=20)
                await stream.write(b"report")
                await stream.done_writing()
                answer = await stream.read()
                assert answer is not grpc.aio.EOF, f"{await stream.code()}: {await stream.details()}"
            else:
                answer = await connected.unary_unary(method)(b"", metadata=headers, timeout=20)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except asyncio.InvalidStateError:
            return f"{(await stream.code()).name}: {await stream.details()}"
    return str(answer, "utf-8")


@pytest.fixture(autouse=True)
def files_are_looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not once a second, so that nothing waits for it."""
    monkeypatch.setattr("loiter_aggregator.access.files._LOOK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr("loiter_aggregator.access.interceptor._RECHECK_SECONDS", 0.1)


@pytest.fixture
def settings(tmp_path: Path) -> AggregatorSettings:
    return AggregatorSettings(listen=f"127.0.0.1:{free_port()}", data_dir=tmp_path)


def token(settings: AggregatorSettings, name: str, right: Right) -> str:
    return tokens.add(settings.data_dir / "tokens.json", name, right, None, datetime.now(UTC))


@asynchronous
async def test_without_tokens_and_certificates_everyone_may_do_both(settings: AggregatorSettings) -> None:
    """On the loopback address, where the aggregator listens by default. A token from elsewhere is no offence."""
    async with listening(settings) as services:
        assert await ask(settings.listen, READ) == "answer"
        assert await ask(settings.listen, INGEST) == "hello"
        assert await ask(settings.listen, READ, token=f"loiter_00000000_{'0' * 64}") == "answer"
    assert services.callers == [ANYONE] * 3
    assert services.refused == 0


@asynchronous
async def test_a_token_allows_what_it_was_made_for_alone(
    settings: AggregatorSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither right includes the other; each refusal says why to the caller and in the log, and is counted."""
    read, ingest = token(settings, "alice", Right.READ), token(settings, "agents", Right.INGEST)
    async with listening(settings) as services:
        assert await ask(settings.listen, READ, token=read) == "answer"
        assert await ask(settings.listen, INGEST, token=ingest) == "hello"
        refusals = {
            await ask(settings.listen, INGEST, token=read),
            await ask(settings.listen, READ, token=ingest),
            await ask(settings.listen, READ),
            await ask(settings.listen, INGEST),
            await ask(settings.listen, READ, authorization="Basic YWxpY2U6eA=="),
            await ask(settings.listen, READ, token=f"loiter_00000000_{'0' * 64}"),
        }
        assert refusals == {
            "PERMISSION_DENIED: token alice allows read, not ingest",
            "PERMISSION_DENIED: token agents allows ingest, not read",
            "UNAUTHENTICATED: no token: this needs one with the right to read",
            "UNAUTHENTICATED: no token: this needs one with the right to ingest",
            "UNAUTHENTICATED: the authorization is not of the form 'Bearer loiter_…'",
            "UNAUTHENTICATED: the token is unknown",
        }
        for refusal in refusals:
            assert f"127.0.0.1 refused at {'StreamReports' if 'ingest' in refusal[-7:] else 'GetFleet'}" in caplog.text
            assert refusal.partition(": ")[2] in caplog.text
    assert services.refused == 6
    assert [one.name for one in services.callers] == ["token alice", "token agents"]
    assert all(secret not in caplog.text for secret in (read, ingest))


@asynchronous
async def test_health_is_open_and_reflection_takes_the_right_to_read(settings: AggregatorSettings) -> None:
    """A load balancer has no token."""
    read = token(settings, "alice", Right.READ)

    async def list_services(connection: grpc.aio.Channel, *headers: tuple[str, str]) -> None:
        stub = reflection_pb2_grpc.ServerReflectionStub(connection)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]), metadata=headers, timeout=20)
        assert await call.read() is not grpc.aio.EOF

    async with listening(settings), grpc.aio.insecure_channel(settings.listen) as connection:
        stub = health_pb2_grpc.HealthStub(connection)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await list_services(connection, *token_metadata(read))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await list_services(connection)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@asynchronous
async def test_a_certificate_allows_ingest_as_its_host_alone(settings: AggregatorSettings, tmp_path: Path) -> None:
    """The handler is told which hosts; reading takes a token besides."""
    pki = Pki(tmp_path / "ca")
    read, ingest = token(settings, "alice", Right.READ), token(settings, "agents", Right.INGEST)
    settings = replace(settings, tls=pki.tls)
    agent = pki.agent("Web-1", "ab" * 16)
    async with listening(settings) as services:
        assert await ask(settings.listen, INGEST, agent) == "hello"
        assert await ask(settings.listen, INGEST, agent, token=ingest) == "hello"
        assert await ask(settings.listen, READ, agent, token=read) == "answer"
        refusal = await ask(settings.listen, READ, agent)
        assert refusal == "PERMISSION_DENIED: the certificate of web-1 allows ingest, not read"
        refusal = await ask(settings.listen, READ, agent, token=ingest)
        assert refusal.endswith("the certificate of web-1 with token agents allow ingest, not read")
        assert (await ask(settings.listen, READ, Security(pki.ca), token=read)).startswith("UNAVAILABLE")
    for one in services.callers:
        assert (one.hostnames, one.host_ids) == (frozenset({"web-1"}), frozenset({"ab" * 16}))
    assert services.callers[0].name == "the certificate of web-1"


@asynchronous
async def test_readers_have_an_address_without_certificates(settings: AggregatorSettings, tmp_path: Path) -> None:
    """Where nobody reports."""
    pki = Pki(tmp_path / "ca")
    read, ingest = token(settings, "alice", Right.READ), token(settings, "agents", Right.INGEST)
    readers = f"127.0.0.1:{free_port()}"
    async with listening(replace(settings, tls=pki.tls, listen_readers=readers)):
        trusting = Security(pki.ca)
        assert await ask(readers, READ, trusting, token=read) == "answer"
        assert (await ask(readers, READ, trusting)).startswith("UNAUTHENTICATED: no token")
        assert "agents report to the one of 'listen'" in await ask(readers, INGEST, trusting, token=ingest)


async def _ended(call: Any) -> str:
    """Waits for a stream that is open to be ended."""
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return f"{(await call.code()).name}: {await call.details()}"


@pytest.mark.parametrize("by", ["token", "certificate"])
@asynchronous
async def test_what_is_revoked_ends_the_streams_that_are_open_with_it(
    settings: AggregatorSettings, tmp_path: Path, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Within seconds, and no others; what they can not do any more is said."""
    pki = Pki(tmp_path / "ca")
    if by == "certificate":
        settings = replace(settings, tls=pki.tls)
    texts = {name: token(settings, name, Right.INGEST) for name in ("web-1", "web-2")}
    async with listening(settings) as services, asyncio.timeout(30):
        calls: dict[str, Any] = {}
        connections = []
        for name, text in texts.items():
            connection = channel(settings.listen, pki.agent(name) if by == "certificate" else None)
            connections.append(connection)
            headers = token_metadata(text) if by == "token" else ()
            calls[name] = connection.stream_stream(INGEST)(metadata=headers)
            assert await calls[name].read() == b"hello"
        if by == "token":
            tokens.revoke(settings.data_dir / "tokens.json", "web-1", datetime.now(UTC))
        else:
            revoke_certificates(pki.folder, "web-1")
        ended = await _ended(calls["web-1"])
        assert ended.startswith(
            "UNAUTHENTICATED: "
            + ("token web-1 was revoked" if by == "token" else "the certificate of web-1 is revoked")
        )
        assert ended.partition(": ")[2] in caplog.text
        await calls["web-2"].write(b"report")
        assert not calls["web-2"].done()
        assert services.refused == 1
        for connection in connections:
            await connection.close()


@asynchronous
async def test_files_are_read_again_for_new_connections(
    settings: AggregatorSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate of the server and the authorities of agents, without an open stream being dropped; what can not
    be used leaves the old ones in force, and is said once."""
    pki, other = Pki(tmp_path / "ca"), Pki(tmp_path / "other")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(pki.ca.read_bytes())
    settings = replace(settings, tls=replace(pki.tls, client_ca=trusted))
    agent, stranger = pki.agent("web-1"), replace(other.agent("web-2"), ca=pki.ca)

    async def until(expected: Callable[[str], bool], security: Security) -> None:
        while not expected(await ask(settings.listen, INGEST, security)):
            pass

    async with listening(settings), channel(settings.listen, agent) as connection:
        stream: Any = connection.stream_stream(INGEST)()
        assert await stream.read() == b"hello"
        assert (await ask(settings.listen, INGEST, stranger)).startswith("UNAVAILABLE")

        trusted.write_bytes(pki.ca.read_bytes() + other.ca.read_bytes())
        await until(lambda answer: answer == "hello", stranger)

        pki.server.key.write_text("nonsense")
        with caplog.at_level(logging.ERROR):
            while "does not hold a private key" not in caplog.text:
                assert await ask(settings.listen, INGEST, agent) == "hello"
            assert await ask(settings.listen, INGEST, agent) == "hello"
        assert caplog.text.count("does not hold a private key") == 1

        pki.renew_server("elsewhere.example")
        await until(lambda answer: "Hostname Verification" in answer, agent)
        pki.renew_server("127.0.0.1")
        await until(lambda answer: answer == "hello", agent)

        await stream.write(b"report")
        assert not stream.done()


@asynchronous
async def test_an_address_in_use_is_named(settings: AggregatorSettings) -> None:
    """A second aggregator would share its agents with the first."""
    async with listening(settings):
        with pytest.raises(ListenError, match=f"cannot listen on {settings.listen}"):
            make_doors(settings, lambda: None)


def test_refusals_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The like once a minute, with the number between; all together a hundred lines a minute."""
    now = 0.0
    log = RefusalLog(logging.getLogger("test"), lambda: now)
    for _ in range(5):
        log.say("peer", "refused")
    assert caplog.messages == ["refused"]
    now = 60.0
    log.say("peer", "refused")
    assert caplog.messages[1:] == ["refused (4 times more since this was said last)"]
    caplog.clear()
    for peer in range(10_000):
        log.say(peer, f"{peer} refused")
    assert len(caplog.messages) == 99
    now = 120.0
    log.say("another", "another refused")
    assert caplog.messages[99:] == ["9,901 more refusals were not logged within a minute", "another refused"]


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:4242", "10.0.0.7"),
        ("ipv6:%5B2001:db8::1%5D:4242", "2001:db8::1"),
        ("ipv6:[::ffff:10.0.0.7]:4242", "10.0.0.7"),
        ("unix:", ""),
        ("ipv4:\x1b[31m:1", "\\x1b[31m"),
    ],
)
def test_a_peer_is_named_by_its_address(peer: str, host: str) -> None:
    """Without the port, which changes with every connection."""
    assert peer_host(peer) == host
