"""What the web page says when there is nothing to show yet, and when the aggregator is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.browser import running_browser, watched
from support.programs import BIN, Command, Program, agent_command, free_port, running


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """The browser; it ends with this module, since its event loop is in the way of others'."""
    with running_browser(chromium) as one:
        yield one


def _aggregator(folder: Path, server: str, http: str) -> Program:
    """Starts an aggregator with a store of its own, which has nothing in it the first time."""
    command: Command = [BIN / "loiter", "serve", "--listen", server, "--http", http, "--data-dir", folder / "store"]
    program = Program(command, folder / "aggregator.log")
    program.wait_for_log("store in", 30)
    return program


def test_a_page_goes_from_nothing_to_a_host_to_a_lost_aggregator_and_on(browser: Browser, tmp_path: Path) -> None:
    """It is never loaded again meanwhile, and says at each step what is the matter and what to do."""
    server, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    program = _aggregator(tmp_path, server, http)
    try:
        with watched(browser, f"http://{http}") as one:
            page = one.show("/top/hosts")
            page.evaluate("document.kept = true")
            expect(page.locator("#live")).to_contain_text("No host has reported yet")
            expect(page.locator("#live pre")).to_contain_text("loiter-agent install --server")
            assert one.grave_violations() == []
            with running(agent_command(server, tmp_path, "--hostname", "first"), tmp_path / "agent.log"):
                expect(page.locator("tbody tr")).to_contain_text("first", timeout=30_000)
                one.check()

                program.stop()
                expect(page.locator("#lost")).to_contain_text("No answer from the aggregator", timeout=10_000)
                expect(page.locator("#lost")).to_have_attribute("role", "alert")
                expect(page.locator("tbody tr")).to_contain_text("first")
                assert one.grave_violations() == []

                one.wrong.clear()  # the browser's own words on requests that were refused
                program = _aggregator(tmp_path, server, http)
                expect(page.locator("#lost")).to_be_hidden(timeout=10_000)
                assert page.evaluate("document.kept"), "the page was loaded again"
    finally:
        program.stop()


def test_the_first_page_of_an_empty_fleet_says_how_to_begin(browser: Browser, tmp_path: Path) -> None:
    """On every page that has nothing to show."""
    server, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    program = _aggregator(tmp_path, server, http)
    try:
        with watched(browser, f"http://{http}") as one:
            expect(one.show("/").locator("#live")).to_contain_text("No host has reported yet")
            assert one.grave_violations() == []
            for what in ("processes", "apps"):
                expect(one.show(f"/top/{what}").locator("#live")).to_contain_text("No host has reported yet")
            expect(one.show("/top/hosts").locator("#live pre")).to_contain_text("--server AGGREGATOR:")
            expect(one.page.locator("#live")).to_contain_text(f"loiter-agent run --server {server}")
            expect(one.show("/reports").locator("#live")).to_contain_text("loiter report --preview")
            one.check()
    finally:
        program.stop()
