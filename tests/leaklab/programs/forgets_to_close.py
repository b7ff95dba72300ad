"""Forgets to close: it reads the end of each stream and keeps the socket. A leak, at a steady rate."""

from __future__ import annotations

import socket

from leaklab.lab import ANSWER, arguments, free_port, listen, misbehaves, start, supervise, visit


def forget(port: int) -> None:
    """Answers, reads to the end, and does not close."""
    listener = listen(port)
    forgotten: list[socket.socket] = []
    while True:
        connection, _ = listener.accept()
        while connection.recv(4096):
            connection.sendall(ANSWER)
        forgotten.append(connection)
        if len(forgotten) == 1:
            misbehaves("leak")


def main() -> None:
    """Starts both ends."""
    parser = arguments(__doc__)
    parser.add_argument("--per-second", type=float, default=5.0)
    options = parser.parse_args()
    port = free_port()
    supervise(start(lambda: forget(port)), start(lambda: visit(port, options.per_second)))


if __name__ == "__main__":
    main()
