"""The pages of a store, as they are sent: what is on them in each state, and that it is inert."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.responses import Response

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.fleet.errors import Overloaded, TookTooLong
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.web.address import moment
from loiter_aggregator.web.pages.ranking import ranking
from support.aggregators import FakeClock, open_store, store_samples
from support.reports import MINUTE, NOW, explained, process, sample
from support.web import Served, serving_page, settings_of

HOSTILE = "<script>alert(1)</script>\x1b[2J=cmd()"
SHOWN = "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J=cmd()"
PAGE = {"accept": "text/html"}
ADDRESSES = (
    "/",
    "/top/hosts",
    "/top/processes",
    "/top/apps",
    "/top/groups",
    "/top/groups?group_by=role",
    "/host?name=web1",
    "/process?host=web1&pid=7",
    "/app?name=shop.service",
    "/alerts",
    "/reports",
)
SENSELESS = (
    "/top/hosts?by=size",
    "/top/hosts?cause=greed",
    "/top/hosts?limit=0",
    "/top/hosts?window=never",
    "/top/hosts?until=noon",
    "/host",
    "/host?name=web1&by=size",
    "/process?host=web1",
    "/process?host=web1&pid=x",
    "/app",
    "/sockets",
    "/sockets?host=web1&state=asleep",
    "/top/groups?group_by=role&app=shop.service",
)
Scenario = Callable[[Served], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDbStore]:
    """A host that leaks, one with names that nobody should have, and one that fell silent; no test changes them."""
    store = open_store(tmp_path_factory.mktemp("store"))
    ticks = range(NOW - 20 * MINUTE, NOW, MINUTE)
    leak = [
        sample(tick, 100 + at, processes=[explained(process(7, 100 + at, app="shop.service", fd_open=200 + at))])
        for at, tick in enumerate(ticks)
    ]
    hostile = [sample(tick, 5, processes=[process(66, 5, name=HOSTILE, app=HOSTILE, user=HOSTILE)]) for tick in ticks]
    store_samples(store, "web1", leak, labels={"role": "web"}, interval_ms=MINUTE)
    store_samples(store, HOSTILE, hostile, labels={"role": HOSTILE}, interval_ms=MINUTE)
    store_samples(store, "gone", [sample(NOW - 50 * MINUTE, 3)])
    yield store
    store.close()


@pytest.fixture
def look(filled: DuckDbStore, clock: FakeClock, tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs a scenario against the pages of the store."""

    def run(scenario: Scenario) -> None:
        async def serving() -> None:
            async with serving_page(filled, clock, settings_of(tmp_path)) as served:
                await scenario(served)

        asyncio.run(asyncio.wait_for(serving(), 60))

    return run


async def _page(served: Served, address: str) -> str:
    """A page once its answers have come."""
    for _ in range(100):
        answer = await served.browser.get(address, headers=PAGE)
        assert answer.status_code == 200, (address, answer.text)
        if "<noscript><meta http-equiv" not in answer.text:
            return answer.text
        await asyncio.sleep(0.05)
    raise AssertionError(f"{address} goes on loading")


def test_every_page_is_whole_and_inert(look: Callable[[Scenario], None]) -> None:
    """Neither a script nor a style stands in a page, nor a control character; names are shown escaped."""

    async def scenario(served: Served) -> None:
        hostile = quote(HOSTILE)
        of_hostile = (
            f"/host?name={hostile}",
            f"/process?host={hostile}&pid=66",
            f"/app?name={hostile}",
            f"/top/hosts?label=role%3D{hostile}",
        )
        addresses = (*ADDRESSES, *of_hostile)
        few = asyncio.Semaphore(3)  # a page asks several questions, and one asker has only so many waiting

        async def page(address: str) -> str:
            async with few:
                return await _page(served, address)

        pages = dict(zip(addresses, await asyncio.gather(*(page(one) for one in addresses)), strict=True))
        for html in pages.values():
            assert "<title>" in html
            assert "</html>" in html
            assert "\x1b" not in html
            assert "<script>" not in html
            assert " style=" not in html
            assert " onclick=" not in html
        for address in ("/top/hosts", "/top/processes", "/top/apps", "/top/groups?group_by=role", "/"):
            assert SHOWN in pages[address], address

    look(scenario)


