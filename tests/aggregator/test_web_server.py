"""The server of the web page: what it listens on, what it lets others take of it, and what every answer says."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from loiter_aggregator.config import AggregatorSettings, TlsSettings
from loiter_aggregator.fleet.errors import InvalidRequest, NotFound, Overloaded, TookTooLong, Unavailable
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from loiter_aggregator.web import connections
from loiter_aggregator.web.server import page_address
from loiter_aggregator.web.static_files import StaticFolder
from support.aggregators import FakeClock, open_store
from support.certificates import Pki
from support.programs import BIN, run
from support.web import Served, make_token, serving_page, settings_of

PAGE = {"accept": "text/html"}
Scenario = Callable[[Served], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDbStore]:
    """An empty store, which no scenario changes."""
    opened = open_store(tmp_path_factory.mktemp("store"))
    yield opened
    opened.close()


@pytest.fixture
def serve(empty: DuckDbStore, clock: FakeClock, tmp_path: Path) -> Callable[..., None]:
    """Runs a scenario against pages of an empty store, with all else that an aggregator keeps in `tmp_path`."""

    def run(scenario: Scenario, settings: AggregatorSettings | None = None, **more: Any) -> None:
        async def serving() -> None:
            async with serving_page(empty, clock, settings or settings_of(tmp_path), **more) as served:
                await scenario(served)

        asyncio.run(asyncio.wait_for(serving(), 30))

    return run


async def dial(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", served.port)


def add_page(served: Served, path: str, answer: Callable[[Request], Coroutine[Any, Any, Response]]) -> None:
    served.site.router.routes.append(Route(path, answer))


def test_every_answer_lets_a_browser_run_nothing_but_our_files(serve: Callable[..., None]) -> None:
    """Pages, errors, and what is turned away before it is looked at."""

    async def scenario(served: Served) -> None:
        for path, headers in (("/healthz", {}), ("/nope", PAGE), ("/metrics", {"host": "evil"}), ("/login", PAGE)):
            answer = await served.browser.get(path, headers=headers)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none';")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers.get_list("server") == ["loiter"]
            assert "date" in answer.headers
            assert "strict-transport-security" not in answer.headers

    serve(scenario)


def test_files_are_kept_for_ever_by_an_address_that_changes_with_them(serve: Callable[..., None]) -> None:
    """Others are asked for again each time; packed where the browser takes it."""

    async def scenario(served: Served) -> None:
        url = served.site.state.static.url("vendor/htmx.min.js")
        kept = await served.browser.get(url)
        assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert kept.headers["content-encoding"] == "gzip"
        assert kept.headers["content-type"].startswith("text/javascript")
        assert "htmx" in kept.text
        plain = await served.browser.get("/static/vendor/htmx.min.js", headers={"accept-encoding": "identity"})
        assert (plain.content, plain.headers["cache-control"]) == (kept.content, "no-cache")
        older = await served.browser.get("/static/v-000000000000/vendor/htmx.min.js")
        assert (older.status_code, older.headers["cache-control"]) == (200, "no-cache")
        again = await served.browser.get(url, headers={"if-none-match": kept.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for path in ("/static/../site.py", "/static/%2e%2e/site.py", "/static/", "/static/v-/", "/static//etc/passwd"):
            assert (await served.browser.get(path)).status_code == 404

    serve(scenario)


def test_a_change_of_a_file_changes_the_address_of_all(tmp_path: Path) -> None:
    """So that a script never meets a style of another release. A file that is not there is a slip of ours."""
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "b.css").write_text("1")
    before = StaticFolder(tmp_path)
    (tmp_path / "b.css").write_text("2")
    assert before.url("a.js") != StaticFolder(tmp_path).url("a.js")
    assert before.url("a.js") == before.url("a.js")
    assert "vendor/htmx.min.js" in before.missing
    with pytest.raises(KeyError):
        before.url("c.js")


def test_what_goes_wrong_is_said_as_the_client_takes_it(
    serve: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """As a page, as JSON or as text, without what is ours alone; that is logged, once."""
    errors = [
        (InvalidRequest("query.limit is over 1,000 rows"), 400, "Query.limit is over 1,000 rows."),
        (NotFound("no host 'x' has reported"), 404, "No host 'x' has reported."),
        (Unavailable("web1 is not connected"), 503, "Web1 is not connected."),
        (Overloaded("100 questions wait"), 503, "100 questions wait."),
        (TookTooLong("no answer within 30s"), 504, "No answer within 30s."),
        (StoreError("/var/lib/secret is full"), 500, "log says why"),
        (ZeroDivisionError("secret"), 500, "could not be made"),
    ]

    async def fail(request: Request) -> Response:
        raise errors[int(request.query_params["which"])][0]

    async def scenario(served: Served) -> None:
        add_page(served, "/fails", fail)
        for which, (_, status, said) in enumerate(errors):
            caplog.clear()
            path = f"/fails?which={which}"
            page = await served.browser.get(path, headers=PAGE)
            assert len(caplog.records) == (1 if status == 500 else 0)
            assert page.headers["content-type"].startswith("text/html")
            document = await served.browser.get(path, headers={"accept": "application/json"})
            assert document.json()["error"]["status"] == status
            text = await served.browser.get(path)
            assert said in text.text
            assert said in document.json()["error"]["message"] + document.json()["error"]["hint"]
            for answer in (page, document, text):
                assert answer.status_code == status
                assert "secret" not in answer.text
                assert "Traceback" not in answer.text
            assert (text.headers.get("retry-after") is None) == (status != 503)

    serve(scenario)


def test_a_page_that_is_not_there_and_a_form_where_none_is(serve: Callable[..., None]) -> None:
    """Are told apart."""

    async def scenario(served: Served) -> None:
        assert (await served.browser.get("/nope", headers=PAGE)).status_code == 404
        wrong = await served.browser.post("/metrics")
        assert wrong.status_code == 405
        assert wrong.headers["allow"]

    serve(scenario)


def test_load_balancers_are_told_whether_it_does_its_work(
    store: DuckDbStore, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without showing anything, and without learning more than that."""
    monkeypatch.setattr("loiter_aggregator.web.health._PROBE_EVERY_SECONDS", 0.0)
    make_token(tmp_path)

    async def scenario() -> None:
        async with serving_page(store, clock, settings_of(tmp_path)) as served:
            await look(served)

    async def look(served: Served) -> None:
        ready = await served.browser.get("/readyz")
        assert (ready.status_code, ready.text) == (200, "ready\n")
        served.write_failure = "/var/lib/loiter is full"
        full = await served.browser.get("/readyz")
        assert (full.status_code, full.text) == (503, "not ready: reports can not be stored\n")
        assert full.headers["retry-after"]
        served.write_failure = None
        store.close()
        assert (await served.browser.get("/readyz")).text == "not ready: the store can not be read\n"
        alive = await served.browser.get("/healthz")
        assert (alive.status_code, alive.text) == (200, "alive\n")
        served.site.state.readiness.stop()
        assert (await served.browser.get("/readyz")).text == "not ready: the aggregator stops\n"

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_address_in_use_is_said_so(tmp_path: Path) -> None:
    """With the flag that chooses another, and nothing is left listening."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run([BIN / "loiter", "serve", "--listen", "127.0.0.1:0", "--http", address, "--data-dir", tmp_path])
    assert done.returncode == 1
    assert f"cannot listen on {address}: Address already in use; --http HOST:PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_listens_by_ipv6(serve: Callable[..., None], tmp_path: Path) -> None:
    """[::] is for both, as it is for gRPC."""

    async def scenario(served: Served) -> None:
        assert (await served.browser.get("/healthz")).status_code == 200
        async with httpx.AsyncClient(trust_env=False) as browser:
            assert (await browser.get(f"http://127.0.0.1:{served.port}/login")).status_code == 303

    serve(scenario, settings_of(tmp_path, http="[::]:0"))


def test_with_a_certificate_it_is_tls_and_the_login_is_for_it_alone(
    serve: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on the loopback address. A renewed certificate is served without a restart, a broken one is not."""
    monkeypatch.setattr("loiter_aggregator.access.files._LOOK_EVERY_SECONDS", 0.0)
    pki = Pki(tmp_path / "ca")
    token = make_token(tmp_path)
    settings = settings_of(tmp_path, tls=TlsSettings(pki.server.certificate, pki.server.key))
    trusted = ssl.create_default_context(cafile=str(pki.ca))

    async def shown(served: Served) -> bytes | None:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=trusted)
        certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        await writer.wait_closed()
        return certificate

    async def scenario(served: Served) -> None:
        done = await served.browser.post("/login", data={"token": token})
        assert done.headers["set-cookie"].startswith("__Host-loiter-")
        assert "Secure" in done.headers["set-cookie"]
        assert done.headers["strict-transport-security"]
        assert (await served.browser.get("/metrics")).status_code == 200
        first = await shown(served)
        good = pki.server.key.read_bytes()
        pki.server.key.write_text("nonsense")
        assert await shown(served) == first
        pki.server.key.write_bytes(good)
        pki.renew_server("localhost", "127.0.0.1", "renewed.example")
        assert await shown(served) != first
        host = {"host": "renewed.example"}
        assert (await served.browser.get("/metrics", headers=host)).status_code == 200, "a name of the new certificate"
        renewed = pki.server.certificate.read_bytes()
        for between in (b"", renewed[:100], None):  # as it is written anew, or another takes its place
            pki.server.certificate.unlink() if between is None else pki.server.certificate.write_bytes(between)
            assert (await served.browser.get("/metrics", headers=host)).status_code == 200, between
        pki.server.certificate.write_bytes(renewed)
        reader, writer = await dial(served)  # who does not speak TLS
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200" not in await reader.read()
        writer.close()

    serve(scenario, settings, verify=trusted)


