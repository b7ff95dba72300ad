"""Why a stream is over, and how long to wait before the next: as an agent does."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

_FIRST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 30.0
_LONGEST_ASKED_SECONDS: Final = 300.0


class Broken(Exception):
    """A stream is over, or never began. The message is for a person."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        """Takes the seconds that the aggregator asks to be left alone for, where it does."""
        super().__init__(reason)
        self.retry_after = retry_after


class Retry:
    """Full jitter up to a bound that doubles with every failure in a row, after what the aggregator asks for."""

    def __init__(self, seed: int) -> None:
        """Takes what the waits are drawn by."""
        self._random = random.Random(seed)  # noqa: S311 - spreads load, no secret
        self._failures = 0

    def succeeded(self) -> None:
        """Begins anew: a report was acknowledged."""
        self._failures = 0

    def seconds(self, failure: Broken) -> float:
        """How long to wait after a failure."""
        self._failures += 1
        bound = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2 ** min(self._failures, 10))
        asked = min(failure.retry_after or 0.0, _LONGEST_ASKED_SECONDS)
        return asked + self._random.uniform(0, max(bound, asked))


async def why_over(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> Broken:
    """Says why a stream is over.

    Where it was ended as something was being written, grpc.aio knows that alone, and calls it INTERNAL.
    """
    code, details = await call.code(), await call.details()
    return Broken(f"{code.name}: {details}" if details else code.name, _asked(await call.trailing_metadata()))


def _asked(metadata: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """The seconds of the google.rpc.RetryInfo in the trailing metadata of a call; None where there is none."""
    for name, value in metadata or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            info = RetryInfo()
            try:
                for detail in Status.FromString(value).details:
                    if detail.Unpack(info) and info.HasField("retry_delay"):
                        return max(0.0, float(info.retry_delay.ToNanoseconds()) / 1e9)
            except DecodeError:
                return None
    return None
