"""Asks an aggregator, and puts what goes wrong into words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click
import grpc

from loiter.text import printable
from loiter.transport import (
    TOKEN_PATTERN,
    Security,
    SecurityFileError,
    channel_credentials,
    read_token,
    token_metadata,
    wants_tls,
)
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1.fleet_service_pb2_grpc import FleetServiceStub
from loiter.version import version
from loiter_aggregator.output.progress import progress

Request = TypeVar("Request")
Answer = TypeVar("Answer")

# Where the context of a command keeps what `--ca` and the like were set to.
SECURITY: Final = "loiter.security"
_TOKEN_VARIABLE: Final = "LOITER_TOKEN"  # noqa: S105 - where one is, not one
# Longer than what an aggregator takes by default (limits.query_seconds), so that its own words arrive.
_TIMEOUT_SECONDS: Final = 35.0
_NO_WORDS: Final = "Deadline Exceeded"
# What gRPC itself says, by the same code, of an answer over its limit.
_TOO_LARGE: Final = "message larger than max"
# A fleet's answer can be larger than a report.
_MAX_ANSWER_BYTES: Final = 64 << 20
# gRPC would wait for up to two minutes before it tries again to reach one that was away.
_RECONNECT_MS: Final = 2_000


class FleetClient:
    """A connection to an aggregator."""

    def __init__(
        self,
        server: str,
        channel: grpc.Channel,
        security: Security | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Takes an open channel, how it was opened, and what goes with each call."""
        self.server = server
        self.channel = channel
        self.stub = FleetServiceStub(channel)
        self._security = security or Security()
        self._metadata = metadata
        self._pending: grpc.Future[Any] | None = None

    def ask(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Answer],
        request: Request,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> Answer:
        """Calls a method of `stub`. Raises ClickException, which the command line shows, where it fails."""
        with progress(f"asking {self.server}"):
            self._pending = call = method.future(request, timeout=timeout_seconds, metadata=self._metadata)
            try:
                return call.result()
            except grpc.RpcError as error:
                raise click.ClickException(self.explain(error)) from None
            except grpc.FutureCancelledError:
                raise click.ClickException("the question was given up") from None
            finally:
                call.cancel()  # on Ctrl-C; one that was answered is not touched

    def give_up(self) -> None:
        """Has the question that another thread is asking fail, if there is one. The aggregator hears of it, too."""
        if self._pending is not None:
            self._pending.cancel()

    def explain(self, error: grpc.RpcError) -> str:
        """Puts into words why a call failed."""
        if not isinstance(error, grpc.Call):  # every error of a call in progress is one
            return f"cannot ask {self.server}: {error}"
        code, details = error.code(), printable(error.details() or "")
        if code == grpc.StatusCode.UNAVAILABLE:
            return self._unavailable(details)
        if code == grpc.StatusCode.DEADLINE_EXCEEDED and details != _NO_WORDS:
            return f"the aggregator at {self.server} gave up: {details}"
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the aggregator at {self.server} did not answer within {_TIMEOUT_SECONDS:.0f} s"
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE not in details:
            return f"the aggregator at {self.server} is busy: {details}"
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return self._unimplemented()
        if code == grpc.StatusCode.UNAUTHENTICATED:
            return f"the aggregator at {self.server} lets nobody in without a good token: {details} (--token-file)"
        if code == grpc.StatusCode.PERMISSION_DENIED:
            return f"the aggregator at {self.server} does not allow this: {details}"
        if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
            return details
        return f"the aggregator at {self.server} failed: {code.name}: {details}"

    def _unimplemented(self) -> str:
        """Tells an aggregator of an older release, which answers older questions, from what is none."""
        try:
            fleet = self.stub.GetFleet(pb.GetFleetRequest(), timeout=_TIMEOUT_SECONDS, metadata=self._metadata)
        except grpc.RpcError:
            return f"what answers at {self.server} is no aggregator of loiter, or one of another version"
        return (
            f"the aggregator at {self.server} is of release {printable(fleet.aggregator.version)}, which does not know "
            f"this question; upgrade it to {version()}, the release of this command"
        )

    def _unavailable(self, details: str) -> str:
        from loiter.tls_diagnosis import diagnose  # late: OpenSSL is for when something is wrong

        wrong = diagnose(self.server, self._security)
        if wrong is not None:
            return f"cannot ask {self.server} safely: {wrong}"
        return f"no aggregator answers at {self.server}; is 'loiter serve' running there? ({_short(details)})"


@contextmanager
def connect(server: str) -> Iterator[FleetClient]:
    """Opens a connection as the flags of the command say. Nothing is sent before the first question.

    Raises:
        ClickException: A file can not be used. The message says which.
    """
    security = given_security()
    options = (
        ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
        ("grpc.enable_retries", 0),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
    )
    try:
        metadata = call_metadata(security)
        if wants_tls(server, security):
            channel = grpc.secure_channel(server, channel_credentials(security), options=options)
        else:
            channel = grpc.insecure_channel(server, options=options)
    except SecurityFileError as error:
        raise click.ClickException(str(error)) from None
    with channel:
        yield FleetClient(server, channel, security, metadata)


def given_security() -> Security:
    """How to connect, as the flags of the command say."""
    context = click.get_current_context(silent=True)
    given = {} if context is None else context.meta
    return Security(
        ca=given.get(f"{SECURITY}.ca"),
        certificate=given.get(f"{SECURITY}.certificate"),
        key=given.get(f"{SECURITY}.key"),
        token_file=given.get(f"{SECURITY}.token_file"),
        insecure=bool(given.get(f"{SECURITY}.insecure")),
    )


def call_metadata(security: Security) -> tuple[tuple[str, str], ...]:
    """What goes with each call: the token, of a file or of the environment. Raises SecurityFileError."""
    if security.token_file is not None:
        return token_metadata(read_token(security.token_file))
    token = os.environ.get(_TOKEN_VARIABLE)
    if not token:
        return ()
    if re.fullmatch(TOKEN_PATTERN, token.strip()) is None:
        raise SecurityFileError(f"{_TOKEN_VARIABLE} does not hold a token; make one by 'loiter token add'")
    return token_metadata(token.strip())


def _short(details: str) -> str:
    """gRPC nests its reasons; the last one is the system's own."""
    return details.rpartition(": ")[2] or details
