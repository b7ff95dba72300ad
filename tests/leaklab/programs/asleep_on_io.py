"""Accepts, then sleeps on I/O before it reads: it opens a FIFO that nobody writes to (fifo(7))."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from leaklab.lab import ANSWER, arguments, free_port, give_up, listen, start, supervise

CONNECTIONS = 12


def serve(port: int, fifo: Path) -> None:
    """Accepts all, and wants to read its configuration before it handles the first."""
    listener = listen(port)
    connections = [listener.accept()[0] for _ in range(CONNECTIONS)]
    fifo.read_text()
    for connection in connections:
        connection.recv(4096)
        connection.sendall(ANSWER)
        connection.close()


def main() -> None:
    """Starts both ends."""
    arguments(__doc__).parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        fifo = Path(folder) / "configuration"
        os.mkfifo(fifo)
        server = start(lambda: serve(port, fifo))
        clients = start(lambda: give_up(port, server, "stalled_reader", CONNECTIONS, per_second=20.0))
        supervise(server, clients)


if __name__ == "__main__":
    main()
