"""The web page in a real browser, over a running fleet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import Browser, expect

from loiter.text import printable
from support.browser import Watched, running_browser, watched
from support.programs import ask
from support.synthetic_fleet import HOSTILE, SILENT
from support.watched_fleet import WatchedFleet

_LEAK = "forgets_to_close.py"
_PAGES = {
    "/": "Fleet",
    "/top/hosts": "Hosts",
    "/top/processes?window=10m&by=stuck": "Processes",
    "/top/apps?wide=1": "Apps",
    "/top/groups": "Groups",
    "/top/groups?group_by=role": "Groups by role",
    "/host?name=web-1": "web-1",
    f"/host?name={SILENT}": SILENT,
    f"/host?name={quote(HOSTILE)}": r"</script>\x1b[2J=cmd()",
    "/process?host={host}&pid={pid}&window=10m": "",
    f"/app?name={_LEAK}": _LEAK,
    f"/app?name={quote(HOSTILE)}": r"</script>\x1b[2J=cmd()",
    "/sockets?host={host}&state=close-wait&limit=10": "Sockets",
    "/alerts": "Alerts",
    "/reports": "Reports",
    "/top/hosts?match=nosuchhost": "Hosts",
}


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """The browser; it ends with this module, since its event loop is in the way of others'."""
    with running_browser(chromium) as one:
        yield one


@pytest.fixture
def desk(browser: Browser, fleet: WatchedFleet) -> Iterator[Watched]:
    """A page on a desk, which has done nothing wrong when the test ends."""
    with watched(browser, fleet.url) as one:
        yield one
        one.check()


def _asks_again(desk: Watched) -> bool:
    """Whether the page asks for anything in the next half minute of its clock, which has to be installed."""
    before = len(desk.requests)
    for _ in range(6):
        desk.page.clock.fast_forward(5_000)
        desk.page.wait_for_timeout(50)
    return len(desk.requests) > before


def _names(page: Any) -> list[str]:
    return [name.strip() for name in page.locator("#live table .row-link").all_inner_texts()]


@pytest.mark.parametrize("path", _PAGES)
def test_a_page_is_usable_by_everyone_light_and_dark_and_on_a_phone(
    desk: Watched, fleet: WatchedFleet, path: str
) -> None:
    """It says in its title what it shows, and breaks no rule of its content security policy."""
    page = desk.show(path.format(host=fleet.host, pid=fleet.leaking_pid))
    assert page.title().endswith(" · loiter")
    expect(page.locator("h1")).to_contain_text(_PAGES[path])
    assert desk.grave_violations() == []
    page.emulate_media(color_scheme="dark")
    assert desk.grave_violations("color-contrast") == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert desk.overflow() == 0


@pytest.mark.parametrize("path", ["/top/hosts?by=nonsense", "/host?name=nosuchhost", "/nosuchpage", "/host"])
def test_an_address_that_can_not_be_answered_says_what_to_do(browser: Browser, fleet: WatchedFleet, path: str) -> None:
    """And is as usable as any other."""
    with watched(browser, fleet.url) as one:
        page = one.show(path)
        assert one.grave_violations() == []
        expect(page.locator("#main")).not_to_contain_text("Traceback")
        page.locator("#main a").first.click()
        expect(page.locator("h1")).to_contain_text("Fleet")
        assert [wrong for wrong in one.wrong if "Failed to load resource" not in wrong] == []


