"""Healthy and busy: connections come and go, and each is closed at once by both sides."""

from __future__ import annotations

from leaklab.lab import arguments, free_port, serve, start, supervise, visit


def main() -> None:
    """Starts both ends."""
    parser = arguments(__doc__)
    parser.add_argument("--per-second", type=float, default=150.0)
    options = parser.parse_args()
    port = free_port()
    supervise(start(lambda: serve(port)), start(lambda: visit(port, options.per_second, options.closes)))


if __name__ == "__main__":
    main()
