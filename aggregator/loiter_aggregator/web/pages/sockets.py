"""The sockets of one host as they are now: its agent reads them when the page is asked for."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from loiter.limits import MAX_LISTED_SOCKETS
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import socket_pb2
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.output.rows import seconds, value
from loiter_aggregator.web.address import address_of, read_name, read_number
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
_NAMES: Final = {state: name.upper() for name, state in STATES.items()}
# Who asks again wants to see how it is now.
_FRESH_SECONDS: Final = 0.5
_WAIT_SECONDS: Final = 0.15


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
    seen = await request.app.state.board.ask(
        request.app.state.reading.sockets.list_sockets,
        pb.ListSocketsRequest(name=name, pid=pid, states=[STATES[state] for state in wanted], limit=limit),
        # The page may come before the answer; once it is there, it can wait for the answer itself.
        wait=None if "hx-request" in request.headers else _WAIT_SECONDS,
        fresh=_FRESH_SECONDS,
    )
    answer = seen.answer if seen.loading else seen.need()
    found = socket_pb2.SocketAnswer() if answer is None else answer.answer
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


def _row(one: socket_pb2.Socket) -> dict[str, object]:
    return {
        "id": row_id(one.namespace, one.local, one.peer, one.state),
        "state": _NAMES.get(one.state, ""),
        "local": one.local,
        "peer": one.peer,
        "receive_queue": value(one, "receive_queue"),
        "send_queue": value(one, "send_queue"),
        "age": seconds(one.age) if one.HasField("age") else None,
        "idle": seconds(one.idle) if one.HasField("idle") else None,
        "pid": value(one, "pid"),
        "name": one.name,
        "app": one.app,
        "namespace": one.namespace,
    }
