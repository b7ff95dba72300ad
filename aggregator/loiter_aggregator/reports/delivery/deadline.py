"""Ends a conversation that blocks once it has taken too long in all, however lively the other end is."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class Deadline:
    """Shuts connections down when it is over: whoever reads from them or writes to them gets an error then.

    A timeout of a socket is for one read, and a server that sends a letter now and then never runs into it.
    """

    def __init__(self, seconds: float) -> None:
        """Takes how long there is, from when it is entered."""
        self.seconds = seconds
        self.passed = False
        self._lock = threading.Lock()
        self._watched: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        """Begins."""
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Calls it off."""
        self._timer.cancel()
        with self._lock:
            for connection in self._watched:
                connection.close()
            self._watched.clear()

    def watch(self, connection: socket.socket) -> None:
        """Holds for a connection, also for what is made of it: TLS takes the socket over that it is given."""
        with self._lock:
            self._watched.append(connection.dup())
        if self.passed:
            self._shut_down()

    def _shut_down(self) -> None:
        self.passed = True
        with self._lock:
            for connection in self._watched:
                with suppress(OSError):  # it has been shut down already
                    connection.shutdown(socket.SHUT_RDWR)
