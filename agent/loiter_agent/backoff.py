"""How long to wait before the next try to reach an aggregator."""

from __future__ import annotations

import random
from typing import Final

from loiter_agent.failure import Failure, Kind

_FIRST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 30.0
# An aggregator that asks for more is asked again all the same.
_LONGEST_ASKED_SECONDS: Final = 300.0


class Backoff:
    """Full jitter: anything from nothing to a bound that doubles with every failure in a row.

    Agents that lost their aggregator together do not come back together.
    """

    def __init__(self, rng: random.Random) -> None:
        """Takes what draws the waits."""
        self._random = rng
        self._failures = 0
        self._refusals = 0

    def succeeded(self) -> None:
        """Begins anew: an aggregator took a report."""
        self._failures = self._refusals = 0

    def after(self, failure: Failure, addresses: int) -> float:
        """Returns the seconds to wait after a failure, of so many addresses that are tried in turn."""
        first = self._failures == 0
        self._failures += 1
        self._refusals = self._refusals + 1 if failure.kind is Kind.REFUSED else 0
        if failure.kind is Kind.STOPPING and first and addresses > 1:
            return self._random.uniform(0, _FIRST_SECONDS)  # it went as it should, and there is another
        bound = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2 ** min(self._failures, 10))
        if self._refusals >= addresses:  # nobody wants this agent, and that does not mend itself
            bound = _LONGEST_SECONDS
        asked = min(failure.retry_after or 0.0, _LONGEST_ASKED_SECONDS)
        return asked + self._random.uniform(0, max(bound, asked))
