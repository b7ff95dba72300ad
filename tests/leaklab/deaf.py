"""Listens and never accepts: connections wait in its queue, and their peers hang up.

Prints "ready" when all are in place, then waits until its standard input ends.
"""

from __future__ import annotations

import argparse
import socket
import sys


def main() -> None:
    """Listens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pending", type=int, default=10, help="connections that nobody accepts")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=options.pending)
    peers = [socket.create_connection(listener.getsockname()) for _ in range(options.pending)]
    for peer in peers:
        peer.shutdown(socket.SHUT_WR)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