def test_what_is_asked_in_an_address_is_inert_too(look: Callable[[Scenario], None]) -> None:
    """On the page that answers, and on the one that refuses."""

    async def scenario(served: Served) -> None:
        asked = quote('"><script>alert(1)</script>\x1b')
        for address in (
            f"/top/hosts?match={asked}&app={asked}",
            f"/top/hosts?by={asked}",
            f"/top/hosts?label={asked}",
            f"/top/hosts?until={asked}",
            f"/host?name={asked}",
            f"/app?name={asked}",
            f"/sockets?host={asked}",
            f"/top/{asked}",
        ):
            html = (await served.browser.get(address, headers=PAGE)).text
            assert "<script>alert" not in html, address
            assert "\x1b" not in html, address

    look(scenario)


def test_an_address_that_makes_no_sense_is_refused_in_words(look: Callable[[Scenario], None]) -> None:
    """With the name of what is wrong, as for the command line."""

    async def scenario(served: Served) -> None:
        for address in SENSELESS:
            answer = await served.browser.get(address, headers=PAGE)
            assert answer.status_code == 400, address
            assert "That can not be asked" in answer.text

    look(scenario)


def test_a_silent_host_is_said_to_be_so(look: Callable[[Scenario], None]) -> None:
    """On its page, in the ranking and on the first page, with since when."""

    async def scenario(served: Served) -> None:
        assert "<b>Silent</b> since" in await _page(served, "/host?name=gone")
        assert '<span class="tag silent">silent</span>' in await _page(served, "/top/hosts")
        assert 'href="/host?name=gone"' in await _page(served, "/")

    look(scenario)


def test_an_answer_that_takes_long_is_waited_for_on_the_page(look: Callable[[Scenario], None]) -> None:
    """The page comes without it, says that it loads, and asks again, with scripts and without."""

    async def scenario(served: Served) -> None:
        slow = _SlowFleet(served.site.state.reading.fleet)
        served.site.state.reading = replace(served.site.state.reading, fleet=slow)
        html = (await served.browser.get("/top/hosts", headers=PAGE)).text
        assert 'data-soon="yes"' in html
        assert 'aria-busy="true"' in html
        assert '<noscript><meta http-equiv="refresh"' in html
        slow.go.set()
        assert "web1" in await _page(served, "/top/hosts")

    look(scenario)


def test_the_last_answer_stays_where_no_new_one_comes(look: Callable[[Scenario], None]) -> None:
    """With what went wrong above it; where there never was one, that is the page."""

    async def scenario(served: Served) -> None:
        slow = _SlowFleet(served.site.state.reading.fleet)
        slow.go.set()
        served.site.state.reading = replace(served.site.state.reading, fleet=slow)
        await _page(served, "/top/hosts")
        slow.error = TookTooLong("no answer within 30s")
        answers = served.site.state.answers
        await answers.ask(slow.rank_hosts, pb.RankHostsRequest(query=_FIRST), wait=None, fresh=0)
        html = await _page(served, "/top/hosts")
        assert "No answer within 30s." in html
        assert "web1" in html
        slow.error = Overloaded("100 questions wait")
        answer = await served.browser.get("/top/hosts?window=2h", headers=PAGE)
        assert answer.status_code == 503
        assert "data-again" in answer.text

    look(scenario)


def test_a_ranking_is_downloaded_whole(look: Callable[[Scenario], None]) -> None:
    """As a file; cells that a spreadsheet would run are harmless."""

    async def scenario(served: Served) -> None:
        answer = await served.browser.get("/top/processes.csv?match=cmd")
        assert answer.headers["content-disposition"] == 'attachment; filename="loiter-processes.csv"'
        assert answer.text.count("\r\n") == 2
        rows = json.loads((await served.browser.get("/top/hosts.json?label=role%3Dweb")).text)
        assert [row["host"] for row in rows] == ["web1"]
        for wrong in ("/top/hosts.xml", "/top/nothing.csv", "/top/nothing"):
            assert (await served.browser.get(wrong)).status_code == 404
        assert (await served.browser.get("/top/hosts.csv?by=size")).status_code == 400

    look(scenario)


