"""How long to wait before connecting again. Pure, but for the dice."""

from __future__ import annotations

import random
from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 30.0
# An aggregator may ask for more time than that, but not for ever.
_LONGEST_ASKED_FOR_SECONDS: Final = 300.0


class Backoff:
    """Full jitter: anything from nothing to a bound that doubles with every round of all addresses that fails."""

    def __init__(self, rng: random.Random) -> None:
        """Takes the dice."""
        self._random = rng
        self._failures = 0

    def reset(self) -> None:
        """A connection did what it is for: the next failure is the first."""
        self._failures = 0

    def after(self, addresses: int, asked_for: float = 0.0, hopeless: bool = False) -> float:
        """The seconds to wait after a failure.

        Args:
            addresses: How many there are to try in turn: the next one is tried within a second.
            asked_for: The seconds that the aggregator wants to be left alone.
            hopeless: It needs a person, such as for a new token: there is no hurry.
        """
        self._failures += 1
        rounds, rest = divmod(self._failures, addresses)
        if rest:
            return self._random.uniform(0, FIRST_SECONDS)
        bound = LONGEST_SECONDS if hopeless else min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(rounds, 10))
        least = min(asked_for, _LONGEST_ASKED_FOR_SECONDS)
        return least + self._random.uniform(0, max(bound, least / 2))
