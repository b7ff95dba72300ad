"""Lists the sockets of a host, as its agent reads them when it is asked."""

from __future__ import annotations

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.fleet.errors import Unavailable


class Sockets:
    """Asks agents through the streams that they keep open."""

    async def list_sockets(self, request: pb.ListSocketsRequest) -> pb.ListSocketsResponse:
        """Asks the agent of a host. Raises InvalidRequest, NotFound, Unavailable, TookTooLong."""
        raise Unavailable(f"the agent of {request.name} does not answer")