def test_a_page_has_room_for_500_rows(look: Callable[[Scenario], None]) -> None:
    """The files that it leads to take as many as were asked for."""

    async def scenario(served: Served) -> None:
        for address in ("/top/hosts?limit=10000", "/host?name=web1&limit=10000"):
            await _page(served, address)
        asked = [key for key in served.site.state.answers._entries if key[0].endswith(("rank_hosts", "get_host"))]
        limits = [
            pb.RankHostsRequest.FromString(question).query.limit
            if method.endswith("rank_hosts")
            else pb.GetHostRequest.FromString(question).limit
            for method, _, question in asked
        ]
        assert limits == [500, 500]
        assert "/top/hosts.csv?limit=10000" in await _page(served, "/top/hosts?limit=10000")
        assert (await served.browser.get("/top/hosts.csv?limit=10000")).text.count("\r\n") == 4
        assert (await served.browser.get("/top/hosts?limit=10001", headers=PAGE)).status_code == 400

    look(scenario)


def test_agents_are_served_while_a_page_of_many_rows_is_made(
    look: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it comes packed, to whom takes that."""
    made = threading.Event()
    render: Callable[..., Response] = ranking.__globals__["render"]

    def slow(*arguments: Any) -> Response:
        assert made.wait(10), "nothing else was answered meanwhile"
        return render(*arguments)

    async def scenario(served: Served) -> None:
        await _page(served, "/top/hosts?limit=100")
        monkeypatch.setitem(ranking.__globals__, "render", slow)
        asking = asyncio.create_task(served.browser.get("/top/hosts?limit=100", headers=PAGE))
        for _ in range(3):
            assert (await served.browser.get("/healthz")).status_code == 200
        made.set()
        packed = await asking
        plain = await served.browser.get("/top/hosts?limit=100", headers=PAGE | {"accept-encoding": "identity"})
        assert (packed.headers["content-encoding"], plain.headers.get("content-encoding")) == ("gzip", None)
        assert "accept-encoding" in packed.headers["vary"].lower()
        assert "accept-encoding" in plain.headers["vary"].lower()
        assert "web1" in packed.text
        assert "web1" in plain.text

    look(scenario)


def test_a_host_of_a_moment_shows_nothing_of_now(look: Callable[[Scenario], None]) -> None:
    """Neither when it last reported nor what its latest sample says: only what is kept of then."""

    async def scenario(served: Served) -> None:
        of_now = ("Last report", "TIME_WAIT by destination", "Ephemeral ports", "CLOSE_WAIT</span> <b>", "Read by")
        page = await _page(served, "/host?name=web1")
        assert all(part in page for part in of_now)
        page = await _page(served, f"/host?name=web1&until={moment(NOW - 10 * MINUTE)}")
        assert [part for part in of_now if part in page] == []
        assert "shop.service" in page

    look(scenario)


def test_what_is_on_a_page_of_a_moment_is_of_that_moment(look: Callable[[Scenario], None]) -> None:
    """And says so; it does not ask again."""

    async def scenario(served: Served) -> None:
        html = await _page(served, "/top/hosts?until=2026-11-23T00:00:00Z&window=1h")
        assert 'data-refresh="never"' in html
        assert "1h until 2026-11-23 00:00:00 UTC" in html
        assert "back to now" in html

    look(scenario)


_FIRST = pb.RankingQuery(by=pb.RANK_BY_CLOSE_WAIT_GROWTH, limit=20)
_FIRST.window.FromSeconds(3_600)


@dataclass
class _SlowFleet:
    """A fleet whose rankings of hosts come when they are let go, or fail with an error."""

    fleet: Fleet
    go: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    async def rank_hosts(self, request: pb.RankHostsRequest) -> pb.RankHostsResponse:
        """Ranks hosts."""
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return await self.fleet.rank_hosts(request)
