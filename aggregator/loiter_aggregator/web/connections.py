"""Takes in connections: so many and no more, and none that keeps the aggregator waiting."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from loiter_aggregator.access.refusals import RefusalLog
from loiter_aggregator.ingest.callers import network_of

_log = logging.getLogger(__name__)

# A browser opens six at most; those of one address may be of all who come by one proxy.
MAX_CONNECTIONS: Final = 256
MAX_CONNECTIONS_PER_ADDRESS: Final = 128
HANDSHAKE_SECONDS: Final = 10.0
# For a request to come in, from its first byte; of a new connection from the beginning.
_REQUEST_SECONDS: Final = 10.0
# Within which what was sent has to be acknowledged: see TCP_USER_TIMEOUT in tcp(7).
_UNACKNOWLEDGED_MS: Final = 30_000
_ACCEPT_AGAIN_SECONDS: Final = 1.0

Make = Callable[[], "Connection"]


class Connection(H11Protocol):
    """One connection, which is closed where a request takes too long to come in."""

    deadline: asyncio.TimerHandle | None = None
    on_lost: Callable[[], None] = staticmethod(lambda: None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for the first request from now on."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Goes on waiting until the request is there as a whole."""
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._expect()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Makes room for the next."""
        self._stop_waiting()
        super().connection_lost(exc)
        self.on_lost()

    def _expect(self) -> None:
        if self.deadline is None:
            self.deadline = self.loop.call_later(_REQUEST_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None


class Connections:
    """Accepts connections on a socket, those included whose handshake is still to come."""

    def __init__(
        self,
        listener: socket.socket,
        make: Make,
        tls: ssl.SSLContext | None,
        *,
        limit: int = MAX_CONNECTIONS,
        limit_per_address: int = MAX_CONNECTIONS_PER_ADDRESS,
    ) -> None:
        """Takes a socket that listens and does not block, and what speaks HTTP on each connection."""
        self._listener, self._make, self._tls = listener, make, tls
        self._limit, self._limit_per_address = limit, limit_per_address
        self._open = Counter[str]()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._refusals = RefusalLog(_log)

    async def run(self) -> None:
        """Accepts connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._listener)
            except OSError as error:  # such as EMFILE: one that is closed makes room
                self._refusals.say(error.errno, f"no connection is accepted for the web page: {error.strerror}")
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            try:
                self._begin(accepted, network_of(str(address[0]).removeprefix("::ffff:")))
            except BaseException:
                accepted.close()
                raise

    async def close(self) -> None:
        """Gives up on handshakes that are not over."""
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _begin(self, accepted: socket.socket, network: str) -> None:
        if not self._has_room(network):
            accepted.close()
            return
        self._open[network] += 1
        task = asyncio.get_running_loop().create_task(self._take(accepted, network))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    def _has_room(self, network: str) -> bool:
        if self._open.total() >= self._limit:
            self._refusals.say(
                "all", f"{self._limit} connections to the web page are open: {network} has to come again"
            )
            return False
        if self._open[network] >= self._limit_per_address:
            why = f"{self._limit_per_address} connections to the web page are open from {network}: it has to come again"
            self._refusals.say(network, why)
            return False
        return True

    async def _take(self, accepted: socket.socket, network: str) -> None:
        connection: Connection | None = None

        def made() -> Connection:
            nonlocal connection
            connection = self._make()
            return connection

        with suppress(OSError):  # of a connection that is over already
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 2.0}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(made, accepted, **options)
        except (OSError, TimeoutError) as error:  # whoever it was does not speak TLS, or went away
            _log.debug("no connection to the web page with %s: %s", network, error)
            accepted.close()
            self._leave(network)
        except BaseException:
            accepted.close()
            self._leave(network)
            raise
        else:
            assert connection is not None, "it was made"
            if connection.transport.is_closing():
                self._leave(network)
            else:
                connection.on_lost = lambda: self._leave(network)

    def _leave(self, network: str) -> None:
        self._open[network] -= 1
        if self._open[network] <= 0:
            del self._open[network]
