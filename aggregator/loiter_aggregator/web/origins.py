"""Turns away what the pages of others make a browser send here.

A page of somebody else can point its own name at this machine's loopback address (DNS rebinding), and would then read
what it likes: so the name that is asked for has to be one of ours. And it can send us a form: so what changes something
has to come from a page of ours.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from loiter.text import printable
from loiter_aggregator.access.files import Watch
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.web.errors import Problem, send_problem
from loiter_aggregator.web.health import PATHS as HEALTH_PATHS
from loiter_aggregator.web.static_files import PREFIX as STATIC

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# HOST or HOST:PORT as a Host header has it (RFC 9110, 7.2), in lower case: with neither user nor path.
_ADDRESS: Final = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+?)\.?)(?::[0-9]{0,5})?")


class OurNames:
    """The names that this aggregator is reached by."""

    def __init__(self, settings: AggregatorSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Takes where it listens, what it shows of itself, and the address that people are given."""
        own = {
            "localhost",
            socket.gethostname(),
            host_of(settings.http or ""),
            _host_of_url(settings.web.url),
        }
        self._own = frozenset(name.lower() for name in own if name)
        self._certificate = settings.tls.certificate
        self._watch = Watch([] if self._certificate is None else [self._certificate], monotonic)
        self._certified = _names_in(self._certificate) or frozenset()

    def include(self, host: str) -> bool:
        """Whether a name is ours, in lower case. An IP address is: nobody can point it anywhere."""
        if host in self._own or host.endswith(".localhost") or _is_ip(host):
            return True
        if self._watch.changed() and (names := _names_in(self._certificate)) is not None:
            self._certified = names
        return host in self._certified or f"*.{host.partition('.')[2]}" in self._certified


class OriginCheck:
    """Answers only what is asked under a name of ours, and takes forms only from pages of ours."""

    def __init__(self, app: ASGIApp, names: OurNames) -> None:
        """Takes what answers, and our names."""
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request. See ASGI."""
        request = Request(scope, receive)
        problem = self._problem(request)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await send_problem(problem, request, send)

    def _problem(self, request: Request) -> Problem | None:
        # Load balancers ask by whatever name they have, and the page that turns people away is to look like one; there
        # is nothing to learn from the answers.
        path = request.url.path
        if path in HEALTH_PATHS or path.startswith(STATIC):
            return None
        asked = request.headers.get("host", "")
        host = host_of(asked)
        if not self._names.include(host):
            return Problem(
                421,
                "Not a name of this aggregator",
                f"This page is not served under the name '{printable(asked)[:100]}'.",
                "Set web.url of the aggregator to the address that people use, or use its IP address.",
            )
        if request.method not in _SAFE_METHODS and not self._is_from_us(request, host):
            return Problem(
                403,
                "Sent from elsewhere",
                "This was sent by a page of another site.",
                "Open the page here, and try again.",
            )
        return None

    def _is_from_us(self, request: Request, host: str) -> bool:
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site is not None:
            return site in ("same-origin", "none")
        if origin is not None:
            return _host_of_url(origin) == host
        return True  # no browser: it has no login that a page could make use of


def host_of(address: str) -> str:
    """The host of HOST or HOST:PORT, in lower case, without the brackets of IPv6 and the dot at the end.

    Empty where it is neither: with a user before it, a path after it, or a space in it.
    """
    found = _ADDRESS.fullmatch(address.lower())
    return (found["ipv6"] or found["name"]) if found else ""


def _host_of_url(url: str) -> str:
    """The host of a URL; empty where it has none, or is none."""
    try:
        return host_of(urlsplit(url).netloc)
    except ValueError:
        return ""


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _names_in(certificate: Path | None) -> frozenset[str] | None:
    """The DNS names in a certificate. None where it can not be read, which whoever serves by it says."""
    if certificate is None:
        return frozenset()
    try:
        first = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError):  # such as while it is being replaced
        return None
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))
