"""A browser that looks at the web page, and notes whatever a page must not do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NOTE_VIOLATIONS: Final = """
    window.violations = [];
    document.addEventListener("securitypolicyviolation",
        (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
"""
# Of a machine that does much else at the same time.
_PATIENCE_MS: Final = 20_000
_GRAVE: Final = ("serious", "critical")


@contextmanager
def running_browser(path: str) -> Iterator[Browser]:
    """Runs a browser for as long as the block lasts."""
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True, slots=True)
class Watched:
    """A page, and what it did: `wrong` is to stay empty, `requests` are the addresses that it asked for."""

    page: Page
    origin: str
    wrong: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def show(self, path: str) -> Page:
        """Opens an address of the site, until its answer is there."""
        self.page.goto(self.origin + path)
        self.page.locator("#main").wait_for()
        if self.page.locator("#live").count():
            self.page.locator("#live:not([data-soon=yes])").wait_for()
        return self.page

    def check(self) -> None:
        """Asserts that it did nothing that a page must not do."""
        assert self.page.evaluate("window.violations") == []
        assert self.wrong == []

    def grave_violations(self, *rules: str) -> list[str]:
        """What axe-core finds that keeps people from using the page; by these rules alone where some are given."""
        options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
        found: dict[str, Any] = Axe().run(self.page, options=options).response
        return [
            json.dumps({"rule": one["id"], "where": [node["html"][:200] for node in one["nodes"][:3]]})
            for one in found["violations"]
            if one["impact"] in _GRAVE
        ]

    def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wide


@contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """Opens a page in a profile of its own, with the options of Browser.new_context."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(_PATIENCE_MS)
    try:
        yield _watched(context, url)
    finally:
        context.close()


def _watched(context: BrowserContext, url: str) -> Watched:
    context.add_init_script(_NOTE_VIOLATIONS)
    one = Watched(context.new_page(), url)

    def on_request(request: Request) -> None:
        address = urlsplit(request.url)
        one.requests.append(request.url)
        if f"{address.scheme}://{address.netloc}" != url:
            one.wrong.append(f"asked elsewhere: {request.url}")

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            one.wrong.append(f"console: {message.text}")

    def on_dialog(dialog: Any) -> None:
        one.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    one.page.on("request", on_request)
    one.page.on("console", on_console)
    one.page.on("pageerror", lambda error: one.wrong.append(f"error: {error}"))
    one.page.on("dialog", on_dialog)
    return one
