"""How the delivery of reports goes, for the agent's status."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Delivery:
    """Of this run. Kept by the uplink, which is the only one to change it."""

    server: str | None = None  # that is reported to, or was tried last
    connected: bool = False  # it has acknowledged a report on the stream that is open
    error: str | None = None  # why not, once a try has failed
    acknowledged: int = 0
    last_acknowledged: float | None = None  # time of day, in seconds since 1970
