"""Puts the pages together to one application."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from loiter_aggregator.access.authentication import Authenticator
from loiter_aggregator.clock import Clock
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.fleet.errors import InvalidRequest, NotFound, Overloaded, TookTooLong, Unavailable
from loiter_aggregator.fleet.reading import Reading
from loiter_aggregator.metrics.metrics import Metrics
from loiter_aggregator.store.duckdb_store import StoreError
from loiter_aggregator.web.access import LOGIN, LOGOUT, Access, AccessGate
from loiter_aggregator.web.answer_cache import AnswerCache, Mistake
from loiter_aggregator.web.errors import ErrorBoundary, answer_error
from loiter_aggregator.web.headers import SecurityHeaders
from loiter_aggregator.web.health import Readiness, healthz, readyz
from loiter_aggregator.web.login import Login
from loiter_aggregator.web.making import page_makers
from loiter_aggregator.web.observed import Observed
from loiter_aggregator.web.origins import OriginCheck, OurNames
from loiter_aggregator.web.pages import ROUTES
from loiter_aggregator.web.sessions import Sessions, signing_key
from loiter_aggregator.web.static_files import PREFIX, StaticFolder

_log = logging.getLogger(__name__)

_ERRORS = (
    HTTPException,
    ClientDisconnect,
    InvalidRequest,
    NotFound,
    Unavailable,
    Overloaded,
    TookTooLong,
    StoreError,
    Mistake,
)


def make_site(
    reading: Reading,
    metrics: Metrics,
    authenticator: Authenticator,
    settings: AggregatorSettings,
    clock: Clock,
    readiness: Readiness,
    on_refused: Callable[[], None] = lambda: None,
) -> Starlette:
    """Makes the application that answers HTTP. `on_refused` is called for each request that is refused.

    Raises:
        OSError: The key that logins are signed with can neither be read nor made.
    """
    port = (settings.http or "").rpartition(":")[2]
    sessions = Sessions(signing_key(settings.data_dir), settings.web.session, port, clock)
    access = Access(authenticator, sessions, on_refused)
    login = Login(access)
    static = StaticFolder()
    if static.missing:
        _log.error("the web page is not whole: %s missing from this installation", " and ".join(static.missing))
    site = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", _metrics),
            Route(LOGIN, login.show),
            Route(LOGIN, login.log_in, methods=["POST"]),
            Route(LOGOUT, login.log_out, methods=["POST"]),
            Route(f"{PREFIX}{{path:path}}", static.serve),
            *ROUTES,
        ],
        middleware=[
            # The first is the outermost: nothing gets past it, neither in nor out.
            Middleware(Observed, metrics),
            Middleware(SecurityHeaders),
            Middleware(ErrorBoundary),
            Middleware(OriginCheck, OurNames(settings)),
            Middleware(GZipMiddleware, minimum_size=1_000, compresslevel=5),
            Middleware(AccessGate, access),
        ],
        exception_handlers=dict.fromkeys(_ERRORS, answer_error),
    )
    site.state.reading = reading
    site.state.metrics = metrics
    site.state.settings = settings
    site.state.clock = clock
    site.state.answers = AnswerCache(clock)
    site.state.makers = page_makers()
    site.state.static = static
    site.state.readiness = readiness
    return site


async def _metrics(request: Request) -> Response:
    content, media_type = await request.app.state.metrics.exposition(request.headers.get("accept", ""))
    return Response(content, media_type=media_type)
