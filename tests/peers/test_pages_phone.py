"""Reports, alerts and sockets on screens of all widths: what failed where is seen without scrolling sideways."""

from __future__ import annotations

import asyncio
import threading
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from loiter.v1 import socket_pb2
from loiter_aggregator.alerts.alerting import Alerting
from loiter_aggregator.alerts.file import load_alerts
from loiter_aggregator.fleet.sockets import Sockets
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.socket_queries import SocketQueries
from loiter_aggregator.links import Links
from loiter_aggregator.reports.due import Plan
from loiter_aggregator.reports.file import load_reports
from loiter_aggregator.reports.reporting import Reporting
from loiter_aggregator.reports.state import ReportState
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, open_store, store_samples
from support.browser import running_browser, watched
from support.reports import HOUR, MINUTE, NOW, lasting, process, sample, stamp
from support.web import serving_page, settings_of

_SIZES = {"phone": (390, 844), "tablet": (768, 1024), "desk": (1280, 800)}
_WEBHOOK = "webhook incident-channel-of-the-platform-team"
_REFUSED = "answered 403 Forbidden: this-token-has-no-right-to-post-in-that-channel"
_APP = "order-processing-api-of-the-shop.service"
_PEER = "[2001:db8:85a3:1234:5678:8a2e:370:7334]:54321"
_SILENT = "storefront-of-the-shop-17.eu-central.example.net"
_REPORTS = f"""
[[report]]
name = "daily-for-the-platform-team"
cron = "0 8 * * mon-fri"
time_zone = "America/Argentina/Buenos_Aires"
folder = "/srv/reports/of-the-whole-fleet"
mail_to = ["platform-oncall@example.net"]
webhooks = ["{_WEBHOOK.removeprefix("webhook ")}"]
[smtp]
host = "mail.example.net"
from = "loiter@example.net"
[[webhook]]
name = "{_WEBHOOK.removeprefix("webhook ")}"
url = "https://hooks.example.net/in"
"""


class _Agents(SocketQueries):
    """Agents that answer at once."""

    async def ask(self, host_key: int, query: socket_pb2.SocketQuery) -> socket_pb2.SocketAnswer:
        """Answers with a socket of a long address and name, and with one of which little is known."""
        del host_key
        known = socket_pb2.Socket(
            state=socket_pb2.TCP_STATE_CLOSE_WAIT,
            local="[2001:db8:85a3:1234:5678:8a2e:370:1]:8080",
            peer=_PEER,
            age=lasting(3 * HOUR),
            idle=lasting(2 * HOUR),
            receive_queue=1,
            send_queue=0,
            pid=4_194_303,
            app=_APP,
        )
        unknown = socket_pb2.Socket(state=socket_pb2.TCP_STATE_TIME_WAIT, local="10.0.0.1:80", peer="10.0.0.2:40000")
        return socket_pb2.SocketAnswer(
            sockets=[known, unknown], matching=2, query_id=query.query_id, sample_time=stamp(NOW)
        )


@dataclass(frozen=True, slots=True)
class _Site:
    """A web page that is served from a thread."""

    url: str
    store: DuckDbStore


@contextmanager
def _serving(folder: Path) -> Iterator[_Site]:
    """Serves the pages of a store with two hosts, and of reports that were refused and sent too early."""
    clock = FakeClock(NOW - HOUR)  # while there is no aggregator, nobody is silent
    store = open_store(folder)
    store_samples(store, "web-1", [sample(NOW - MINUTE, 3, processes=[process(7, 3)])])
    store_samples(store, _SILENT, [sample(NOW - 20 * MINUTE, 3)])
    file = folder / "reports.toml"
    file.write_text(_REPORTS)
    _fill(folder)
    loop, stop, ready, found = asyncio.new_event_loop(), asyncio.Event(), threading.Event(), list[str]()

    async def serve() -> None:
        async with serving_page(store, clock, settings_of(folder)) as served:
            state = served.site.state
            fleet = state.reading.fleet
            clock.now = NOW
            alerts = Alerting(load_alerts(None), fleet, Links(), folder, clock)
            await alerts.evaluate()
            state.reading = replace(
                state.reading,
                alerts=alerts,
                sockets=Sockets(fleet, _Agents(Counters(NOW))),
                reports=Reporting(load_reports(file), fleet, Links(), folder, clock),
            )
            found.append(f"http://127.0.0.1:{served.port}")
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield _Site(found[0], store)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        store.close()


def _fill(folder: Path) -> None:
    """Records what became of three reports: refused, missed, and sent by a clock that was ahead."""
    (report,) = tomllib.loads(_REPORTS)["report"]
    targets = [f"folder {report['folder']}", f"mail {report['mail_to'][0]}", _WEBHOOK]
    with closing(ReportState(folder)) as state:
        for at, due, missed in ((NOW - 2 * HOUR, NOW - 2 * HOUR, (NOW - 24 * HOUR,)), (NOW, NOW + HOUR, ())):
            plan = Plan(due, missed)
            state.note_due(report["name"], "", at, lambda _looked, plan=plan: plan)  # type: ignore[misc]
            (run,) = state.runs_to_build(NOW + HOUR)
            state.built(run.id, at, "Fleet report: 3 new, 1 worse, 2 resolved", b"", targets)
            to_folder, mail, webhook = state.deliveries(run.id)
            for delivery in (to_folder, mail, webhook):
                state.sending(delivery.id, at)
            state.delivered(to_folder.id, at)
            state.not_delivered(mail.id, "the mail server mail.example.net:25 refuses: 451 greylisted", NOW + MINUTE)
            state.not_delivered(webhook.id, _REFUSED, None)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """The browser; it ends with this module, since its event loop is in the way of others'."""
    with running_browser(chromium) as one:
        yield one


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Site]:
    """What is looked at."""
    with _serving(tmp_path_factory.mktemp("site")) as one:
        yield one


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/reports", (_WEBHOOK, _REFUSED, "built before its time", "missed: when it was due")),
        ("/alerts", ("firing", _SILENT, "2027-01-15 08:00:00 UTC")),
        ("/sockets?host=web-1", (_PEER, "4194303", _APP, "TIME_WAIT")),
    ],
)
def test_nothing_is_beyond_the_edge_of_a_card(
    browser: Browser, site: _Site, path: str, seen: tuple[str, ...], size: str
) -> None:
    """On a phone as on a desk, however long the names: what failed and where, whose a socket is and with whom."""
    width, height = _SIZES[size]
    with watched(browser, site.url, viewport={"width": width, "height": height}) as one:
        page = one.show(path)
        for text in seen:
            expect(page.locator("#live tbody").get_by_text(text).first).to_be_visible()
        beyond = "(all) => all.map((one) => one.scrollWidth - one.clientWidth)"
        assert set(page.locator("#live .scroll").evaluate_all(beyond)) == {0}
        assert one.overflow() == 0
        assert one.grave_violations() == []
        page.emulate_media(color_scheme="dark")
        assert one.grave_violations("color-contrast") == []
        one.check()
