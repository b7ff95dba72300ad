"""Measures how soon a browser shows the ranking of a large fleet: the page, and the table on it.

A real `loiter serve` over a store with an hour of 10,000 hosts, and a headless Chromium, both on this machine. Prints a
Markdown table. Needs two gigabytes of disk, and three minutes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser

sys.path.insert(0, str(Path(__file__).parents[1]))

from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.browser import running_browser, watched
from support.large_store import make_large_store
from support.programs import BIN, Command, free_port, running

# Notes when the first row of a table is there, in milliseconds since the navigation began.
_NOTE_TABLE = """
    new MutationObserver((_, observer) => {
        if (document.querySelector("#live tbody tr")) {
            window.tableAt = performance.now();
            observer.disconnect();
        }
    }).observe(document, { childList: true, subtree: true });
"""
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def measure(browser: Browser, url: str, path: str) -> tuple[float, float]:
    """Opens a page in a profile with nothing in its cache: milliseconds to its first paint, and to the table."""
    with watched(browser, url) as one:
        one.page.add_init_script(_NOTE_TABLE)
        one.page.goto(url + path)
        one.page.locator("#live tbody tr").first.wait_for(timeout=60_000)
        one.page.wait_for_timeout(200)
        one.check()
        return one.page.evaluate(_PAINT), one.page.evaluate("window.tableAt")


def roll_all(folder: Path) -> None:
    """Rolls what there is, as an aggregator that took it in has long done: it would do so beside what is measured."""
    store = DuckDbStore(folder, "2GB")
    try:
        while store.roll(time.time_ns() // 1_000_000):
            pass
    finally:
        store.close()


def paint_of_a_word(browser: Browser, url: str) -> float:
    """Opens a page of one word in a profile with nothing in its cache: what no page can go below."""
    with watched(browser, url) as one:
        one.page.goto(url + "/healthz")
        one.page.wait_for_timeout(200)
        paint: float = one.page.evaluate(_PAINT)
        return paint


@contextmanager
def serving(folder: Path, port: int) -> Iterator[str]:
    """Runs an aggregator over the store from when it listens, and yields the address of its page."""
    command: Command = [BIN / "loiter", "serve", "--listen", f"127.0.0.1:{free_port()}", "--http", f"127.0.0.1:{port}"]
    with running([*command, "--data-dir", folder], folder / f"aggregator-{port}.log") as program:
        program.wait_for_log("store in", 60)
        yield f"http://127.0.0.1:{port}"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=7)
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        make_large_store(folder, options.hosts)
        roll_all(folder)
        browser = stack.enter_context(running_browser(chromium))
        measure_empty(browser)
        rows: list[tuple[str, list[tuple[float, float]]]] = []
        floor: list[float] = []
        for what in ("hosts", "processes", "apps"):
            path = f"/top/{what}"
            with serving(folder, free_port()) as url:
                look = partial(measure, browser, url)
                rows.append((f"{path}, the first since the start", [look(path)]))
                rows.append((f"{path}, not asked before", repeated(options.times, look, f"{path}?limit={{}}")))
                rows.append((f"{path}, again", repeated(options.times, look, path)))
                floor += [paint_of_a_word(browser, url) for _ in range(options.times)]
        print(f"{options.hosts:,} hosts; medians of {options.times}, with the most\n")
        print("| ranking | first paint | table |\n|---|---:|---:|")
        print(f"| /healthz, one word of plain text | {told(floor)} | |")
        for title, times in rows:
            print(f"| {title} | {told([paint for paint, _ in times])} | {told([table for _, table in times])} |")


def measure_empty(browser: Browser) -> None:
    """Opens a first page: what the browser itself does only once is not measured."""
    page = browser.new_page()
    page.goto("about:blank")
    page.close()


def repeated(times: int, look: Callable[[str], tuple[float, float]], path: str) -> list[tuple[float, float]]:
    """Measures a page again and again; a place in its address makes it another question each time."""
    found = []
    for time_ in range(times):
        found.append(look(path.format(21 + time_)))
        time.sleep(0.5)
    return found


def told(milliseconds: list[float]) -> str:
    """The median, and the most where there are several."""
    median = f"{statistics.median(milliseconds):,.0f} ms"
    return median if len(milliseconds) == 1 else f"{median} ({max(milliseconds):,.0f})"


if __name__ == "__main__":
    main()
