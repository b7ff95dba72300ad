"""Asks an aggregator, and puts what goes wrong into words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import click
import grpc

from loiter.text import printable
from loiter.v1.fleet_service_pb2_grpc import FleetServiceStub

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_TIMEOUT_SECONDS: Final = 30.0
# A fleet's answer can be larger than a report.
_MAX_ANSWER_BYTES: Final = 64 << 20


class FleetClient:
    """A connection to an aggregator."""

    def __init__(self, server: str, channel: grpc.Channel) -> None:
        """Takes an open channel."""
        self.server = server
        self.stub = FleetServiceStub(channel)

    def ask(self, method: Callable[..., Answer], request: object) -> Answer:
        """Calls a method of `stub`. Raises ClickException, which the command line shows, where it fails."""
        try:
            return method(request, timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise click.ClickException(self._explain(error)) from None

    def _explain(self, error: grpc.RpcError) -> str:
        if not isinstance(error, grpc.Call):  # every error of a call in progress is one
            return f"cannot ask {self.server}: {error}"
        code, details = error.code(), printable(error.details() or "")
        if code == grpc.StatusCode.UNAVAILABLE:
            return f"no aggregator answers at {self.server}; is 'loiter serve' running there? ({_short(details)})"
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the aggregator at {self.server} did not answer within {_TIMEOUT_SECONDS:.0f} s"
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return f"what answers at {self.server} is no aggregator of loiter, or one of another version"
        if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            return details
        return f"the aggregator at {self.server} failed: {code.name}: {details}"


@contextmanager
def connect(server: str) -> Iterator[FleetClient]:
    """Opens a connection. Nothing is sent before the first question."""
    options = (("grpc.max_receive_message_length", _MAX_ANSWER_BYTES), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(server, options=options) as channel:
        yield FleetClient(server, channel)


def _short(details: str) -> str:
    """gRPC nests its reasons; the last one is the system's own."""
    return details.rpartition(": ")[2] or details
