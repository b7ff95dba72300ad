"""The login: a token is typed once, and a cookie stands for it from then on."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from loiter.logs import fields
from loiter_aggregator.access.authentication import Refused
from loiter_aggregator.ingest.callers import network_of
from loiter_aggregator.web.access import LOGIN, Access, address_of
from loiter_aggregator.web.errors import Problem, respond
from loiter_aggregator.web.sessions import SessionEnded
from loiter_aggregator.web.templating import render

_log = logging.getLogger(__name__)

_MAX_FORM_BYTES: Final = 16_384
_ATTEMPTS_A_MINUTE: Final = 10
_MAX_ADDRESSES: Final = 10_000


class Attempts:
    """Counts failed logins of each address (IPv6: of each /64) within a minute.

    A token can not be guessed however often one tries. This keeps those who try from filling the log and the processor.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Takes a clock in seconds."""
        self._monotonic = monotonic
        self._minute = 0
        self._failed = Counter[str]()

    def wait(self, address: str) -> int:
        """For how many seconds an address has to wait; 0 if not at all."""
        self._turn()
        return 0 if self._failed[network_of(address)] < _ATTEMPTS_A_MINUTE else 60 - int(self._monotonic() % 60)

    def fail(self, address: str) -> None:
        """Counts a login that failed."""
        self._turn()
        if len(self._failed) < _MAX_ADDRESSES:
            self._failed[network_of(address)] += 1

    def _turn(self) -> None:
        minute = int(self._monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._failed.clear()


class Login:
    """Answers `/login` and `/logout`."""

    def __init__(self, access: Access, attempts: Attempts | None = None) -> None:
        """Takes who knows the tokens."""
        self._access = access
        self._attempts = attempts or Attempts()

    async def show(self, request: Request) -> Response:
        """Shows the form, with why one has to log in again where that is so."""
        goal = local_path(request.query_params.get("next", ""))
        if not self._access.is_asked_for:
            return RedirectResponse(goal, 303)
        reason = ""
        try:
            if self._access.by_session(request) is not None:
                return RedirectResponse(goal, 303)
        except SessionEnded as ended:
            reason = str(ended)
        except Refused as refused:
            reason = f"Your login has ended: {refused.reason}."
        return _form(request, goal, reason)

    async def log_in(self, request: Request) -> Response:
        """Takes a token, and opens a session for its holder."""
        address = address_of(request)
        if wait := self._attempts.wait(address):
            return respond(
                request,
                Problem(
                    429,
                    "Too many attempts",
                    f"{_ATTEMPTS_A_MINUTE} logins from here have failed within a minute.",
                    f"Try again in {wait} seconds.",
                    {"retry-after": str(wait)},
                ),
            )
        form = await _read_form(request)
        goal = local_path(form.get("next", ""))
        if not self._access.is_asked_for:
            return RedirectResponse(goal, 303)
        try:
            credentials = self._access.by_token(f"Bearer {form.get('token', '').strip()}")
        except Refused as refused:
            self._attempts.fail(address)
            self._access.turned_away(request, refused.reason)
            return _form(request, goal, f"{refused.reason[:1].upper()}{refused.reason[1:]}.", status=401)
        assert credentials.token is not None, "who shows no token is refused where one is asked for"
        response = RedirectResponse(goal, 303)
        self._access.sessions.open(credentials.token, request, response)
        name = credentials.principal.name
        _log.info("%s logged in from %s", name, address, extra=fields(peer=address, caller=name))
        return response

    async def log_out(self, request: Request) -> Response:
        """Ends the session."""
        response = RedirectResponse(LOGIN, 303)
        self._access.sessions.close(request, response)
        return response


def local_path(where: str) -> str:
    """Where to go after the login: a path of ours, and the fleet's page instead of anything else. Pure."""
    if not where.startswith("/") or where.startswith(("//", "/\\")) or not where.isprintable() or "\\" in where:
        return "/"
    try:
        parts = urlsplit(where)
    except ValueError:
        return "/"
    return "/" if parts.scheme or parts.netloc or parts.path.startswith((LOGIN, "/logout")) else where


def _form(request: Request, goal: str, reason: str, *, status: int = 200) -> Response:
    return render(request, "login.html", {"next": goal, "reason": reason, "token_needed": True}, status=status)


async def _read_form(request: Request) -> dict[str, str]:
    """Reads the fields of a form. Raises HTTPException where it is too large, or no form."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise HTTPException(413, "what was sent is larger than any form of this page")
    try:
        fields_there = parse_qs(body.decode("ascii"), max_num_fields=10)
    except ValueError:
        raise HTTPException(400, "what was sent is no form of this page") from None
    return {name: values[0] for name, values in fields_there.items()}
