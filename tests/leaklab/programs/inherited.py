"""Closes properly, but a child that was forked meanwhile holds copies of the sockets: the child leaks them."""

from __future__ import annotations

import signal
import socket

from leaklab.lab import ANSWER, arguments, connect, free_port, listen, misbehaves, start, supervise

CONNECTIONS = 15


def helper() -> None:
    """Was started to do something else, and never looks at what it inherited."""
    signal.pause()


def serve(port: int) -> None:
    """Answers on all connections, starts a helper while they are open, then closes each at its end."""
    listener = listen(port)
    connections = [listener.accept()[0] for _ in range(CONNECTIONS)]
    child = start(helper)
    for connection in connections:
        _finish(connection)
    misbehaves("leak", child)
    signal.pause()


def _finish(connection: socket.socket) -> None:
    while connection.recv(4096):
        connection.sendall(ANSWER)
    connection.close()


def visit_together(port: int) -> None:
    """Opens all connections, then asks on each and closes it."""
    connections = [connect(port) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.sendall(b"?")
        connection.recv(4096)
        connection.close()
    signal.pause()


def main() -> None:
    """Starts both ends."""
    arguments(__doc__).parse_args()
    port = free_port()
    supervise(start(lambda: serve(port)), start(lambda: visit_together(port)))


if __name__ == "__main__":
    main()
