"""Healthy: a server is killed under load and started again, every few seconds. Its clients connect again."""

from __future__ import annotations

import time

from leaklab.lab import arguments, end, free_port, keep_asking, serve, start, supervise

EVERY_SECONDS = 8.0


def run_server(port: int) -> None:
    """Keeps a server running, and is rough with it."""
    while True:
        server = start(lambda: serve(port))
        time.sleep(EVERY_SECONDS)
        end(server)


def main() -> None:
    """Starts both ends."""
    arguments(__doc__).parse_args()
    port = free_port()
    supervise(start(lambda: run_server(port)), start(lambda: keep_asking(port, 20, per_second=50.0)))


if __name__ == "__main__":
    main()
