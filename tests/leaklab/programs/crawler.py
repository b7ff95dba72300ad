"""Asks one server again and again on new connections, and closes each first: TIME_WAIT towards one destination."""

from __future__ import annotations

import socket
import time
from collections import deque
from functools import partial
from pathlib import Path

from leaklab.lab import Closes, arguments, ask, connect, free_port, pace, serve, start, supervise, visit


def linger(port: int, per_second: float, seconds: float, folder: Path | None) -> None:
    """Keeps every connection for some seconds before it closes it."""
    closes = Closes(folder)
    kept: deque[tuple[float, socket.socket]] = deque()
    for _ in pace(per_second):
        connection = connect(port)
        ask(connection)
        kept.append((time.monotonic() + seconds, connection))
        while kept[0][0] <= time.monotonic():
            closes.close(kept.popleft()[1])


def main() -> None:
    """Starts the server and the crawlers."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--per-second", type=float, nargs="+", default=[100.0], help="connections of each crawler, one or several"
    )
    parser.add_argument("--keep-alive", type=float, default=0.0, help="seconds that a connection is kept")
    options = parser.parse_args()
    port = free_port()

    def crawl(per_second: float) -> None:
        if options.keep_alive:
            linger(port, per_second, options.keep_alive, options.closes)
        else:
            visit(port, per_second, options.closes)

    supervise(start(lambda: serve(port)), *(start(partial(crawl, rate)) for rate in options.per_second))


if __name__ == "__main__":
    main()
