"""A report on its way: what it says, its files, and what it is told again by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from loiter.v1 import fleet_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A report, rendered for one target. `due` is in milliseconds since the epoch.

    `id` is the same at every try, and differs between targets, schedules, due times and aggregators: a receiver that
    has it already can drop the report.
    """

    report: pb.FleetReport
    files: Mapping[str, bytes]
    schedule: str
    due: int
    id: str

    @property
    def stem(self) -> str:
        """What its files are called, without the ending: `daily-20261123T070000Z`."""
        return f"{self.schedule}-{datetime.fromtimestamp(self.due / 1_000, UTC):%Y%m%dT%H%M%SZ}"


def delivery_id(installation: str, schedule: str, due: int, target: str, edition: int = 0) -> str:
    """Identifies a delivery, however often it is tried. Another edition of a report is no repetition."""
    which = f"{due}.{edition}" if edition else f"{due}"
    return hashlib.sha256("\0".join((installation, schedule, which, target)).encode()).hexdigest()[:32]
