"""Uses nearly all ports there are towards one destination: the namespace's range is narrow, and most are held.

Narrows net.ipv4.ip_local_port_range, so it needs a network namespace of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from leaklab.lab import Closes, arguments, ask, connect, free_port, pace, say, serve, start, supervise

PORTS = 200
HELD = 165
ROUTES = Path("/proc/self/net/route")  # a line of headings, and one for each route
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def use_up(port: int, folder: Path | None) -> None:
    """Holds most of the ports, and puts a few more into TIME_WAIT, one every four seconds."""
    closes = Closes(folder)
    held = [connect(port) for _ in range(HELD)]
    say(pid=os.getpid(), ports=port, share=0.8, since=time.monotonic())
    for _ in pace(0.25):
        connection = connect(port)
        if ask(connection):
            closes.close(connection)
    del held


def main() -> None:
    """Narrows the range and starts both ends."""
    options = arguments(__doc__).parse_args()
    if len(ROUTES.read_text().splitlines()) > 1:
        say(skipped="there are routes: this may be the host's own network namespace")
        return
    port = free_port()
    try:
        RANGE.write_text(f"20000 {20000 + PORTS - 1}")
    except OSError as error:
        say(skipped=f"the port range can not be set: {error}")
        return
    supervise(start(lambda: serve(port)), start(lambda: use_up(port, options.closes)))


if __name__ == "__main__":
    main()
