"""Listens, accepts a few connections, and then no more: the others wait in its queue, and their clients hang up."""

from __future__ import annotations

import signal

from leaklab.lab import ANSWER, arguments, connect, free_port, give_up, listen, start, supervise

PENDING = 60


def serve(port: int) -> None:
    """Handles one connection well, and then waits for something else."""
    listener = listen(port, backlog=2 * PENDING)
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(ANSWER)
    connection.recv(4096)
    connection.close()
    signal.pause()


def call(port: int, server: int) -> None:
    """Is answered once, and then no more."""
    connection = connect(port)
    connection.sendall(b"?")
    connection.recv(4096)
    connection.close()
    give_up(port, server, "never_accepted", PENDING, per_second=2.0, burst=5)


def main() -> None:
    """Starts both ends."""
    arguments(__doc__).parse_args()
    port = free_port()
    server = start(lambda: serve(port))
    supervise(server, start(lambda: call(port, server)))


if __name__ == "__main__":
    main()
