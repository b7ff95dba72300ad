"""Healthy: four workers share a port and are replaced one after the other; each drains its connections first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from pathlib import Path

from leaklab.lab import Closes, Server, arguments, free_port, keep_asking, listen, start, supervise

WORKERS = 4
EVERY_SECONDS = 4.0
DRAIN_SECONDS = 1.5


def work(port: int, folder: Path | None) -> None:
    """Serves until SIGTERM; then takes no more connections, answers on those it has for a while, and closes them."""
    asked_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.set())
    closes = Closes(folder)
    server = Server(listen(port, reuse_port=True))
    while not asked_to_end.is_set():
        server.step(0.1)
    server.stop_listening()
    until = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < until:
        server.step(0.1)
    for connection in server.connections:
        closes.close(connection)


def deploy(port: int, folder: Path | None) -> None:
    """Replaces the oldest worker by a new one, again and again."""
    workers = deque(start(lambda: work(port, folder)) for _ in range(WORKERS))
    while True:
        time.sleep(EVERY_SECONDS)
        workers.append(start(lambda: work(port, folder)))
        os.kill(oldest := workers.popleft(), signal.SIGTERM)
        os.waitpid(oldest, 0)


def main() -> None:
    """Starts both ends."""
    options = arguments(__doc__).parse_args()
    port = free_port()
    supervise(start(lambda: deploy(port, options.closes)), start(lambda: keep_asking(port, 20, per_second=50.0)))


if __name__ == "__main__":
    main()