def test_what_a_proxy_on_this_machine_says_is_believed(
    serve: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who it speaks for, and that it speaks TLS: then the login is for TLS alone."""
    token = make_token(tmp_path)

    async def scenario(served: Served) -> None:
        proxied = {"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7"}
        done = await served.browser.post("/login", data={"token": token}, headers=proxied)
        assert done.headers["set-cookie"].startswith("__Host-loiter-")

    with caplog.at_level(logging.INFO):
        serve(scenario)
    assert "token alice logged in from 192.0.2.7" in caplog.text


def test_who_does_not_get_on_with_a_request_is_cut_off(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether nothing comes, or a head or a body that never ends; one that is answered may stay."""
    monkeypatch.setattr(connections, "_REQUEST_SECONDS", 0.1)
    head = b"POST /login HTTP/1.1\r\nhost: localhost\r\n"
    ask = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"

    async def scenario(served: Served) -> None:
        async def cut_off(begun: bytes, answer: bytes = b"") -> None:
            reader, writer = await dial(served)
            writer.write(begun)
            if answer:
                await reader.readuntil(answer)
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

        reader, writer = await dial(served)
        writer.write(ask + b"\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await asyncio.gather(cut_off(b""), cut_off(head), cut_off(head + b"content-length: 9\r\n\r\nto"))
        await cut_off(ask + b"\r\n" + head + b"content-length: 9\r\n\r\nto", answer=b"alive\n")  # in one piece
        writer.write(ask + b"connection: close\r\n\r\n")  # though it came before those
        assert (await reader.read()).count(b"HTTP/1.1 200") == 1
        writer.close()

    serve(scenario)


def test_a_head_without_end_is_refused(serve: Callable[..., None]) -> None:
    """However it comes, and one that ends after more than it may have; what is not HTTP, too. None of it is logged."""

    async def scenario(served: Served) -> None:
        for nonsense in (
            b"GET / HTTP/1.1\r\nx: " + b"x" * 40_000,
            b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 20_000 + b"\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 4_000 + b"\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        ):
            reader, writer = await dial(served)
            writer.write(nonsense)
            try:
                answer = await asyncio.wait_for(reader.read(), 5)
            except ConnectionResetError:
                answer = b"HTTP/1.1 400"
            assert answer.startswith(b"HTTP/1.1 400")
            assert answer.count(b"HTTP/1.1") == 1
            writer.close()
        allowed = await served.browser.get("/healthz", headers={"x": "x" * 15_000})
        assert allowed.status_code == 200

    serve(scenario)


def test_who_goes_away_while_asking_is_no_mistake_of_ours(
    serve: Callable[..., None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Nothing is logged, and it is counted as a request that was not whole."""
    make_token(tmp_path)

    async def scenario(served: Served) -> None:
        counted: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        served.site.state.metrics.observe_request = lambda page, code, _: counted.set_result((page, code))
        _, writer = await dial(served)
        writer.write(b"POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nto")
        await writer.drain()
        writer.close()
        assert await asyncio.wait_for(counted, 10) == ("/login", 400)

    serve(scenario)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


ASK = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def dial_from(served: Served, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", served.port, local_addr=(source, 0))


def test_who_is_idle_makes_room_for_the_next(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that is so for longest, whether it never asked, asks without end, or was answered; others are let be."""
    monkeypatch.setattr(connections.Connections.__init__, "__kwdefaults__", {"limit": 4, "limit_per_address": 3})

    async def scenario(served: Served) -> None:
        silent = await dial_from(served, "127.0.0.2")
        slow = await dial_from(served, "127.0.0.2")
        slow[1].write(b"POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nto")
        answered = await dial_from(served, "127.0.0.3")
        answered[1].write(ASK)
        await answered[0].readuntil(b"alive\n")
        last = await dial_from(served, "127.0.0.3")
        held = [silent, slow, answered, last]
        for longest in (silent, slow, answered):
            held.append(await dial_from(served, "127.0.0.1"))
            held[-1][1].write(ASK)
            await held[-1][0].readuntil(b"alive\n")
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(longest[0].read(), 5) == b""
        last[1].write(ASK)
        await last[0].readuntil(b"alive\n")
        held.append(await dial_from(served, "127.0.0.1"))  # of an address with three already
        held[-1][1].write(ASK)
        await held[-1][0].readuntil(b"alive\n")
        assert await asyncio.wait_for(held[4][0].read(), 5) == b""
        for _, writer in held:
            writer.close()

    serve(scenario)
    assert "4 connections to the web page are open: the one that is idle for longest is closed" in caplog.text
    assert "3 connections to the web page are open from 127.0.0.1: the one" in caplog.text


def test_who_is_being_answered_is_not_sent_away_for_another(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where all are, the next has to come again, until one is through."""
    monkeypatch.setattr(connections.Connections.__init__, "__kwdefaults__", {"limit": 4, "limit_per_address": 3})

    async def scenario(served: Served) -> None:
        begun, end = asyncio.Semaphore(0), asyncio.Event()

        async def slow(_: Request) -> Response:
            begun.release()
            await end.wait()
            return PlainTextResponse("done")

        add_page(served, "/slow", slow)
        busy = []
        for source in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2"):
            busy.append(await dial_from(served, source))
            busy[-1][1].write(ASK.replace(b"/healthz", b"/slow"))
            await asyncio.wait_for(begun.acquire(), 5)
        for source in ("127.0.0.1", "127.0.0.3"):
            reader, writer = await dial_from(served, source)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        end.set()
        for reader, writer in busy:
            await reader.readuntil(b"done")
            writer.close()
            assert await reader.read() == b""
        assert (await served.browser.get("/healthz")).status_code == 200

    serve(scenario)
    assert "3 connections to the web page are open from 127.0.0.1 and busy: 127.0.0.1 has to come again" in caplog.text
    assert "4 connections to the web page are open and busy: 127.0.0.3 has to come again" in caplog.text


def test_handshakes_that_do_not_end_make_room(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are connections, too, of whoever does not go on."""
    monkeypatch.setattr(connections.Connections.__init__, "__kwdefaults__", {"limit": 2, "limit_per_address": 2})
    pki = Pki(tmp_path / "ca")
    settings = settings_of(tmp_path, tls=TlsSettings(pki.server.certificate, pki.server.key))
    trusted = ssl.create_default_context(cafile=str(pki.ca))

    async def scenario(served: Served) -> None:
        held = [await dial(served) for _ in range(5)]
        assert (await served.browser.get("/healthz")).status_code == 200
        for reader, writer in held[:4]:
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        held[4][1].close()

    serve(scenario, settings, verify=trusted)


def test_a_mistake_in_taking_connections_does_not_end_the_page(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next connection is taken."""
    monkeypatch.setattr("loiter_aggregator.background._FIRST_PAUSE", 0.0)
    has_room = connections.Connections._has_room
    mistakes = [ZeroDivisionError("of ours")]

    def mistaken(self: connections.Connections, network: str) -> bool:
        if mistakes:
            raise mistakes.pop()
        return has_room(self, network)

    async def scenario(served: Served) -> None:
        monkeypatch.setattr(connections.Connections, "_has_room", mistaken)
        reader, writer = await dial(served)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert (await served.browser.get("/healthz")).status_code == 200

    serve(scenario)
    assert "what takes connections to the web page ended by a mistake: ZeroDivisionError: of ours" in caplog.text


def test_it_answers_what_is_asked_and_then_stops_at_once(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What takes longer than the grace is told that the aggregator stops; who is idle is not waited for."""
    monkeypatch.setattr("loiter_aggregator.web.server._STOP_GRACE_SECONDS", 0.3)
    answers: list[int] = []

    async def scenario(served: Served) -> None:
        begun, ends = asyncio.Semaphore(0), {"soon": asyncio.Event(), "never": asyncio.Event()}

        async def slow(request: Request) -> Response:
            begun.release()
            await ends[request.query_params["ends"]].wait()
            return PlainTextResponse("done")

        add_page(served, "/slow", slow)
        _, idle = await dial(served)
        asked = [asyncio.create_task(served.browser.get(f"/slow?ends={when}")) for when in ends]
        async with asyncio.timeout(10):
            for _ in asked:
                await begun.acquire()
            stopping = asyncio.create_task(served.server.stop())
            await asyncio.sleep(0)  # it begins to stop
            ends["soon"].set()
            await stopping
        answers.extend([(await one).status_code for one in asked])
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            await dial(served)

    with caplog.at_level(logging.INFO):
        serve(scenario)
    assert answers == [200, 503]
    assert "Traceback" not in caplog.text
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_the_address_that_people_are_told(tmp_path: Path) -> None:
    """None where it is off; a name of this machine where it listens on all addresses."""
    settings = settings_of(tmp_path)
    assert page_address(replace(settings, http=None)) is None
    assert page_address(replace(settings, http="127.0.0.1:7434")) == "http://127.0.0.1:7434/"
    assert page_address(replace(settings, http="0.0.0.0:80")) == "http://localhost:80/"
    tls = TlsSettings(tmp_path / "a", tmp_path / "b")
    assert page_address(replace(settings, http="[::1]:7434", tls=tls)) == "https://[::1]:7434/"
