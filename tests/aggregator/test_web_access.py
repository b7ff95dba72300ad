"""Who may see the pages: tokens that are shown, logins, and what keeps the pages of others out."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from loiter_aggregator.access.principal import Right
from loiter_aggregator.access.tokens import Token, revoke
from loiter_aggregator.config import AggregatorSettings, WebSettings
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.web.login import Attempts, local_path
from loiter_aggregator.web.sessions import SessionEnded, Sessions
from support.aggregators import FakeClock, open_store
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

    def run(scenario: Scenario, settings: AggregatorSettings | None = None) -> None:
        async def serving() -> None:
            async with serving_page(empty, clock, settings or settings_of(tmp_path)) as served:
                await scenario(served)

        asyncio.run(asyncio.wait_for(serving(), 30))

    return run


async def log_in(browser: httpx.AsyncClient, token: str, goal: str = "/") -> httpx.Response:
    return await browser.post("/login", data={"token": token, "next": goal}, headers=PAGE)


def test_without_tokens_nobody_is_asked_for_one(serve: Callable[..., None]) -> None:
    """As by gRPC; the login leads on to where one wanted to go, and what is shown is no offence."""

    async def scenario(served: Served) -> None:
        assert (await served.browser.get("/metrics")).status_code == 200
        login = await served.browser.get("/login?next=/top/hosts", headers=PAGE)
        assert (login.status_code, login.headers["location"]) == (303, "/top/hosts")
        shown = {"authorization": f"Bearer loiter_{'0' * 8}_{'0' * 64}"}
        assert (await served.browser.get("/metrics", headers=shown)).status_code == 200

    serve(scenario)


def test_a_token_is_taken_with_any_request(serve: Callable[..., None], tmp_path: Path) -> None:
    """One that allows reading; the others are told what they lack, and counted."""
    reader, agent = make_token(tmp_path), make_token(tmp_path, "agents", Right.INGEST)

    async def scenario(served: Served) -> None:
        async def status(path: str, token: str | None) -> int:
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            return (await served.browser.get(path, headers=headers)).status_code

        assert await status("/metrics", reader) == 200
        assert await status("/metrics", agent) == 403
        assert await status("/metrics", reader[:-1] + ("0" if reader[-1] != "0" else "1")) == 401
        assert await status("/metrics", None) == 401
        assert served.counters.calls_refused == 2, "who shows nothing is not let in, and no offender either"
        answer = await served.browser.get("/metrics")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert [await status(path, None) for path in ("/healthz", "/readyz", "/login")] == [200, 200, 200]
        password = await served.browser.get("/metrics", headers={"authorization": "Basic YTpi"})
        assert "No token" in password.text, "a password is for a proxy, and not for us"

    serve(scenario)


def test_who_logs_in_once_is_let_in_until_logging_out(
    serve: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a cookie that no script reads and that does not hold the token."""
    token = make_token(tmp_path)

    async def scenario(served: Served) -> None:
        browser = served.browser
        first = await browser.get("/top/hosts?by=stuck&window=10m", headers=PAGE)
        assert first.status_code == 303
        assert first.headers["location"] == "/login?next=/top/hosts%3Fby%3Dstuck%26window%3D10m"
        form = await browser.get(first.headers["location"], headers=PAGE)
        assert 'name="token"' in form.text
        assert "/top/hosts?by=stuck&amp;window=10m" in form.text
        done = await log_in(browser, token, "/top/hosts?by=stuck&window=10m")
        assert (done.status_code, done.headers["location"]) == (303, "/top/hosts?by=stuck&window=10m")
        cookie = done.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=lax", "path=/", "loiter-"))
        assert "secure" not in cookie, "without TLS a browser would not send it back"
        assert token.lower().rpartition("_")[2] not in cookie
        assert (await browser.get("/metrics", headers=PAGE)).status_code == 200
        assert (await browser.get("/login", headers=PAGE)).headers["location"] == "/"
        assert (await browser.get("/logout", headers=PAGE)).status_code == 405, "a link logs nobody out"
        assert (await browser.post("/logout", headers=PAGE)).headers["location"] == "/login"
        assert (await browser.get("/metrics", headers=PAGE)).status_code == 303
        assert served.counters.calls_refused == 0

    with caplog.at_level(logging.INFO):
        serve(scenario)
    assert "token alice logged in from 127.0.0.1" in caplog.text
    assert token not in caplog.text


