"""Serves FleetService by gRPC: what a question fails with becomes the status of its call."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1.fleet_service_pb2_grpc import FleetServiceServicer
from loiter_aggregator.fleet.errors import InvalidRequest, NotFound, Overloaded, TookTooLong, Unavailable
from loiter_aggregator.fleet.reading import Reading
from loiter_aggregator.store.duckdb_store import StoreError

Answer = TypeVar("Answer")
_Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)

_CODES = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Unavailable: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TookTooLong: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class FleetService(FleetServiceServicer):
    """Answers what comes in by gRPC."""

    def __init__(self, reading: Reading) -> None:
        """Takes what knows the answers."""
        self._reading = reading
        self._fleet = reading.fleet

    async def RankHosts(self, request: pb.RankHostsRequest, context: _Context) -> pb.RankHostsResponse:
        """Ranks hosts."""
        return await _answer(context, self._fleet.rank_hosts(request))

    async def RankProcesses(self, request: pb.RankProcessesRequest, context: _Context) -> pb.RankProcessesResponse:
        """Ranks processes."""
        return await _answer(context, self._fleet.rank_processes(request))

    async def RankApps(self, request: pb.RankAppsRequest, context: _Context) -> pb.RankAppsResponse:
        """Ranks applications."""
        return await _answer(context, self._fleet.rank_apps(request))

    async def RankGroups(self, request: pb.RankGroupsRequest, context: _Context) -> pb.RankGroupsResponse:
        """Ranks groups of hosts."""
        return await _answer(context, self._fleet.rank_groups(request))

    async def GetHost(self, request: pb.GetHostRequest, context: _Context) -> pb.GetHostResponse:
        """Shows one host."""
        return await _answer(context, self._fleet.get_host(request))

    async def ExplainProcess(self, request: pb.ExplainProcessRequest, context: _Context) -> pb.ExplainProcessResponse:
        """Says why a process has the sockets that it has."""
        return await _answer(context, self._fleet.explain_process(request))

    async def GetFleet(self, request: pb.GetFleetRequest, context: _Context) -> pb.GetFleetResponse:
        """Shows the fleet."""
        return await _answer(context, self._fleet.get_fleet(request))

    async def GetHistory(self, request: pb.GetHistoryRequest, context: _Context) -> pb.GetHistoryResponse:
        """Shows how figures went."""
        return await _answer(context, self._fleet.get_history(request))

    async def ListSockets(self, request: pb.ListSocketsRequest, context: _Context) -> pb.ListSocketsResponse:
        """Lists the sockets of one host."""
        return await _answer(context, self._reading.sockets.list_sockets(request))

    async def GetReport(self, request: pb.GetReportRequest, context: _Context) -> pb.GetReportResponse:
        """Builds a report."""
        return await _answer(context, self._reading.reports.get_report(request))

    async def ListReports(self, request: pb.ListReportsRequest, context: _Context) -> pb.ListReportsResponse:
        """Lists scheduled reports."""
        return await _answer(context, self._reading.reports.list_reports(request))

    async def ListAlerts(self, request: pb.ListAlertsRequest, context: _Context) -> pb.ListAlertsResponse:
        """Lists alerts."""
        return await _answer(context, self._reading.alerts.list_alerts(request))


async def _answer(context: _Context, answer: Awaitable[Answer]) -> Answer:
    try:
        return await answer
    except tuple(_CODES) as error:
        await context.abort(_CODES[type(error)], str(error))
    except StoreError as error:
        _log.error("%s", error)
        await context.abort(grpc.StatusCode.INTERNAL, "the store can not be read; see the aggregator's log")
    raise AssertionError("unreachable: abort raises")