@pytest.mark.parametrize(
    ("what", "parameters", "flags"),
    [
        ("hosts", {"label": "role=web"}, ("--label", "role=web")),
        ("processes", {"match": "ORDER", "window": "6h"}, ("--match", "ORDER", "--window", "6h")),
        ("processes", {"cause": "stalled_reader"}, ("--cause", "stalled_reader")),
        ("processes", {"app": "order-api.service", "limit": "50"}, ("--app", "order-api.service")),
        ("apps", {"by": "ports"}, ("--by", "ports")),
    ],
)
def test_an_address_filters_as_the_command_line_does(
    desk: Watched, fleet: WatchedFleet, what: str, parameters: dict[str, str], flags: tuple[str, ...]
) -> None:
    """What was filtered is the same in the same order, and stands in the form."""
    until = (datetime.now(UTC) - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    page = desk.show(f"/top/{what}?{urlencode({**parameters, 'until': until})}")
    rows = ask(fleet.server, "top", what, *flags, "--until", until)
    key = {"hosts": "host", "processes": "pid", "apps": "app"}[what]
    assert rows
    assert _names(page) == [printable(str(row[key])) for row in rows]
    for name, value in parameters.items():
        assert page.locator(f"[name={name}]").first.input_value() == value


def test_a_click_on_the_heading_of_a_measure_ranks_by_it(desk: Watched) -> None:
    """And the filters stay."""
    page = desk.show("/top/hosts?label=role%3Dweb")
    page.get_by_role("link", name="STUCK").click()
    expect(page.locator("th[aria-sort]")).to_have_text("STUCK")
    assert "by=stuck" in page.url
    assert "label=role%3Dweb" in page.url
    stuck = page.locator("th", has_text="STUCK").evaluate("(cell) => cell.cellIndex")
    figures = page.locator("tbody tr").evaluate_all(
        "(rows, at) => rows.map((row) => row.cells[at].textContent.trim())", stuck
    )
    counts = [int(figure.replace(",", "")) for figure in figures if figure != "-"]
    assert len(counts) > 1
    assert counts == sorted(counts, reverse=True)


def test_a_link_to_this_moment_goes_on_showing_it(desk: Watched) -> None:
    """Whoever opens it later sees the same figures, and they do not change."""
    desk.page.clock.install()
    page = desk.show(f"/top/apps?match={_LEAK}&window=10m")
    page.get_by_role("link", name="link to this moment").click()
    page.locator("#live:not([data-soon=yes])").wait_for()
    expect(page.locator(".notice.past")).to_contain_text("until")
    figures = page.locator("tbody tr").first.inner_text()
    assert _LEAK in figures
    assert not _asks_again(desk)
    page.reload()
    page.locator("#live:not([data-soon=yes])").wait_for()
    assert page.locator("tbody tr").first.inner_text() == figures
    page.get_by_role("link", name="back to now").click()
    expect(page.locator("#updated")).to_contain_text("ago")
    assert "until" not in page.url


def test_a_ranking_is_downloaded_with_the_filters_of_the_page(desk: Watched, fleet: WatchedFleet) -> None:
    """With the keys of the command line, and a cell that a spreadsheet would run made harmless."""
    page = desk.show("/top/apps?limit=50")
    files = {}
    for form in ("CSV", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("link", name=form, exact=True).click()
        files[form] = download.value.path().read_bytes().decode()
        assert download.value.suggested_filename == f"loiter-apps.{form.lower()}"
    rows = list(csv.DictReader(io.StringIO(files["CSV"])))
    assert {row["app"] for row in rows} >= {_LEAK, r"<script>alert(1)</script>\x1b[2J=cmd()"}
    assert json.loads(files["JSON"])[0].keys() == ask(fleet.server, "top", "apps")[0].keys()


def test_figures_change_without_a_reload_and_nothing_is_lost_by_it(desk: Watched) -> None:
    """Focus, what was typed, what was opened, where one was, and the document itself."""
    page = desk.show(f"/app?name={_LEAK}&window=10m")
    page.evaluate("document.kept = true")
    page.locator("#app-table summary").click()
    page.locator("#app-close_wait canvas").evaluate("(canvas) => { canvas.kept = true; }")
    page.locator("#live .row-link").first.focus()
    page.evaluate("scrollTo(0, 200)")
    scrolled = page.evaluate("scrollY")
    assert scrolled > 0
    value = page.locator("#app-close_wait .value")
    before = value.inner_text()
    expect(value).not_to_have_text(before, timeout=40_000)
    assert page.evaluate("document.kept")
    assert page.locator("#app-close_wait canvas").evaluate("(canvas) => canvas.kept"), "the chart was made anew"
    assert page.locator("#app-table").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.className") == "row-link"
    assert page.evaluate("scrollY") == scrolled


def test_a_filter_that_is_being_typed_survives_an_update(desk: Watched) -> None:
    """With the cursor where it was."""
    desk.page.clock.install()
    page = desk.show("/top/processes?window=10m")
    page.keyboard.press("/")
    page.keyboard.type("half a na")
    page.keyboard.press("ArrowLeft")
    page.locator("#live").evaluate(
        "(live) => live.addEventListener('htmx:after:swap', () => { document.documentElement.dataset.swapped = 1; })"
    )
    with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
        page.clock.fast_forward(5_000)
    page.locator("html[data-swapped]").wait_for()
    typed = page.locator("#f-match")
    expect(typed).to_be_focused()
    assert typed.input_value() == "half a na"
    assert typed.evaluate("(field) => field.selectionStart") == 8


def test_updates_pause_on_request_and_in_a_tab_that_nobody_sees(desk: Watched) -> None:
    """And go on at once afterwards."""
    desk.page.clock.install()
    page = desk.show("/alerts")
    page.get_by_role("button", name="pause").click()
    expect(page.get_by_role("button", name="go on")).to_have_attribute("aria-pressed", "true")
    assert not _asks_again(desk)
    with page.expect_response("**/alerts"):
        page.get_by_role("button", name="go on").click()
    page.evaluate("""
        Object.defineProperty(document, "hidden", { configurable: true, get: () => window.unseen });
        window.unseen = true;
        document.dispatchEvent(new Event("visibilitychange"));
    """)
    page.wait_for_timeout(300)
    assert not _asks_again(desk)
    with page.expect_response("**/alerts"):
        page.evaluate("window.unseen = false; document.dispatchEvent(new Event('visibilitychange'))")


def test_everything_is_reached_by_keys_alone(desk: Watched, fleet: WatchedFleet) -> None:
    """The content at once, the filter, the rows, a process, the other pages, and what keys there are."""
    page = desk.show("/top/processes?window=10m")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type(_LEAK)
    page.keyboard.press("Enter")
    page.wait_for_url("**match=forgets_to_close.py*")
    page.locator("#live:not([data-soon=yes])").wait_for()
    assert "app=" not in page.url
    page.keyboard.press("j")
    expect(page.locator(".row-link").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text(f"on {fleet.host}")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("6")
    page.wait_for_url("**/alerts")


def test_single_keys_can_be_switched_off(desk: Watched) -> None:
    """For those who speak to their browser."""
    page = desk.show("/alerts")
    page.keyboard.press("?")
    page.get_by_label("use single keys").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("1")
    page.wait_for_timeout(300)
    assert page.url.endswith("/alerts")


def test_the_colours_are_chosen_by_hand_and_remembered(desk: Watched) -> None:
    """Light, dark, as the system."""
    page = desk.show("/alerts")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.keyboard.press("t")
    page.keyboard.press("t")
    dark = page.evaluate(background)
    assert dark != light
    page = desk.show("/reports")
    assert page.evaluate(background) == dark
    page.keyboard.press("t")
    assert page.evaluate(background) == light


@pytest.mark.parametrize("path", ["/", "/top/processes", "/process?host={host}&pid={pid}"])
def test_a_page_is_whole_at_200_percent_and_shows_where_the_keys_go(
    browser: Browser, fleet: WatchedFleet, path: str
) -> None:
    """Of a screen of 1280 by 800 half as much is seen. Nothing moves by itself where people do not want that."""
    small = {"width": 640, "height": 400}
    with watched(browser, fleet.url, viewport=small, device_scale_factor=2, reduced_motion="reduce") as one:
        page = one.show(path.format(host=fleet.host, pid=fleet.leaking_pid))
        assert one.overflow() == 0
        assert page.evaluate("document.getAnimations().length") == 0
        ring = "getComputedStyle(document.activeElement).outlineStyle"
        for _ in range(25):
            page.keyboard.press("Tab")
            assert page.evaluate(ring) == "solid", page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        one.check()


def test_what_words_mean_is_there_without_a_pointer(browser: Browser, fleet: WatchedFleet) -> None:
    """On a phone; what was opened stays so when the page asks again."""
    with watched(browser, fleet.url, viewport={"width": 390, "height": 844}) as one:
        page = one.show(f"/process?host={fleet.host}&pid={fleet.leaking_pid}")
        words = page.locator("#why-words")
        words.locator("summary").click()
        for word in ("r²", "Survival", "turnover", "explains of that growth"):
            expect(words).to_contain_text(word)
        with page.expect_response(lambda answer: "/process?" in answer.url):
            page.locator("#again").click()
        page.wait_for_timeout(300)
        expect(words).to_have_attribute("open", "")
        page = one.show("/top/processes")
        page.locator("#columns-meaning summary").click()
        expect(page.locator("#columns-meaning")).to_contain_text("Time until the file descriptors run out")
        assert one.overflow() == 0
        one.check()


def test_a_chart_says_the_value_under_the_pointer(desk: Watched) -> None:
    """And when that was; the latest stands there again when the pointer leaves."""
    page = desk.show("/host?name=web-1")
    latest = page.locator("#host-close_wait .value").inner_text()
    page.locator("#host-time_wait .u-over").hover(position={"x": 40, "y": 40})
    expect(page.locator("#host-close_wait .at")).to_contain_text("UTC")
    assert page.locator("#host-close_wait .value").inner_text() != latest
    page.mouse.move(0, 0)
    expect(page.locator("#host-close_wait .at")).to_have_text("")


def test_a_process_shows_its_cause_its_forecast_and_the_ages_of_its_sockets(desk: Watched, fleet: WatchedFleet) -> None:
    """The ages are read on the host, when the page is looked at."""
    page = desk.show(f"/process?host={fleet.host}&pid={fleet.leaking_pid}&window=10m")
    expect(page.locator(".verdict .tag")).to_have_text("leak")
    expect(page.locator("#forecast canvas")).to_be_visible()
    expect(page.locator("#ages .histogram")).to_contain_text("sockets")
    page.get_by_role("link", name="socket by socket").click()
    expect(page.locator("tbody tr").first).to_contain_text("CLOSE_WAIT")
    expect(page.locator("tbody tr").first).to_contain_text(_LEAK)


def test_sockets_are_read_again_only_when_asked_for(desk: Watched, fleet: WatchedFleet) -> None:
    """Each reading costs the host."""
    desk.page.clock.install()
    page = desk.show(f"/sockets?host={fleet.host}&pid={fleet.leaking_pid}&limit=5")
    assert page.locator("tbody tr").count() == 5
    assert not _asks_again(desk)
    read = page.locator(".coverage").inner_text()
    page.get_by_role("button", name="refresh").click()
    expect(page.locator(".coverage")).not_to_have_text(read)


def test_hostile_names_are_shown_and_do_nothing(desk: Watched) -> None:
    """Neither dialogs nor elements come of them; control characters are escaped."""
    page = desk.show("/top/processes?window=1h&limit=50&wide=1")
    shown = page.locator("#live").inner_text()
    assert r"<script>alert(1)</script>\x1b[2J=cmd()" in shown
    assert "\x1b" not in page.content()
    assert page.locator("#live script").count() == 0
    page.locator(".row-link", has_text="666").first.click()
    expect(page.locator("h1")).to_contain_text(r"<script>alert(1)</script>\x1b[2J=cmd()")
    assert page.locator("main script").count() == 0


def test_rankings_are_read_without_scripts(browser: Browser, fleet: WatchedFleet) -> None:
    """Filters too: they are a form."""
    with watched(browser, fleet.url, java_script_enabled=False) as one:
        one.page.goto(f"{fleet.url}/top/processes?window=10m")
        expect(one.page.locator("tbody")).to_contain_text(_LEAK)
        one.page.locator("#f-match").fill("order-api")
        one.page.get_by_role("button", name="Show").click()
        expect(one.page.locator("tbody")).to_contain_text("order-api")
        expect(one.page.locator("tbody")).not_to_contain_text(_LEAK)
