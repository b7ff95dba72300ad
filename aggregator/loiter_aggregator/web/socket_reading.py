"""Reads sockets for pages: each who looks is held to the rate and in the log, and many who look cost one reading."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.access.principal import who_asks
from loiter_aggregator.web.answer_cache import Seen

# Who looks again after so long asks again, and may be shown the same.
_SAME_LOOK_SECONDS: Final = 0.5


async def read_sockets(
    request: Request, question: pb.ListSocketsRequest, *, wait: float | None, fresh: float
) -> Seen[pb.ListSocketsResponse]:
    """Asks the agent of a host, or shows what it said within the last `fresh` seconds, to whomever."""
    answers, sockets = request.app.state.answers, request.app.state.reading.sockets

    async def admitted(question: pb.ListSocketsRequest) -> pb.ListSocketsResponse:
        await sockets.admit(question)
        answer: Seen[pb.ListSocketsResponse] = await answers.ask(sockets.read, question, wait=None, fresh=fresh)
        return answer.need()

    seen: Seen[pb.ListSocketsResponse] = await answers.ask(
        admitted, question, wait=wait, fresh=min(fresh, _SAME_LOOK_SECONDS), who=who_asks()
    )
    return seen
