"""The live view, driven by keys as on a terminal, against an aggregator in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import FleetClient, connect
from loiter_aggregator.live.app import LiveView
from loiter_aggregator.live.pages import Content, Page, Ranking
from loiter_aggregator.live.sheet import SheetView
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, open_store, serving_in_background, store_samples
from support.reports import MINUTE, NOW, SECOND, explained, process, sample

HOSTILE = "<script>alert(1)</script>\x1b[2J=cmd()[bold]"
# What a test waits for comes within milliseconds, or not at all.
SECONDS = 20.0
SOON = 0.05


def fill(store: DuckDbStore, name: str, step: int, app: str, now: int = NOW) -> None:
    """Three samples of a host whose process gains `step` CLOSE_WAIT sockets a minute."""
    store_samples(
        store,
        name,
        [
            sample(
                now - (2 - tick) * MINUTE,
                100 + step * tick,
                time_wait=7,
                fd_allocated=200,
                fd_limit=1_000,
                processes=[explained(process(100, 100 + step * tick, app=app, name="gateway", fd_open=9, fd_limit=99))],
            )
            for tick in range(3)
        ],
        labels={"role": name.partition("-")[0]},
    )


@dataclass
class Served:
    """An aggregator, and what it keeps."""

    store: DuckDbStore
    clock: FakeClock
    client: FleetClient
    stop: Callable[[], None]


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """An aggregator with three hosts, of which one has the name of a nuisance."""
    store, clock = open_store(folder), FakeClock()
    fill(store, "web-1", 30, "shop.service")
    fill(store, "web-2", 20, "shop.service")
    fill(store, HOSTILE, 10, HOSTILE)
    with ExitStack() as stack:
        stack.callback(store.close)
        server = ExitStack()
        stack.push(server)
        address = server.enter_context(serving_in_background(store, clock))
        yield Served(store, clock, stack.enter_context(connect(address)), server.close)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetClient]:
    """Asks an aggregator in which nothing changes."""
    with serving(tmp_path_factory.mktemp("live")) as one:
        yield one.client


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """An aggregator of the test's own."""
    with serving(tmp_path) as one:
        yield one


class Screen:
    """What is on the screen of a view, and the keys to it."""

    def __init__(self, view: LiveView, pilot: Pilot[None]) -> None:
        self.view = view
        self.pilot = pilot

    def lines(self) -> list[str]:
        """The lines between the heading and the notes."""
        sheet = self.view.query_one(SheetView)
        return [sheet.render_line(y).text.rstrip() for y in range(sheet.size.height)]

    def said(self, name: str) -> str:
        """The text of a line that has a name."""
        line = self.view.query_one(f"#{name}", Static)
        return str(line.content) if line.display else ""

    def marked(self) -> str:
        """The line that is marked."""
        sheet = self.view.query_one(SheetView)
        strips = [sheet.render_line(y) for y in range(sheet.size.height)]
        return next(s.text for s in strips if any(part.style and part.style.reverse for part in s))

    async def press(self, *keys: str) -> None:
        """Presses keys."""
        await self.pilot.press(*keys)

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until something is so."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                await self.pilot.pause(0.01)

    async def shows(self, *texts: str) -> None:
        """Waits until the heading and the lines have all of these."""
        await self.until(lambda: all(text in "\n".join([self.said("heading"), *self.lines()]) for text in texts))


def live(
    client: FleetClient,
    test: Callable[[Screen], Awaitable[None]],
    page: Page | None = None,
    size: tuple[int, int] = (80, 24),
    refresh: float = 1.0,
) -> LiveView:
    """Runs a test on a view of the hosts, unless it is of another page."""

    async def run() -> LiveView:
        view = LiveView(client, page or ranking("hosts"), refresh=refresh)
        async with view.run_test(size=size) as pilot:
            screen = Screen(view, pilot)
            if page is None:
                await screen.shows("web-1", "web-2")
            await test(screen)
        return view

    return asyncio.run(run())


def ranking(what: str, **more: Any) -> Ranking:
    """A page that ranks."""
    return Ranking(pb.RankingQuery(limit=20), "close-wait-growth", 3_600.0, what=what, **more)


