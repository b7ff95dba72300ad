"""Why a stream ended, or never began, and what an aggregator wants done about it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

import grpc

from loiter.v1 import ingest_service_pb2 as pb

Call = grpc.aio.StreamStreamCall[pb.StreamReportsRequest, pb.StreamReportsResponse]

# As `ingest_service.proto` says.
_REFUSALS: Final = frozenset(
    (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.ALREADY_EXISTS,
    )
)


class Kind(Enum):
    """What kind of failure it is."""

    # There is nobody there, or no longer.
    AWAY = auto()
    # An aggregator said that it is going: another may take over at once.
    STOPPING = auto()
    # It has too much to do.
    BUSY = auto()
    # It does not want this agent, or this agent has nothing to show: somebody has to mend that.
    REFUSED = auto()


class Failure(Exception):
    """A stream that ended or never began. What it is as a string is for a person to read."""

    def __init__(self, kind: Kind, reason: str, retry_after: float | None = None) -> None:
        """Takes the reason, and the seconds that the aggregator asks to be left alone for."""
        super().__init__(reason)
        self.kind = kind
        self.retry_after = retry_after


async def failure_of(call: Call) -> Failure:
    """Says why a stream is over."""
    code, details = await call.code(), await call.details()
    reason = f"{code.name}: {details}" if details else code.name
    if code in _REFUSALS:
        return Failure(Kind.REFUSED, reason)
    asked = retry_after(await call.trailing_metadata())
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Failure(Kind.BUSY, reason, asked)
    if code is grpc.StatusCode.UNAVAILABLE and asked is not None:  # a connection that broke asks for nothing
        return Failure(Kind.STOPPING, reason, asked)
    return Failure(Kind.AWAY, reason)


def retry_after(metadata: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """The seconds of the google.rpc.RetryInfo in the trailing metadata of a call. None where there is none."""
    for name, value in metadata or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            return _retry_delay(value)
    return None


def _retry_delay(status: bytes) -> float | None:
    # Costs memory, and is seldom needed.
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    info = RetryInfo()
    try:
        for detail in Status.FromString(status).details:
            if detail.Unpack(info) and info.HasField("retry_delay"):
                return max(0.0, float(info.retry_delay.ToNanoseconds()) / 1e9)
    except DecodeError:
        pass
    return None
