"""Answers and closes first, as a server without keep-alive does: TIME_WAIT on the port that it listens on."""

from __future__ import annotations

from pathlib import Path

from leaklab.lab import ANSWER, Closes, arguments, ask, connect, free_port, listen, pace, start, supervise


def serve(port: int, folder: Path | None) -> None:
    """Handles one connection after the other."""
    closes = Closes(folder)
    listener = listen(port)
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(ANSWER)
        closes.close(connection)


def call(port: int, per_second: float) -> None:
    """Asks, and closes when the server has."""
    for _ in pace(per_second):
        with connect(port) as connection:
            while ask(connection):
                if connection.recv(4096) == b"":
                    break


def main() -> None:
    """Starts both ends."""
    parser = arguments(__doc__)
    parser.add_argument("--per-second", type=float, default=50.0)
    options = parser.parse_args()
    port = free_port()
    supervise(start(lambda: serve(port, options.closes)), start(lambda: call(port, options.per_second)))


if __name__ == "__main__":
    main()
