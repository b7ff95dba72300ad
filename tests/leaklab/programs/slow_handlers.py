"""Healthy, though its work takes long: 8 s for each request, and its clients do not wait for so long.

A handler sees that its client has hung up when it is done, and closes. Until then the end of the stream is unread.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress

from leaklab.lab import ANSWER, REQUEST, arguments, connect, free_port, listen, pace, start, supervise

WORK_SECONDS = 8.0
PATIENCE_SECONDS = 2.0


def handle(connection: socket.socket) -> None:
    """Reads a request, works for a while, answers and closes."""
    with connection, suppress(ConnectionError):
        connection.recv(4096)
        time.sleep(WORK_SECONDS)
        connection.sendall(ANSWER)


def serve(port: int) -> None:
    """Handles each connection in a thread of its own."""
    listener = listen(port)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=handle, args=(connection,), daemon=True).start()


def ask_in_vain(port: int, per_second: float) -> None:
    """Asks again and again, and hangs up on each answer that does not come."""
    waiting: deque[tuple[float, socket.socket]] = deque()
    for _ in pace(per_second):
        connection = connect(port)
        connection.sendall(REQUEST)
        waiting.append((time.monotonic() + PATIENCE_SECONDS, connection))
        while waiting[0][0] <= time.monotonic():
            waiting.popleft()[1].close()


def main() -> None:
    """Starts both ends."""
    parser = arguments(__doc__)
    parser.add_argument("--per-second", type=float, default=4.0)
    options = parser.parse_args()
    port = free_port()
    supervise(start(lambda: serve(port)), start(lambda: ask_in_vain(port, options.per_second)))


if __name__ == "__main__":
    main()
