"""Asks who it is before every page: by a token that is shown with the request, or by a login with one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import grpc
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from loiter.text import printable
from loiter_aggregator.access.authentication import Authenticator, Credentials, Refused
from loiter_aggregator.access.principal import Principal, Right, caller, caller_address
from loiter_aggregator.access.refusals import RefusalLog
from loiter_aggregator.web.errors import Problem, respond
from loiter_aggregator.web.health import PATHS as HEALTH_PATHS
from loiter_aggregator.web.sessions import SessionEnded, Sessions, fingerprint
from loiter_aggregator.web.static_files import PREFIX as STATIC

_log = logging.getLogger(__name__)

LOGIN: Final = "/login"
LOGOUT: Final = "/logout"
_OPEN: Final = HEALTH_PATHS | {LOGIN, LOGOUT}


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page: the name as it is logged; `session` where by a login, which can be ended."""

    name: str
    token: bool
    session: bool


class Access:
    """Knows who may see the pages."""

    def __init__(self, authenticator: Authenticator, sessions: Sessions, on_refused: Callable[[], None]) -> None:
        """Takes who knows the tokens, who knows the logins, and what to call for each request that is refused."""
        self.sessions = sessions
        self._authenticator = authenticator
        self._on_refused = on_refused
        self._refusals = RefusalLog(_log)

    @property
    def is_asked_for(self) -> bool:
        """Whether one has to show a token at all."""
        return not self._authenticator.authenticate({}, ()).principal.rights

    def by_token(self, authorization: str) -> Credentials:
        """Finds out who shows a token, which has to allow reading. Raises Refused."""
        return self._allowed(self._authenticator.authenticate({}, (("authorization", authorization),)))

    def by_session(self, request: Request) -> Credentials | None:
        """Finds out whose login a request is of; None without. Raises SessionEnded, Refused."""
        session = self.sessions.read(request)
        if session is None:
            return None
        credentials = self._authenticator.resume(session.token_id)
        if credentials.token is None or fingerprint(credentials.token) != session.fingerprint:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "the token was removed")
        return self._allowed(credentials)

    def admit(self, request: Request) -> tuple[Principal, Viewer]:
        """Finds out who asks for a page. Raises Refused where it is nobody who may, SessionEnded."""
        shown = _tokens_in(request)
        if len(shown) > 1:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "more than one token is shown")
        session = None
        if shown:
            credentials = self.by_token(shown[0])
        elif self.is_asked_for and (session := self.by_session(request)) is not None:
            credentials = session
        else:
            credentials = self._allowed(self._authenticator.authenticate({}, ()))
        viewer = Viewer(credentials.principal.name, credentials.token is not None, session is not None)
        return credentials.principal, viewer

    def turned_away(self, request: Request, reason: str) -> None:
        """Counts and logs that somebody was."""
        address, path = address_of(request), printable(request.url.path)[:100]
        self._on_refused()
        self._refusals.say(
            (address, reason), f"{address} refused at {path}: {reason}", peer=address, path=path, reason=reason
        )

    def _allowed(self, credentials: Credentials) -> Credentials:
        self._authenticator.authorize(credentials, Right.READ)
        return credentials


class AccessGate:
    """Lets those through who may read; the others are sent to the login, or turned away where they are programs."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Takes what answers, and who knows the callers."""
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request. See ASGI."""
        request = Request(scope, receive)
        request.state.viewer = None
        if request.url.path in _OPEN or request.url.path.startswith(STATIC):
            await self._app(scope, receive, send)
            return
        try:
            principal, request.state.viewer = self._access.admit(request)
        except (Refused, SessionEnded) as refusal:
            await self._turn_away(request, refusal)(scope, receive, send)
            return
        caller.set(principal)
        caller_address.set(address_of(request))
        await self._app(scope, receive, send)

    def _turn_away(self, request: Request, refusal: Refused | SessionEnded) -> Response:
        shown = bool(_tokens_in(request))
        refused = refusal if isinstance(refusal, Refused) else None
        # Who shows nothing has not been let in yet, and is not turned away either.
        if refused is not None and (shown or self._has_login(request)):
            self._access.turned_away(request, refused.reason)
        forbidden = refused is not None and refused.code is grpc.StatusCode.PERMISSION_DENIED
        if not shown and not forbidden:
            login = f"{LOGIN}?next={quote(_where(request), safe='/')}"
            if "hx-request" in request.headers:
                return Response(status_code=401, headers={"hx-redirect": login})
            if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                return RedirectResponse(login, 303)
        if forbidden:
            hint = "Log in with a token that allows reading: loiter token add NAME --right read"
            return respond(request, Problem(403, "Not allowed", _sentence(str(refusal)), hint))
        return respond(
            request,
            Problem(
                401,
                "Who is there?",
                _sentence(str(refusal)),
                "Send a token that allows reading: 'Authorization: Bearer loiter_...'",
                {"www-authenticate": 'Bearer realm="loiter"'},
            ),
        )

    def _has_login(self, request: Request) -> bool:
        try:
            return self._access.sessions.read(request) is not None
        except SessionEnded:
            return True


def _tokens_in(request: Request) -> list[str]:
    """What is shown as a token. A proxy before us may ask for a password, and pass that on: that is not for us."""
    return [value for value in request.headers.getlist("authorization") if value.lower().startswith("bearer ")]


def address_of(request: Request) -> str:
    """The address that a request came from."""
    return "unknown" if request.client is None else printable(request.client.host.removeprefix("::ffff:"))


def _where(request: Request) -> str:
    """What is asked for, to come back to. For what a page asks by itself: the page that it is on."""
    if "hx-request" in request.headers and (page := request.headers.get("hx-current-url")):
        _, _, rest = page.partition("://")
        return "/" + rest.partition("/")[2]
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
