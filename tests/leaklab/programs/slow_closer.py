"""Healthy, though not quick: it closes 0.7 s after its clients have."""

from __future__ import annotations

from leaklab.lab import arguments, free_port, serve, start, supervise, visit

CLOSE_AFTER_SECONDS = 0.7


def main() -> None:
    """Starts both ends."""
    parser = arguments(__doc__)
    parser.add_argument("--per-second", type=float, default=20.0)
    options = parser.parse_args()
    port = free_port()
    server = start(lambda: serve(port, CLOSE_AFTER_SECONDS))
    supervise(server, start(lambda: visit(port, options.per_second, options.closes)))


if __name__ == "__main__":
    main()
