"""Turns agents away while there is more to do than can be done, and says when to come back."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import RESOURCE_EXHAUSTED
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from loiter.logs import fields
from loiter_aggregator.ingest.counters import Counters

_log = logging.getLogger(__name__)

# Where somebody waits for room for so long, more streams would only wait as well.
_LONGEST_WAIT_SECONDS: Final = 3.0
_RETRY_SECONDS: Final = 5.0
# At the limit, one is let in for each that leaves: it is over when nobody has been turned away for so long.
_OVER_AFTER_SECONDS: Final = 60.0
# Those who are turned away are to come back spread over a time in which so many a second can be let in.
_RETURNING_PER_SECOND: Final = 200
_LONGEST_SPREAD_SECONDS: Final = 300.0

Metadata = tuple[tuple[str, bytes], ...]


class Admission:
    """Decides about each stream that is to be opened."""

    def __init__(
        self,
        limit: int,
        counters: Counters,
        longest_wait: Callable[[], float],
        rng: random.Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes how many streams there may be, who counts them, and how to ask for how long others wait for room."""
        self._limit = limit
        self._counters = counters
        self._longest_wait = longest_wait
        self._random = rng or random.Random()  # noqa: S311 - spreads load, no secret
        self._monotonic = monotonic
        self._turned_away = 0
        self._last = 0.0

    def refusal(self) -> str | None:
        """Why no stream is let in now; None where one is."""
        if self._counters.streams >= self._limit:
            reason = f"{self._limit:,} agents are connected, as many as may be (limits.streams)"
        elif self._longest_wait() > _LONGEST_WAIT_SECONDS:
            reason = "the store does not keep up with what comes in"
        else:
            if self._turned_away and self._monotonic() - self._last > _OVER_AFTER_SECONDS:
                _log.warning(
                    "agents are let in again; %s were told to come back later",
                    f"{self._turned_away:,}",
                    extra=fields(agents=self._turned_away),
                )
                self._turned_away = 0
            return None
        if not self._turned_away:
            facts = fields(reason=reason, streams=self._counters.streams)
            _log.warning("agents are told to come back later: %s", reason, extra=facts)
        self._turned_away += 1
        self._last = self._monotonic()
        self._counters.streams_overloaded += 1
        return reason

    def retry_seconds(self) -> float:
        """After what time one that was turned away is to come back."""
        spread = min(_LONGEST_SPREAD_SECONDS, _RETRY_SECONDS + self._turned_away / _RETURNING_PER_SECOND)
        return _RETRY_SECONDS + self._random.uniform(0, spread)


def retry_info(reason: str, seconds: float, code: int = RESOURCE_EXHAUSTED) -> Metadata:
    """Status details (google.rpc.RetryInfo) as trailing metadata. See the comment of google/rpc/error_details.proto."""
    delay = Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    packed = Any()
    packed.Pack(RetryInfo(retry_delay=delay))
    status = Status(code=code, message=reason, details=[packed])
    return (("grpc-status-details-bin", status.SerializeToString()),)
