"""Forgets to close: its peers hang up, it reads the end of the stream and keeps the socket.

Leaks CLOSE_WAIT sockets at a steady rate, on a schedule that does not drift. Prints "leaking", then goes on until its
standard input ends.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time


def main() -> None:
    """Leaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-second", type=float, default=5.0)
    parser.add_argument("--token", help="not used: something to find in the command line")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    leaked: list[socket.socket] = []
    print("leaking", flush=True)
    started = time.monotonic()
    while True:
        due = started + len(leaked) / options.per_second
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0] and not sys.stdin.read():
            return
        if time.monotonic() < due:
            continue
        peer = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        peer.close()
        connection.recv(1)  # the end of the stream: a program that is right would close now
        leaked.append(connection)


if __name__ == "__main__":
    main()
