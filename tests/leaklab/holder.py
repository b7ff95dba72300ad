"""Holds TCP sockets still: so many in ESTABLISHED, CLOSE_WAIT and TIME_WAIT, over IPv4 or IPv6.

Both ends of every connection are in this process, so each connection counts twice: ESTABLISHED on both sides, or
CLOSE_WAIT on one and FIN_WAIT2 on the other. TIME_WAIT has one socket, and lasts 60 s on Linux. Prints "ready" when all
are in place, then waits until its standard input ends.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import sys
import time

# include/net/tcp_states.h
_FIN_WAIT2 = 5


class Holder:
    """A listener and the connections made to it."""

    def __init__(self, family: int) -> None:
        """Listens on a free port of the loopback address."""
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self.listener.listen(128)
        self.held: list[socket.socket] = []
        self.half_closed: list[socket.socket] = []

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Makes a connection: the client's end and the server's."""
        client = socket.socket(self.listener.family, socket.SOCK_STREAM)
        client.connect(self.listener.getsockname())
        server, _ = self.listener.accept()
        return client, server

    def established(self) -> None:
        """Two sockets in ESTABLISHED."""
        self.held.extend(self.pair())

    def close_wait(self) -> None:
        """One socket in CLOSE_WAIT, and its peer in FIN_WAIT2: held open, it stays there."""
        client, server = self.pair()
        client.shutdown(socket.SHUT_WR)
        self.held.extend((client, server))
        self.half_closed.append(client)

    def settle(self) -> None:
        """Waits until every FIN was acknowledged: until then, which may be 40 ms, its sender is in FIN_WAIT1."""
        for client in self.half_closed:
            while client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _FIN_WAIT2:
                time.sleep(0.001)

    def time_wait(self) -> None:
        """One socket in TIME_WAIT: the client closes first."""
        client, server = self.pair()
        client.close()
        server.close()


def main() -> None:
    """Makes the sockets, says so, and waits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ipv6", action="store_true")
    parser.add_argument("--established", type=int, default=0, help="connections; each is two sockets")
    parser.add_argument("--close-wait", type=int, default=0, help="sockets; each has a peer in FIN_WAIT2")
    parser.add_argument("--time-wait", type=int, default=0, help="sockets")
    parser.add_argument("--fork", action="store_true", help="fork a child that inherits every socket")
    parser.add_argument("--parent-closes", action="store_true", help="with --fork: the parent closes its own copies")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    holder = Holder(socket.AF_INET6 if options.ipv6 else socket.AF_INET)
    for make, count in (
        (holder.established, options.established),
        (holder.close_wait, options.close_wait),
        (holder.time_wait, options.time_wait),
    ):
        for _ in range(count):
            make()
    holder.settle()
    child = 0
    if options.fork:
        keep_alive, gate = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(gate)
            os.read(keep_alive, 1)  # ends with the parent
            os._exit(0)
        os.close(keep_alive)
        if options.parent_closes:
            holder.listener.close()
            for held in holder.held:
                held.close()
    print("ready", child, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
