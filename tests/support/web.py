"""Web pages of a store, served on a free port in the event loop of the test."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from loiter_aggregator.access.doors import reader_authenticator
from loiter_aggregator.access.principal import Right
from loiter_aggregator.access.tokens import add
from loiter_aggregator.clock import Clock
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.metrics.metrics import Metrics
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.web.health import Readiness
from loiter_aggregator.web.server import WebServer
from loiter_aggregator.web.site import make_site
from support.aggregators import read_by


@dataclass
class Served:
    """A web page that is served, and a browser that goes to it and follows no redirect."""

    server: WebServer
    site: Starlette
    browser: httpx.AsyncClient
    counters: Counters
    write_failure: str | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server.address.rpartition(":")[2])


def settings_of(folder: Path, **more: Any) -> AggregatorSettings:
    """An aggregator's settings with a page on a free port."""
    return replace(AggregatorSettings(data_dir=folder, http="127.0.0.1:0"), **more)


def make_token(folder: Path, name: str = "alice", right: Right = Right.READ, expires: float | None = None) -> str:
    """A token of the aggregator that keeps its data in a folder."""
    return add(folder / "tokens.json", name, right, expires, datetime.now(UTC))


@asynccontextmanager
async def serving_page(
    store: DuckDbStore, clock: Clock, settings: AggregatorSettings, verify: ssl.SSLContext | bool = False
) -> AsyncIterator[Served]:
    """Serves the pages of a store, for as long as the block lasts. By TLS, the browser trusts what `verify` does."""
    counters = Counters(clock())

    def count() -> None:
        counters.calls_refused += 1

    fleet = Fleet(store, clock, counters)
    site = make_site(
        read_by(fleet, clock),
        Metrics(fleet, counters),
        reader_authenticator(settings),
        settings,
        clock,
        Readiness(store, lambda: served.write_failure),
        count,
    )
    server = WebServer(site, settings)
    await server.start()
    scheme = "http" if settings.tls.certificate is None else "https"
    try:
        async with httpx.AsyncClient(
            base_url=f"{scheme}://{server.address}", verify=verify, timeout=10, trust_env=False
        ) as browser:
            served = Served(server, site, browser, counters)
            yield served
    finally:
        await server.stop()
