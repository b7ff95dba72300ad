"""Holds a pool of idle connections, while a child of it connects to the same place and closes, again and again.

All TIME_WAIT towards the destination is the child's. The parent has more connections there, and closed none of them.
"""

from __future__ import annotations

import signal
from pathlib import Path

from leaklab.lab import arguments, closes_nothing, connect, free_port, serve, start, supervise, visit


def hold(port: int, connections: int, per_second: float, folder: Path | None) -> None:
    """Starts the child first, so that it inherits none of the pool, and leaves the pool alone."""
    closes_nothing()
    start(lambda: visit(port, per_second, folder))
    pool = [connect(port) for _ in range(connections)]
    signal.pause()
    del pool


def main() -> None:
    """Starts the server and the parent."""
    parser = arguments(__doc__)
    parser.add_argument("--connections", type=int, default=50, help="in the pool of the parent")
    parser.add_argument("--per-second", type=float, default=50.0, help="connections of the child")
    options = parser.parse_args()
    port = free_port()
    parent = start(lambda: hold(port, options.connections, options.per_second, options.closes))
    supervise(start(lambda: serve(port)), parent)


if __name__ == "__main__":
    main()
