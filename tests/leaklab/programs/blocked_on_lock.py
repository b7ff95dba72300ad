"""Accepts and never reads: its worker threads wait for locks that two of them took in different order."""

from __future__ import annotations

import queue
import socket
import threading

from leaklab.lab import ANSWER, arguments, free_port, give_up, listen, start, supervise

WORKERS = 4


def serve(port: int) -> None:
    """Accepts, and hands the connections to workers that never get to them."""
    accepts, users = threading.Lock(), threading.Lock()
    both_hold_one = threading.Barrier(2)
    connections: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    def work(number: int) -> None:
        first, second = (accepts, users) if number % 2 == 0 else (users, accepts)
        connection = connections.get()
        with first:
            if number < 2:
                both_hold_one.wait()
            with second:  # a deadlock: the other one holds it, and waits for the first
                connection.recv(4096)
                connection.sendall(ANSWER)
                connection.close()

    for number in range(WORKERS):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    listener = listen(port)
    while True:
        connections.put(listener.accept()[0])


def main() -> None:
    """Starts both ends."""
    parser = arguments(__doc__)
    parser.add_argument("--per-second", type=float, default=4.0)
    options = parser.parse_args()
    port = free_port()
    server = start(lambda: serve(port))
    clients = start(lambda: give_up(port, server, "stalled_reader", 1_000, options.per_second))
    supervise(server, clients)


if __name__ == "__main__":
    main()