def test_it_looks_as_the_table_does(asked: FleetClient) -> None:
    """The same heading, columns and figures, what it rests on, and keys in the last line."""

    async def test(screen: Screen) -> None:
        assert screen.said("heading").startswith("hosts by close-wait-growth, last 1h")
        titles, first, second, third, *_ = screen.lines()
        assert titles.split()[:4] == ["#", "HOST", "CLOSE_WAIT", "GROWTH/h"]
        assert first.split()[:5] == ["1", "web-1", "160", "+1,800", "1.00"]
        assert second.split()[:4] == ["2", "web-2", "140", "+1,200"]
        assert third.split()[0] == "3"
        assert screen.marked().split()[:2] == ["1", "web-1"]
        assert screen.said("notes").startswith("3 of 3 hosts reporting")
        assert screen.said("keys").startswith("? help  q quit")

    live(asked, test)


def test_keys_sort_switch_and_change_the_window(asked: FleetClient) -> None:
    """The heading follows the answer."""

    async def test(screen: Screen) -> None:
        await screen.press("s")
        await screen.shows("hosts by stuck", "STUCK")
        await screen.press("2")
        await screen.shows("processes by stuck", "shop.service")
        await screen.press("3")
        await screen.shows("apps by stuck, last 1h", "PROCS")
        await screen.press("plus", "plus")
        await screen.shows("last 6h")
        await screen.press("minus")
        await screen.shows("last 3h")
        await screen.press("1", "g")
        await screen.shows("hosts by close-wait-growth, last 3h")

    live(asked, test)


def test_a_filter_is_applied_as_it_is_typed(asked: FleetClient) -> None:
    """Enter keeps it, Esc drops it; while it is typed, letters are no keys."""

    async def test(screen: Screen) -> None:
        await screen.press("slash", *"WEB-2")
        await screen.until(lambda: len(screen.lines()[1:3]) == 2 and "web-2" in screen.lines()[1])
        assert "web-1" not in "\n".join(screen.lines())
        await screen.press("enter")
        await screen.shows('last 1h, "WEB-2"')
        assert not screen.view.query_one("#filtering").display
        await screen.press("slash", *"q", "enter")
        await screen.shows('nothing has "WEB-2q" in its name')
        await screen.press("slash", "escape")
        await screen.shows("web-1", "web-2")
        await screen.press("slash", *"web-1", "enter")
        await screen.shows('"web-1"')
        await screen.press("escape")
        await screen.shows("web-2")

    live(asked, test)


def test_one_looks_into_a_host_and_its_process_and_back(asked: FleetClient) -> None:
    """With the row that was marked."""

    async def test(screen: Screen) -> None:
        await screen.press("down", "enter")
        await screen.shows("host web-2", "CLOSE_WAIT", "ESTAB", "+1,200/h", "shop.service")
        await screen.press("enter")
        await screen.shows("process 100 on web-2", "Does it hold CLOSE_WAIT sockets?")
        await screen.press("pagedown", "escape")
        await screen.shows("host web-2")
        await screen.press("backspace")
        await screen.shows("hosts by close-wait-growth", "web-1")
        assert screen.marked().split()[:2] == ["2", "web-2"]

    live(asked, test)


def test_one_looks_into_an_app_and_into_a_group(asked: FleetClient) -> None:
    """An app has its processes on all hosts, and a group its hosts."""

    async def test(screen: Screen) -> None:
        await screen.shows("shop.service")
        await screen.press("enter")
        await screen.shows("shop.service: processes by close-wait-growth", "web-1", "web-2")
        assert "script" not in "\n".join(screen.lines())
        await screen.press("enter")
        await screen.shows("process 100 on web-1")

    live(asked, test, ranking("apps"))

    async def groups(screen: Screen) -> None:
        await screen.shows("groups of role", "web")
        await screen.press("enter")
        await screen.shows("hosts by close-wait-growth, last 1h, role=web", "web-1")

    live(asked, groups, ranking("groups", label="role"))


