"""What a browser says of where it is and who uses it: names of hosts, addresses to come back to, cookies of logins."""

from __future__ import annotations

from functools import cache
from typing import Final

from starlette.requests import Request

from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.web.login import local_path
from loiter_aggregator.web.origins import OurNames, host_of
from loiter_aggregator.web.sessions import SessionEnded, Sessions

_CLOCK_MS: Final = 1_700_000_000_000


@cache
def _names() -> OurNames:
    return OurNames(AggregatorSettings(), monotonic=lambda: 0.0)


@cache
def _sessions() -> Sessions:
    return Sessions(bytes(32), 3_600.0, "7434", lambda: _CLOCK_MS)


def host_header(data: bytes) -> None:
    """The name that a page is asked by: ours, or not. An address with a name in it is none."""
    host = host_of(data.decode("latin-1"))
    assert host == host.lower()
    assert not _names().include(f"{host}.evil.example")


def way_back(data: bytes) -> None:
    """Where to go after the login: a path of this site, whatever the browser makes of it."""
    path = local_path(data.decode("utf-8", "replace"))
    assert path.startswith("/")
    assert not path.startswith(("//", "/\\"))
    assert path.isprintable()


def login_cookie(data: bytes) -> None:
    """A cookie: nobody but the aggregator can make one that counts."""
    request = Request({"type": "http", "scheme": "http", "path": "/", "headers": [(b"cookie", b"loiter-7434=" + data)]})
    try:
        session = _sessions().read(request)
    except SessionEnded:
        session = None
    assert session is None
