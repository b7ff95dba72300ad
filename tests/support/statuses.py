"""The status of an agent that reports."""

from __future__ import annotations

from loiter_agent.status import Status, timestamp

STATUS = Status(
    version="0.3.0",
    pid=42,
    updated_at=timestamp(1_000.0),
    interval_seconds=10.0,
    ticks=3,
    last_tick_at=timestamp(1_000.0),
    server="aggregator:7433",
    connected=True,
    error=None,
    acknowledged_reports=3,
    last_acknowledged_at=timestamp(1_000.0),
    waiting_reports=0,
    lost_reports=0,
    left_out=None,
)