def test_the_marked_row_follows_who_it_is(served: Served) -> None:
    """When another one is worse from then on."""

    async def test(screen: Screen) -> None:
        await screen.press("down")
        assert screen.marked().split()[:2] == ["2", "web-2"]
        served.clock.now += MINUTE
        fill(served.store, "web-2", 3_000, "shop.service", NOW + MINUTE)
        await screen.until(lambda: screen.lines()[1].split()[1] == "web-2")
        assert screen.marked().split()[:2] == ["1", "web-2"]

    live(served.client, test, refresh=SOON)


def test_names_do_nothing_to_the_terminal(asked: FleetClient) -> None:
    """On any page, and their markup is text."""

    async def test(screen: Screen) -> None:
        await screen.press("end", "enter")
        await screen.shows(r"host <script>alert(1)</script>\x1b[2J=cmd()[bold]")
        everything = list(screen.lines())
        await screen.press("enter")
        await screen.shows("process 100 on <script>")
        everything += [*screen.lines(), screen.said("heading")]
        assert "\x1b" not in "".join(everything)
        assert "[bold]" in "".join(everything)

    live(asked, test, size=(200, 50))


@pytest.mark.parametrize("size", [(40, 10), (300, 100)])
def test_it_fits_terminals_of_any_size(asked: FleetClient, size: tuple[int, int]) -> None:
    """Also one that changes while it is shown."""

    async def test(screen: Screen) -> None:
        await screen.pilot.resize_terminal(*size)
        await screen.until(lambda: screen.view.query_one(SheetView).size.width == size[0])
        await screen.shows("web-1", "160")
        assert ("LAST REPORT" in screen.lines()[0]) == (size[0] > 200)
        assert len(screen.said("heading")) <= size[0]
        await screen.pilot.resize_terminal(80, 24)
        await screen.shows("web-1", "FD%")

    live(asked, test)


def test_a_lost_server_leaves_the_last_answer_marked_as_stale(served: Served) -> None:
    """With the reason; what it shows stays what was answered, whatever is asked then."""

    async def test(screen: Screen) -> None:
        served.stop()
        await screen.until(lambda: "STALE" in screen.said("heading"))
        assert "no aggregator answers at" in screen.said("trouble")
        assert "web-1" in screen.lines()[1]
        await screen.press("s")
        await screen.until(lambda: screen.view.shown.page.by == "stuck")
        assert "by close-wait-growth" in screen.said("heading")

    live(served.client, test, refresh=SOON)


class Slow(Page):
    """An answer that takes as long as it is told to."""

    may = threading.Event()

    def heading(self) -> str:
        return "slow"

    def ask(self, client: FleetClient) -> Content:  # noqa: ARG002 - a page's
        assert self.may.wait(SECONDS)
        raise click.ClickException("the \x1b[2J[bold]reason")


def test_a_slow_answer_keeps_no_key_waiting(asked: FleetClient) -> None:
    """After a second it is said that it is waited for; and a reason is text, too."""

    async def test(screen: Screen) -> None:
        await screen.until(lambda: "asking, " in screen.said("heading"))
        await screen.press("question_mark")
        await screen.shows("this help")
        await screen.press("escape")
        Slow.may.set()
        await screen.until(lambda: "[bold]reason" in screen.said("trouble"))
        assert "\x1b" not in screen.said("trouble")
        assert "no answer yet" in screen.said("heading")

    live(asked, test, Slow(pb.RankingQuery(), "stuck", 60.0))


def test_a_pause_keeps_the_answer_until_it_ends(served: Served) -> None:
    """Other pages are asked for all the same."""

    async def test(screen: Screen) -> None:
        await screen.press("space")
        await screen.until(lambda: "paused" in screen.said("heading"))
        served.clock.now += 10 * SECOND
        fill(served.store, "web-9", 9_000, "shop.service", NOW + 10 * SECOND)
        await screen.press("enter")
        await screen.shows("host web-1")
        await screen.press("escape")
        await screen.shows("hosts by")
        assert "web-9" not in "\n".join(screen.lines())
        await screen.press("space")
        await screen.shows("web-9")

    live(served.client, test)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_it_is_left_by_a_key(asked: FleetClient, key: str) -> None:
    """Ctrl-C also while a text is typed."""

    async def test(screen: Screen) -> None:
        await screen.press(*(("slash", "x") if key == "ctrl+c" else ()), key)
        await screen.until(lambda: not screen.view.is_running)

    assert live(asked, test).return_code == 0
