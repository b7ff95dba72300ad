"""What `/metrics` shows."""

from __future__ import annotations

from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.ingest.counters import Counters


class Metrics:
    """The figures of the fleet and of the aggregator."""

    def __init__(self, fleet: Fleet, counters: Counters) -> None:
        """Takes whom to ask, and what counts what comes in."""
        self._fleet, self._counters = fleet, counters

    def observe_call(self, method: str, code: str, seconds: float) -> None:
        """Takes note of a call of gRPC that ended: its method, its status code, and how long it took."""

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Writes everything in the format that a scraper accepts. Returns it with its content type."""
        del accept
        return b"", "text/plain"
