"""Serves the web page by HTTP, or by HTTPS where there is a certificate."""

from __future__ import annotations

from starlette.applications import Starlette

from loiter_aggregator.config import AggregatorSettings


class WebServer:
    """The address that the web page is served at."""

    def __init__(self, site: Starlette, settings: AggregatorSettings) -> None:
        """Takes what to serve, and where."""
        self._site, self._settings = site, settings

    async def start(self) -> None:
        """Listens, and serves from then on. Raises ListenError, SecurityFileError."""

    async def stop(self) -> None:
        """Answers what is being asked, and ends."""
