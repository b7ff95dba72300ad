"""What `/metrics` shows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, openmetrics
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from loiter.logs import fields
from loiter_aggregator.clock import Clock, system_clock
from loiter_aggregator.config import MetricsSettings
from loiter_aggregator.distribution import LONG_SECONDS, SECONDS, Distribution
from loiter_aggregator.fleet.errors import Overloaded, TookTooLong
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.fleet.reading import Reading
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.metrics import of_aggregator, of_fleet
from loiter_aggregator.metrics.figures import Figures, ask
from loiter_aggregator.metrics.of_aggregator import Inside, Observed
from loiter_aggregator.store.duckdb_store import StoreError

_log = logging.getLogger(__name__)

# How old figures may be before they are gathered anew; and of the time, gathering takes a tenth at most.
_FRESH_SECONDS: Final = 10.0
_REST: Final = 10.0
# After so long without a scrape, nothing is gathered.
_IDLE_SECONDS: Final = 300.0
# For how long a scrape waits for figures that are being gathered, as the first one does.
_PATIENCE_SECONDS: Final = 0.03
# Figures that are older than so many rounds are not shown any more: nobody knows them.
_STALE_ROUNDS: Final = 6.0
# Of the methods, those whose calls go on and on.
_STREAMS: Final = frozenset({"StreamReports", "ServerReflectionInfo", "Watch"})


class Metrics:
    """The figures of the fleet and of the aggregator."""

    def __init__(
        self,
        fleet: Fleet,
        counters: Counters,
        settings: MetricsSettings | None = None,
        reading: Reading | None = None,
        inside: Inside | None = None,
        clock: Clock = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Takes whom to ask, what counts what comes in, and where it can be looked at besides."""
        self._fleet, self._counters, self._reading, self._inside = fleet, counters, reading, inside
        self._settings = MetricsSettings() if settings is None else settings
        self._clock, self._monotonic, self._sleep = clock, monotonic, sleep
        self._calls: dict[tuple[str, str], Distribution] = {}
        self._streams: dict[tuple[str, str], Distribution] = {}
        self._requests: dict[tuple[str, str], Distribution] = {}
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        self._figures: Figures | None = None
        self._families: Sequence[Metric] = ()
        self._gathered, self._took, self._failures = 0.0, 0.0, 0
        self._failing = False
        self._scraped = -_IDLE_SECONDS
        self._wanted, self._fresh = asyncio.Event(), asyncio.Event()

    def observe_call(self, method: str, code: str, seconds: float) -> None:
        """Takes note of a call of gRPC that ended: its method, its status code, and how long it took."""
        if method in _STREAMS:
            self._streams.setdefault((method, code), Distribution(LONG_SECONDS)).observe(seconds)
        else:
            self._calls.setdefault((method, code), Distribution(SECONDS)).observe(seconds)

    def observe_request(self, page: str, code: int, seconds: float) -> None:
        """Takes note of a request that was answered: its page, of which there are few, its status, and its time."""
        self._requests.setdefault((page, str(code)), Distribution(SECONDS)).observe(seconds)

    async def run(self) -> None:
        """Gathers the figures of the fleet again and again, as long as somebody scrapes, until it is cancelled."""
        while True:
            await self._wanted.wait()
            await self._gather()
            await self._sleep(self._pause())
            if self._monotonic() - self._scraped > _IDLE_SECONDS:
                self._wanted.clear()

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Writes everything in the format that a scraper accepts. Returns it with its content type.

        It is written from the figures that were gathered last. They are waited for only a moment, as when none have
        been for long.
        """
        self._scraped = self._monotonic()
        self._wanted.set()
        if self._age() is None or self._is_old():
            self._fresh.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._fresh.wait()
        observed = Observed(dict(self._calls), dict(self._streams), dict(self._requests))
        shown = self._families if not self._is_stale() else ()
        age = self._age() if shown else None
        return await asyncio.to_thread(self._write, accept, observed, shown, age)

    def _write(
        self, accept: str, observed: Observed, of_the_fleet: Sequence[Metric], age: float | None
    ) -> tuple[bytes, str]:
        """Writes it, in a thread: the process and the store's files are looked at."""
        everything = _Families(
            (
                *of_the_fleet,
                *of_aggregator.figures_families(age, self._took if age is not None else None, self._failures),
                *of_aggregator.families(self._counters, self._fleet.questions, observed, self._inside),
                *self._process.collect(),
            )
        )
        if _takes_openmetrics(accept):
            text: bytes = openmetrics.exposition.generate_latest(everything)  # type: ignore[no-untyped-call]
            return text, CONTENT_TYPE_LATEST
        return generate_latest(everything), CONTENT_TYPE_PLAIN_0_0_4

    async def _gather(self) -> None:
        began = self._monotonic()
        try:
            figures = await ask(self._fleet, self._reading, self._settings.top, self._settings.window)
            self._families = await asyncio.to_thread(self._make, figures)
        except (Overloaded, TookTooLong, StoreError) as error:
            self._fail(f"the figures of the fleet can not be gathered for /metrics: {error}", error)
            return
        except Exception as error:  # a mistake of ours
            _log.exception("the figures of the fleet can not be gathered for /metrics")
            self._fail("", error)
            return
        if self._failing:
            _log.info("the figures of the fleet are gathered for /metrics again")
        self._failing = False
        self._gathered = self._monotonic()
        self._took = self._gathered - began
        self._figures = figures
        self._fresh.set()

    def _make(self, figures: Figures) -> Sequence[Metric]:
        return tuple(of_fleet.families(figures, self._settings.top, self._clock()))

    def _fail(self, message: str, error: Exception) -> None:
        self._failures += 1
        if not self._failing and message:
            _log.warning("%s", message, extra=fields(reason=error))
        self._failing = True

    def _age(self) -> float | None:
        """How old the figures are, in seconds; None where there are none."""
        return None if self._figures is None else self._monotonic() - self._gathered

    def _pause(self) -> float:
        """The time between two rounds of gathering, in seconds."""
        return max(_FRESH_SECONDS, _REST * self._took)

    def _is_old(self) -> bool:
        age = self._age()
        return age is None or age > 2 * self._pause()

    def _is_stale(self) -> bool:
        age = self._age()
        return age is None or age > _STALE_ROUNDS * self._pause()


class _Families(Collector):
    """Families that are there already, for what writes those of a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        """Takes the families."""
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """The families."""
        return self._families


def _takes_openmetrics(accept: str) -> bool:
    """Whether a scraper names the format. The version that it asks for is not looked at: there is one."""
    return any(part.partition(";")[0].strip().lower() == "application/openmetrics-text" for part in accept.split(","))
