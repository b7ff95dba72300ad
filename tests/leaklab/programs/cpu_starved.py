"""Would do its work if it got the processor: a CPU quota leaves it 5 % of one, and its clients do not wait."""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from leaklab.cpu_quota import cpu_quota
from leaklab.lab import ANSWER, arguments, free_port, give_up, listen, say, start, supervise

QUOTA = 0.05
CPU_SECONDS_A_REQUEST = 0.05  # a second of every clock on the wall, with the quota


def serve(port: int, cgroup: Path) -> None:
    """Accepts what comes, and handles one request after the other, each with some work."""
    listener = listen(port)
    listener.setblocking(False)
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    waiting: deque[socket.socket] = deque()
    while True:
        with suppress(BlockingIOError):
            while True:
                waiting.append(listener.accept()[0])
        if not waiting:
            select.select([listener], [], [])
            continue
        connection = waiting.popleft()
        connection.recv(4096)
        _work(CPU_SECONDS_A_REQUEST)
        with suppress(ConnectionError):
            connection.sendall(ANSWER)
        connection.close()


def _work(cpu_seconds: float) -> None:
    until = time.process_time() + cpu_seconds
    while time.process_time() < until:
        pass


def main() -> None:
    """Starts both ends, the server in a cgroup of its own."""
    arguments(__doc__).parse_args()
    port = free_port()
    try:
        with cpu_quota(QUOTA) as cgroup:
            server = start(lambda: serve(port, cgroup))
            clients = start(lambda: give_up(port, server, "cpu_starved", 1_000, per_second=2.0, burst=30))
            supervise(server, clients)
    except OSError as error:
        say(skipped=f"no CPU quota: {error}")


if __name__ == "__main__":
    main()
