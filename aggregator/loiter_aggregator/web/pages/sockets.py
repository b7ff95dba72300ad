"""The sockets of one host as they are now: its agent reads them when the page is asked for."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from loiter.limits import MAX_LISTED_SOCKETS
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import socket_pb2
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.output.rows import Row, value
from loiter_aggregator.output.sockets import socket_row
from loiter_aggregator.web.address import address_of, patience, read_name, read_number
from loiter_aggregator.web.making import make
from loiter_aggregator.web.socket_reading import read_sockets
from loiter_aggregator.web.templating import render
from loiter_aggregator.web.views.pulse import pulse_of
from loiter_aggregator.web.views.tags import row_id

_PARAMETERS: Final = ("host", "pid", "state", "limit")
_MAX_PID: Final = 4_194_304
STATES: Final = {
    name.removeprefix("TCP_STATE_").lower().replace("_", "-"): state
    for name, state in socket_pb2.TcpState.items()
    if state
}
_NAMES: Final = {state: name.upper().replace("-", "_") for name, state in STATES.items()}
# Who asks again wants to see how it is now.
_FRESH_SECONDS: Final = 0.5


async def sockets(request: Request) -> Response:
    """Shows the sockets of a host."""
    query = request.query_params
    name = read_name(query, "host", "/sockets?host=web1")
    pid = read_number(query, "pid", 0, _MAX_PID, 0)
    limit = read_number(query, "limit", 1, MAX_LISTED_SOCKETS, 100)
    wanted = [state for state in query.getlist("state") if state]
    for state in wanted:
        if state not in STATES:
            raise InvalidRequest(f"state: {state!r} is no state; there are {', '.join(STATES)}")
    seen = await read_sockets(
        request,
        pb.ListSocketsRequest(name=name, pid=pid, states=[STATES[state] for state in wanted], limit=limit),
        # The page may come before the answer; once it is there, it can wait for the answer itself.
        wait=None if "hx-request" in request.headers else patience(request),
        fresh=_FRESH_SECONDS,
    )
    answer = seen.answer if seen.loading else seen.need()
    found = socket_pb2.SocketAnswer() if answer is None else answer.answer

    def page() -> Response:
        return render(
            request,
            "sockets.html",
            {
                "name": name,
                "pid": pid,
                "wanted": wanted,
                "states": tuple(STATES),
                "limit": limit,
                "address": address_of(request, _PARAMETERS),
                "pulse": pulse_of(seen),
                "answer": answer,
                "error": found.error,
                "matching": value(found, "matching"),
                "read_at": found.sample_time if found.HasField("sample_time") else None,
                "namespaces_unread": found.namespaces_unread,
                "unattributed": found.unattributed,
                "sockets": [_row(one) for one in found.sockets],
            },
        )

    return await make(request, len(found.sockets), page)


def _row(one: socket_pb2.Socket) -> Row:
    return {
        **socket_row(one),
        "id": row_id(one.namespace, one.local, one.peer, one.state),
        "state": _NAMES.get(one.state),
    }
