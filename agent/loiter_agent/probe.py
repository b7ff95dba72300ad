"""Tries an aggregator as the agent would, without reporting anything: for `check` and `install`.

It resolves the name, connects, and opens the stream of reports with the agent's certificate and token, which it then
ends without a hello. The aggregator answers INVALID_ARGUMENT to whom it would let in, and refuses all others before.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from loiter import grpc_core
from loiter.progress import waiting
from loiter.text import printable
from loiter.transport import Security, channel_credentials, read_token, token_metadata, wants_tls

# What an aggregator tells of its clock, in milliseconds since the epoch.
CLOCK_METADATA: Final = "loiter-time"

_TIMEOUT_SECONDS: Final = 10.0
_METHOD: Final = "/loiter.v1.IngestService/StreamReports"


class Verdict(Enum):
    """What became of a try."""

    # It would take reports of this agent.
    ADMITTED = auto()
    # Nobody answers, now: that may mend itself.
    AWAY = auto()
    # It is there, and something is wrong that somebody has to mend.
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Probe:
    """A try. `skew_seconds` is how far this host's clock is ahead of the aggregator's; None where it does not say.

    `resolved` is whether the server's name has an address.
    """

    server: str
    verdict: Verdict
    words: str
    skew_seconds: float | None = None
    resolved: bool = True


class _Unresolved(Exception):
    """The name has no address."""


def probe(server: str, security: Security, timeout: float = _TIMEOUT_SECONDS) -> Probe:
    """Tries HOST:PORT, for about `timeout` seconds at most."""
    with waiting(f"trying {server}"):
        return _probe(server, security, timeout)


def _probe(server: str, security: Security, timeout: float) -> Probe:
    try:
        wrong = _unreachable(server, timeout)
    except _Unresolved as error:
        return Probe(server, Verdict.AWAY, str(error), resolved=False)
    if wrong is not None:
        return Probe(server, Verdict.AWAY, wrong)
    grpc_core.configure(os.environ)
    import grpc

    try:
        metadata = () if security.token_file is None else token_metadata(read_token(security.token_file))
        if wants_tls(server, security):
            channel = grpc.secure_channel(server, channel_credentials(security))
        else:
            channel = grpc.insecure_channel(server)
    except OSError as error:
        return Probe(server, Verdict.REFUSED, str(error))
    with channel:
        sent = time.time()
        call: Any = channel.stream_stream(_METHOD)(iter(()), timeout=timeout, metadata=metadata)
        try:
            for _ in call:
                return Probe(server, Verdict.REFUSED, "what answers is no aggregator of loiter")
        except grpc.RpcError:
            pass
        code, details = call.code(), printable(call.details() or "")
        clock = dict(call.trailing_metadata() or ()).get(CLOCK_METADATA)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return Probe(server, Verdict.ADMITTED, _how(server, security), _skew(clock, sent, time.time()))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Probe(server, Verdict.AWAY, f"it has too much to do: {details}")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return _not_connected(server, security, details)
    if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK):
        return Probe(server, Verdict.REFUSED, f"what answers is no aggregator of loiter ({code.name})")
    return Probe(server, Verdict.REFUSED, details or code.name)


def _unreachable(server: str, timeout: float) -> str | None:
    """Why no connection can be made; None where one can. Raises _Unresolved."""
    host, _, port = server.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise _Unresolved(f"{host} can not be resolved: {error.strerror or error}") from None
    failure = "no address"
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as one:
            one.settimeout(timeout / len(found))
            try:
                one.connect(address)
                return None
            except TimeoutError:
                failure = f"{address[0]} does not answer on port {port}"
            except OSError as error:
                failure = f"{address[0]} port {port}: {error.strerror or error}"
    return failure


def _not_connected(server: str, security: Security, details: str) -> Probe:
    from loiter.tls_diagnosis import diagnose  # late: OpenSSL is for when something is wrong

    wrong = diagnose(server, security)
    if wrong is not None:
        return Probe(server, Verdict.REFUSED, wrong)
    # gRPC nests its reasons; the last one is the system's own.
    return Probe(server, Verdict.AWAY, details.rpartition(": ")[2] or "it does not answer")


def _how(server: str, security: Security) -> str:
    safely = "by TLS" if wants_tls(server, security) else "in plaintext"
    shown = [name for name, file in (("certificate", security.certificate), ("token", security.token_file)) if file]
    return f"lets this agent report, {safely}" + (f", with its {' and '.join(shown)}" if shown else "")


def _skew(clock: str | bytes | None, sent: float, received: float) -> float | None:
    """Of a clock read between two moments: how far ours is ahead."""
    if not isinstance(clock, str) or not clock.isdecimal():
        return None
    return (sent + received) / 2 - int(clock) / 1_000
