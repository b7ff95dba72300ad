"""Takes in connections: so many and no more, and none that keeps the aggregator waiting.

Where there is no room, a connection whose client is waited for makes room for the next: the one that is so for longest.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
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
# h11 holds a head to its limit only while it is not whole: what comes at once is handed to it in pieces.
_PIECE_BYTES: Final = 1_024

Make = Callable[[], "Connection"]


class Connection(H11Protocol):
    """One connection, which is closed where a request takes too long to come in."""

    deadline: asyncio.TimerHandle | None = None
    on_lost: Callable[[], None] = staticmethod(lambda: None)
    _idle_since = 0.0

    @property
    def idle_since(self) -> float | None:
        """Since when the client is waited for: to ask, to end its request, or to take an answer. None: it waits for us.

        In seconds of the loop's clock.
        """
        is_asking = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        return self._idle_since if is_asking or self.flow.write_paused else None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for the first request from now on."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Goes on waiting until the request is there as a whole."""
        for at in range(0, len(data), _PIECE_BYTES):
            if self.transport.is_closing():  # what comes after a mistake is not looked at
                return
            super().data_received(data[at : at + _PIECE_BYTES])
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._expect()
        else:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Waits for the next request from now on."""
        self._idle_since = self.loop.time()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # it came right behind the one before, and is not whole
            self._expect()

    def pause_writing(self) -> None:
        """Waits for the client to take what was sent."""
        self._idle_since = self.loop.time()
        super().pause_writing()

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


@dataclass(eq=False)
class _Place:
    """The room that a connection takes, from before its handshake until it is over."""

    network: str
    accepted_at: float
    handshake: asyncio.Task[None] | None = None
    connection: Connection | None = None

    @property
    def idle_since(self) -> float | None:
        """Since when its client is waited for; None where it is not."""
        return self.accepted_at if self.connection is None else self.connection.idle_since

    def end(self) -> None:
        """Closes the connection."""
        if self.connection is not None:
            self.connection.transport.abort()
        elif self.handshake is not None:
            self.handshake.cancel()


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
        self._places: set[_Place] = set()
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
        handshakes = [place.handshake for place in self._places if place.handshake and place.connection is None]
        for task in handshakes:
            task.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)

    def _begin(self, accepted: socket.socket, network: str) -> None:
        if not self._has_room(network):
            accepted.close()
            return
        loop = asyncio.get_running_loop()
        place = _Place(network, loop.time())
        self._places.add(place)
        place.handshake = loop.create_task(self._take(accepted, place))
        place.handshake.add_done_callback(lambda task: self._taken(task, accepted, place))

    def _has_room(self, network: str) -> bool:
        """Whether there is room for one more, or could be made."""
        of_network = [place for place in self._places if place.network == network]
        if len(of_network) >= self._limit_per_address:
            full, those = f"{self._limit_per_address} connections to the web page are open from {network}", of_network
        elif len(self._places) >= self._limit:
            full, those = f"{self._limit} connections to the web page are open", list(self._places)
        else:
            return True
        idle = [(since, place) for place in those if (since := place.idle_since) is not None]
        if not idle:
            self._refusals.say((full, "busy"), f"{full} and busy: {network} has to come again")
            return False
        _, longest = min(idle, key=lambda one: one[0])
        self._places.discard(longest)
        longest.end()
        self._refusals.say((full, "idle"), f"{full}: the one that is idle for longest is closed for the next")
        return True

    async def _take(self, accepted: socket.socket, place: _Place) -> None:
        made: Connection | None = None

        def make() -> Connection:
            nonlocal made
            made = self._make()
            return made

        with suppress(OSError):  # of a connection that is over already
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 2.0}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(make, accepted, **options)
        except (OSError, TimeoutError) as error:  # whoever it was does not speak TLS, or went away
            _log.debug("no connection to the web page with %s: %s", place.network, error)
            accepted.close()
        except BaseException:
            accepted.close()
            raise
        else:
            assert made is not None, "it was made"
            if not made.transport.is_closing():
                place.connection = made
                made.on_lost = lambda: self._places.discard(place)

    def _taken(self, task: asyncio.Task[None], accepted: socket.socket, place: _Place) -> None:
        if task.cancelled():  # also before it began
            accepted.close()
        if place.connection is None:
            self._places.discard(place)
