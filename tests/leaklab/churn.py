"""Healthy and busy: opens and closes connections at a rate, which leaves TIME_WAIT sockets and the odd CLOSE_WAIT.

Prints "churning", then goes on until its standard input ends.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time


def main() -> None:
    """Churns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-second", type=float, default=200.0)
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    print("churning", flush=True)
    started = time.monotonic()
    made = 0
    late: list[socket.socket] = []
    while True:
        due = started + made / options.per_second
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0] and not sys.stdin.read():
            return
        if time.monotonic() < due:
            continue
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        client.close()
        late.append(server)  # a server that takes a moment to close: a few sockets pass through CLOSE_WAIT
        if len(late) > 3:
            late.pop(0).close()
        made += 1


if __name__ == "__main__":
    main()
