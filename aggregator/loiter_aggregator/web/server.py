"""Serves the web page by HTTP, or by HTTPS where there is a certificate."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from typing import Final

import uvicorn
from starlette.applications import Starlette

from loiter.addresses import is_loopback
from loiter.logs import fields
from loiter_aggregator.access.doors import ListenError
from loiter_aggregator.background import keep_running
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.web.connections import Connection, Connections
from loiter_aggregator.web.tls import tls_context

_log = logging.getLogger(__name__)

_BACKLOG: Final = 128
_MAX_HEAD_BYTES: Final = 16_384
# Longer than the pages take from one look to the next.
_KEEP_ALIVE_SECONDS: Final = 20
_STOP_GRACE_SECONDS: Final = 1.0


class WebServer:
    """The address that the web page is served at."""

    def __init__(self, site: Starlette, settings: AggregatorSettings) -> None:
        """Takes what to serve, and where."""
        assert settings.http is not None, "without an address there is nothing to serve"
        self._site, self._settings = site, settings
        self.address = settings.http
        self._running: tuple[asyncio.Task[None], ...] = ()

    async def start(self) -> None:
        """Listens, and serves from then on. Raises ListenError, SecurityFileError."""
        tls = tls_context(self._settings.tls, self.address)
        listener = await _listen(self.address)
        host, _, _ = self.address.rpartition(":")
        self.address = f"{host}:{listener.getsockname()[1]}"
        self._server = _uvicorn(self._site)
        self._listener = listener
        self._connections = Connections(listener, self._connection, tls)
        self._running = (
            asyncio.create_task(keep_running("what takes connections to the web page", self._connections.run)),
            # Keeps the date that answers carry.
            asyncio.create_task(keep_running("the clock of the web page", self._server.main_loop)),
        )
        _log.info("web page at %s", self.url(tls), extra=fields(address=self.address))

    async def stop(self) -> None:
        """Answers what is being asked, within a second, and ends."""
        if not self._running:
            return
        self._site.state.readiness.stop()
        running, self._running = self._running, ()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._listener.close()
        await self._connections.close()
        await self._end_connections()
        await self._site.state.answers.close()
        self._site.state.makers.shutdown(wait=False, cancel_futures=True)

    def url(self, tls: ssl.SSLContext | None) -> str:
        """The address as a browser takes it."""
        return f"{'http' if tls is None else 'https'}://{self.address}/"

    def _connection(self) -> Connection:
        return Connection(config=self._server.config, server_state=self._server.server_state, app_state={})

    async def _end_connections(self) -> None:
        state = self._server.server_state
        for connection in tuple(state.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_GRACE_SECONDS):
                await asyncio.gather(*state.tasks, return_exceptions=True)
        for task in tuple(state.tasks):
            task.cancel()  # which is answered with the reason: see ErrorBoundary
        await asyncio.gather(*state.tasks, return_exceptions=True)
        await asyncio.sleep(0)
        for connection in tuple(state.connections):
            connection.transport.abort()


async def _listen(address: str) -> socket.socket:
    """Opens the socket. Raises ListenError."""
    host, _, port = address.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, where = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from None
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # [::] is for both, as gRPC has it
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"cannot listen on {address}: {error.strerror}; --http HOST:PORT is where the web page is served, "
            "--http off does without it"
        ) from None
    return listener


def _uvicorn(site: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        site,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # What a proxy on this machine says of whom it speaks for.
        proxy_headers=True,
        forwarded_allow_ips=["127.0.0.1", "::1"],
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
    )
    config.load()
    # What strangers send that is not HTTP is theirs to know.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.access").disabled = True
    return uvicorn.Server(config)


def page_address(settings: AggregatorSettings) -> str | None:
    """Where the page is, for people at this machine; None where it is not served. Pure."""
    if settings.http is None:
        return None
    host, _, port = settings.http.rpartition(":")
    shown = host if is_loopback(settings.http) or host not in ("0.0.0.0", "[::]") else "localhost"  # noqa: S104
    return f"{'http' if settings.tls.certificate is None else 'https'}://{shown}:{port}/"
