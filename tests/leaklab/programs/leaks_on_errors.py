"""Closes what went well, and forgets what failed. The errors come after some seconds, and the leak with them."""

from __future__ import annotations

import socket
from pathlib import Path

from leaklab.lab import (
    ANSWER,
    REQUEST,
    Closes,
    arguments,
    connect,
    free_port,
    listen,
    misbehaves,
    pace,
    start,
    supervise,
)

PER_SECOND = 20.0
FIRST_ERROR = 100  # requests; that is after 5 s
ERROR_EVERY = 5


def handle(connection: socket.socket) -> None:
    """Reads a request to its end, answers and closes. Raises ValueError for a bad one, and then it closes nothing."""
    request = b"".join(iter(lambda: connection.recv(4096), b""))
    if request != REQUEST:
        raise ValueError("bad request")
    connection.sendall(ANSWER)
    connection.close()


def serve(port: int) -> None:
    """Handles requests, and keeps the failed ones for a report that nobody ever asks for."""
    listener = listen(port)
    failures: list[tuple[ValueError, socket.socket]] = []
    while True:
        connection, _ = listener.accept()
        try:
            handle(connection)
        except ValueError as error:
            failures.append((error, connection))
            if len(failures) == 1:
                misbehaves("leak")


def send(port: int, folder: Path | None) -> None:
    """Sends requests, some of them bad after a while, and says by shutdown(2) where each ends."""
    closes = Closes(folder)
    for number, _ in enumerate(pace(PER_SECOND)):
        bad = number >= FIRST_ERROR and number % ERROR_EVERY == 0
        connection = connect(port)
        connection.sendall(b"nonsense" if bad else REQUEST)
        if not bad:
            closes.note(connection)
        connection.shutdown(socket.SHUT_WR)
        while not bad and connection.recv(4096):
            pass
        connection.close()


def main() -> None:
    """Starts both ends."""
    options = arguments(__doc__).parse_args()
    port = free_port()
    supervise(start(lambda: serve(port)), start(lambda: send(port, options.closes)))


if __name__ == "__main__":
    main()
