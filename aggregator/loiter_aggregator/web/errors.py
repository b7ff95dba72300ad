"""What went wrong, as a page, as JSON, or as a line of text, by what the client takes. Never a traceback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loiter_aggregator.fleet.errors import InvalidRequest, NotFound, Overloaded, TookTooLong, Unavailable
from loiter_aggregator.store.duckdb_store import StoreError
from loiter_aggregator.web.answer_cache import Mistake

_log = logging.getLogger(__name__)

_RETRY: Final = {"retry-after": "5"}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is said to the client: what failed, and what to do about it."""

    status: int
    title: str
    message: str
    hint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


_STOPPING: Final = Problem(503, "The aggregator stops", "It was asked to stop.", "Ask again in a moment.", _RETRY)
_MISTAKE: Final = Problem(
    500, "A mistake in the aggregator", "This page could not be made.", "The aggregator's log says why."
)


def problem_of(error: Exception) -> Problem:
    """What to say of an error: of those that are nobody's mistake, their own words."""
    said = str(error)
    match error:
        case InvalidRequest():
            return Problem(
                400, "That can not be asked", _sentence(said), "Correct the address, or start from the ranking."
            )
        case NotFound():
            return Problem(404, "Not found", _sentence(said), "It may have another name, or not have reported yet.")
        case Unavailable():
            return Problem(503, "Not to be had at present", _sentence(said), "", _RETRY)
        case Overloaded():
            return Problem(503, "Too many questions", _sentence(said), "", _RETRY)
        case TookTooLong():
            return Problem(504, "No answer in time", _sentence(said))
        case StoreError():
            said = "The aggregator can not read its store; its log says why."
            return Problem(500, "The store can not be read", said, "Ask whoever runs it.")
        case HTTPException():
            return _of_http(error)
        case ClientDisconnect():  # nobody reads it; it is counted as what it was
            return Problem(400, "Not a whole request", "The client went away before its request was whole.")
        case Mistake():
            return Problem(500, _MISTAKE.title, _sentence(said))
        case _:
            return _MISTAKE


async def answer_error(request: Request, error: Exception) -> Response:
    """Answers a request that failed with an error that is nobody's mistake."""
    if isinstance(error, StoreError):
        _log.error("%s", error)
    return respond(request, problem_of(error))


def respond(request: Request, problem: Problem) -> Response:
    """Writes what went wrong in the way that the client takes it."""
    accepted = request.headers.get("accept", "")
    if "text/html" in accepted or "hx-request" in request.headers:
        response = _page(request, problem)
    elif "application/json" in accepted:
        response = JSONResponse({"error": {"status": problem.status, "message": problem.message, "hint": problem.hint}})
    else:
        response = PlainTextResponse("".join(f"{line}\n" for line in (problem.message, problem.hint) if line))
    response.status_code = problem.status
    response.headers.update(problem.headers)
    return response


async def send_problem(problem: Problem, request: Request, send: Send) -> None:
    """Answers a request with what went wrong. For what stands before the pages."""
    await respond(request, problem)(request.scope, request.receive, send)


class ErrorBoundary:
    """Says that it was a mistake of ours where anything unexpected was raised, and logs it once."""

    def __init__(self, app: ASGIApp) -> None:
        """Takes what answers."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request. See ASGI."""
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:  # as the server stops: nothing runs in this task afterwards
            problem = _STOPPING
        except Exception:
            _log.exception("%s was not answered by a mistake in the program", scope["path"])
            problem = _MISTAKE
        else:
            return
        if started:
            await send({"type": "http.response.body", "body": b""})
        else:
            await send_problem(problem, Request(scope, receive), send)


def _page(request: Request, problem: Problem) -> Response:
    from loiter_aggregator.web.templating import render  # late: it knows the static files, and they know errors

    facts: dict[str, Any] = {"title": problem.title, "message": problem.message, "hint": problem.hint}
    return render(request, "error.html", {"status": problem.status, **facts}, status=problem.status)


def _of_http(error: HTTPException) -> Problem:
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.NOT_FOUND:
        return Problem(404, "No such page", "There is no page of this address.", "", headers)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return Problem(405, "Not a form", "This page takes no such request.", "", headers)
    phrase = HTTPStatus(error.status_code).phrase
    said = error.detail if error.detail != phrase else ""
    return Problem(error.status_code, phrase.capitalize(), _sentence(said or phrase), "", headers)


def _sentence(text: str) -> str:
    """A message of ours as a sentence of a page."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
