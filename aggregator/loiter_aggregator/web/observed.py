"""Tells the metrics of every answer: of which page, with what status, and how long it took."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loiter_aggregator.metrics.metrics import Metrics


class Observed:
    """Measures what answers. Pages are few: what is asked for otherwise is called `other`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Takes what answers, and whom to tell."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request. See ASGI."""
        begun, status = time.monotonic(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            self._metrics.observe_request(_page(scope), status, time.monotonic() - begun)


def _page(scope: Scope) -> str:
    """The first part of the path of a page that there is."""
    return "/" + scope["path"].split("/")[1] if "endpoint" in scope else "other"
