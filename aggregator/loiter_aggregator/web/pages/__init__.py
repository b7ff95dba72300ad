"""The pages. Each reads its address, asks, and shows what is there to show: nothing else decides anything here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.routing import BaseRoute, Route

from loiter_aggregator.web.pages.alerts import alerts
from loiter_aggregator.web.pages.app import app
from loiter_aggregator.web.pages.host import host
from loiter_aggregator.web.pages.overview import overview
from loiter_aggregator.web.pages.process import ages, process
from loiter_aggregator.web.pages.ranking import download, ranking
from loiter_aggregator.web.pages.reports import reports
from loiter_aggregator.web.pages.sockets import sockets

ROUTES: Final[Sequence[BaseRoute]] = (
    Route("/", overview),
    Route("/top/{what}.{form}", download),
    Route("/top/{what}", ranking),
    Route("/host", host),
    Route("/process", process),
    Route("/process/ages", ages),
    Route("/app", app),
    Route("/sockets", sockets),
    Route("/alerts", alerts),
    Route("/reports", reports),
)
