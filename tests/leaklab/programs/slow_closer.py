"""Healthy, though not quick: it closes a while after its clients have, and closes as many as come.

With a long while, hundreds of its sockets are in CLOSE_WAIT at any time, none of them for longer than that.
"""

from __future__ import annotations

from leaklab.lab import arguments, free_port, serve, start, supervise, visit

# The client's socket is in TIME_WAIT from the server's close on, not from its own: what it notes is not so.
NOTED_UP_TO_SECONDS = 1.0


def main() -> None:
    """Starts both ends."""
    parser = arguments(__doc__)
    parser.add_argument("--per-second", type=float, default=20.0)
    parser.add_argument("--close-after", type=float, default=0.7, help="seconds after the end of the stream")
    options = parser.parse_args()
    port = free_port()
    server = start(lambda: serve(port, options.close_after))
    folder = options.closes if options.close_after <= NOTED_UP_TO_SECONDS else None
    supervise(server, start(lambda: visit(port, options.per_second, folder)))


if __name__ == "__main__":
    main()