def test_a_login_ends_with_its_token_and_says_so(
    serve: Callable[..., None],
    tmp_path: Path,
    empty: DuckDbStore,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once, for who looks and for what the page asks by itself; and over a restart it lasts."""
    monkeypatch.setattr("loiter_aggregator.access.files._LOOK_EVERY_SECONDS", 0.0)
    token = make_token(tmp_path)

    async def scenario(served: Served) -> None:
        browser = served.browser
        await log_in(browser, token)
        async with serving_page(empty, clock, settings_of(tmp_path)) as again:
            (name,) = browser.cookies
            cookie = {"cookie": f"{name}={browser.cookies[name]}"}
            assert (await again.browser.get("/metrics", headers=cookie)).status_code == 200, "the key is kept"
        revoke(tmp_path / "tokens.json", "alice", datetime.now(UTC))
        sent_away = await browser.get("/metrics", headers=PAGE)
        assert sent_away.headers["location"] == "/login?next=/metrics"
        form = await browser.get("/login?next=/metrics", headers=PAGE)
        assert "token alice was revoked on" in form.text
        poll = await browser.get("/", headers={"hx-request": "true", "hx-current-url": "http://x/top/hosts?by=stuck"})
        assert poll.status_code == 401
        assert poll.headers["hx-redirect"] == "/login?next=/top/hosts%3Fby%3Dstuck"
        assert served.counters.calls_refused == 2

    serve(scenario)


def test_a_copy_of_a_login_that_was_logged_out_of_is_worth_nothing(
    serve: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others of the same token go on, also one of the same second. So many are kept: the first is forgotten first."""
    token = make_token(tmp_path)
    monkeypatch.setattr("loiter_aggregator.web.sessions._MAX_ENDED", 2)

    async def scenario(served: Served) -> None:
        browser = served.browser

        async def new() -> dict[str, str]:
            browser.cookies.clear()
            await log_in(browser, token)
            cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
            browser.cookies.clear()
            return {"cookie": cookie}

        async def status(cookie: dict[str, str]) -> int:
            return (await browser.get("/metrics", headers=cookie)).status_code

        mine, other = await new(), await new()
        for _ in range(2):
            assert (await browser.post("/logout", headers=mine)).status_code == 303
        assert (await status(mine), await status(other)) == (401, 200)
        assert "You have logged out" in (await browser.get("/login", headers={**mine, **PAGE})).text
        for one in (second := await new(), third := await new()):
            await browser.post("/logout", headers=one)
        assert [await status(one) for one in (mine, second, third)] == [200, 401, 401]

    serve(scenario)


def test_a_login_that_was_logged_out_of_does_not_come_back_when_the_clock_is_put_right() -> None:
    """Though it was ahead until long after that login would have ended, and others logged out meanwhile."""
    clock = FakeClock()
    sessions = Sessions(bytes(32), 3_600.0, "7434", clock)
    token = Token("1", "alice", Right.READ, "f" * 64, datetime.now(UTC))

    def log_in() -> Request:
        response = Response()
        sessions.open(token, _request(), response)
        return _request(response.headers["set-cookie"].partition(";")[0])

    mine = log_in()
    sessions.close(mine, Response())
    clock.now += 86_400_000
    sessions.close(log_in(), Response())
    clock.now -= 86_400_000
    with pytest.raises(SessionEnded, match="logged out"):
        sessions.read(mine)


def _request(cookie: str = "") -> Request:
    headers = [(b"cookie", cookie.encode())] if cookie else []
    where = {"scheme": "http", "server": ("loiter.example", 80), "path": "/", "query_string": b""}
    return Request({"type": "http", "headers": headers, **where})


def test_a_login_ends_by_itself(serve: Callable[..., None], tmp_path: Path, clock: FakeClock) -> None:
    """After the time that is set, and says so."""
    token = make_token(tmp_path)

    async def scenario(served: Served) -> None:
        await log_in(served.browser, token)
        clock.now += 3_599_000
        assert (await served.browser.get("/metrics")).status_code == 200
        clock.now += 2_000
        assert (await served.browser.get("/metrics")).status_code == 401
        assert "login has ended" in (await served.browser.get("/login", headers=PAGE)).text

    serve(scenario, settings_of(tmp_path, web=WebSettings(session=3_600.0)))


def test_a_cookie_of_somebody_elses_making_is_none(serve: Callable[..., None], tmp_path: Path) -> None:
    """Nor is one that was changed; neither is an error."""
    token = make_token(tmp_path)

    async def scenario(served: Served) -> None:
        await log_in(served.browser, token)
        (name,) = served.browser.cookies
        good = served.browser.cookies[name]
        served.browser.cookies.clear()
        # Not the last character: some of its bits stand for nothing.
        changed = good[:-2] + ("A" if good[-2] != "A" else "B") + good[-1]
        for cookie in (changed, "x.y", "", "\\", good.partition(".")[0]):
            answer = await served.browser.get("/metrics", headers={"cookie": f"{name}={cookie}"})
            assert answer.status_code == 401, cookie
        assert (await served.browser.get("/metrics", headers={"cookie": f"{name}={good}"})).status_code == 200

    serve(scenario)


def test_the_key_of_logins_is_for_the_aggregator_alone(
    serve: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Made once; a damaged one is made anew."""
    key = tmp_path / "web.key"

    async def nothing(served: Served) -> None:
        del served

    serve(nothing)
    made = key.read_text()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    serve(nothing)
    assert key.read_text() == made
    key.write_text("nonsense")
    serve(nothing)
    assert len(key.read_text()) == len(made)
    assert "everyone has to log in again" in caplog.text


def test_wrong_tokens_are_refused_with_a_reason_and_not_endlessly(
    serve: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten a minute from one address; each is counted, the like is logged once."""
    make_token(tmp_path)
    agent = make_token(tmp_path, "agents", Right.INGEST)

    async def scenario(served: Served) -> None:
        wrong = await log_in(served.browser, agent)
        assert wrong.status_code == 401
        assert "Token agents allows ingest, not read." in wrong.text
        for _ in range(9):
            wrong = await log_in(served.browser, "<b>nonsense</b>")
        assert "<b>nonsense" not in wrong.text
        late = await log_in(served.browser, "nonsense")
        assert late.status_code == 429
        assert 1 <= int(late.headers["retry-after"]) <= 60
        assert served.counters.calls_refused == 10

    serve(scenario)
    assert caplog.text.count("refused at /login") == 2
    assert agent not in caplog.text


def test_failed_logins_are_forgotten_after_a_minute() -> None:
    """Those of others count apart; of IPv6, a /64 is one."""
    now = 600.0
    attempts = Attempts(lambda: now)
    for _ in range(10):
        attempts.fail("2001:db8::1")
    assert attempts.wait("2001:db8::2") == 60
    assert attempts.wait("2001:db8:0:1::1") == 0
    now += 60
    assert attempts.wait("2001:db8::1") == 0


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "/a\r\nb", "",
     "/\t/evil.example", "/login?next=/", "/logout"],
)  # fmt: skip
def test_a_login_leads_nowhere_but_to_our_pages(elsewhere: str) -> None:
    """Whatever a link says."""
    assert local_path(elsewhere) == "/"
    assert local_path("/host?name=web1&window=1h") == "/host?name=web1&window=1h"


