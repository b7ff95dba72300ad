"""Healthy and quiet: hundreds of connections stay open, and little is said on them."""

from __future__ import annotations

from leaklab.lab import arguments, free_port, keep_asking, serve, start, supervise


def main() -> None:
    """Starts both ends."""
    parser = arguments(__doc__)
    parser.add_argument("--connections", type=int, default=300)
    options = parser.parse_args()
    port = free_port()
    supervise(start(lambda: serve(port)), start(lambda: keep_asking(port, options.connections, per_second=5.0)))


if __name__ == "__main__":
    main()