def test_a_page_of_another_name_is_not_served(serve: Callable[..., None], tmp_path: Path) -> None:
    """Somebody else's name may lead to this machine, and its page would read along. What to do is said."""
    web = WebSettings(url="https://Loiter.example.net/")

    async def scenario(served: Served) -> None:
        async def status(host: str, path: str = "/login") -> int:
            return (await served.browser.get(path, headers={"host": host})).status_code

        ours = ("127.0.0.1", "[::1]:7434", "localhost:1", "loiter.example.net", "LOITER.example.net.:443", "10.0.0.7")
        assert [await status(host) for host in ours] == [303] * 6
        others = ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "127.0.0.1@evil", "[", "::",
                  "127.0.0.1:x@evil.example", "localhost:80@evil.example", "[::1]evil.example", "[localhost]", ".",
                  "localhost:x", "localhost evil.example", "localhost,evil.example", "localhost/")  # fmt: skip
        assert {host: await status(host) for host in others} == dict.fromkeys(others, 421)
        assert await status("10-0-0-7.pod.cluster.local", "/healthz") == 200, "load balancers have names of their own"
        assert await status("evil.example", served.site.state.static.url("loiter.css")) == 200, "to say it on a page"
        said = await served.browser.get("/metrics", headers={"host": "other.example"})
        assert "other.example" in said.text
        assert "web.url" in said.text

    serve(scenario, settings_of(tmp_path, web=web))


def test_what_changes_something_has_to_come_from_our_pages(serve: Callable[..., None], tmp_path: Path) -> None:
    """A browser says where it comes from, an older one by Origin; what is no browser has no login to abuse."""
    make_token(tmp_path)

    async def scenario(served: Served) -> None:
        async def status(headers: dict[str, str]) -> int:
            return (await served.browser.post("/logout", headers=headers)).status_code

        here = str(served.browser.base_url)
        assert await status({"sec-fetch-site": "same-origin", "origin": here}) == 303
        assert await status({"origin": here}) == 303
        assert await status({}) == 303
        assert await status({"sec-fetch-site": "cross-site", "origin": here}) == 403
        assert await status({"sec-fetch-site": "same-site"}) == 403
        assert await status({"origin": "https://evil.example"}) == 403
        assert await status({"origin": "null"}) == 403
        assert await status({"origin": "http://["}) == 403

    serve(scenario)


def test_a_form_is_small(serve: Callable[..., None], tmp_path: Path) -> None:
    """What is larger, or no form, is refused, whether or not it says how large it is."""
    make_token(tmp_path)

    async def scenario(served: Served) -> None:
        async def chunks() -> Any:
            for _ in range(50):
                yield b"x" * 1_000

        assert (await served.browser.post("/login", content=b"x" * 20_000)).status_code == 413
        assert (await served.browser.post("/login", content=chunks())).status_code == 413
        assert (await served.browser.post("/login", content=b"\xff\xfe")).status_code == 400
        assert (await served.browser.post("/login", content=b"a=1&" * 20)).status_code == 400

    serve(scenario)


def test_two_aggregators_of_one_machine_do_not_end_each_others_logins(
    serve: Callable[..., None], tmp_path: Path
) -> None:
    """Browsers keep cookies by host, whatever the port."""
    token = make_token(tmp_path)
    names = []

    async def scenario(served: Served) -> None:
        done = await log_in(served.browser, token)
        names.append(done.headers["set-cookie"].partition("=")[0])

    settings = settings_of(tmp_path)
    for port in ("127.0.0.1:0", "127.0.0.1:00"):
        serve(scenario, replace(settings, http=port))
    assert names == ["loiter-0", "loiter-00"]
