"""How fresh a page is, and what keeps it from being so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from loiter_aggregator.web.answer_cache import Seen
from loiter_aggregator.web.errors import problem_of

# From then on the cache asks anew, and shows what it has meanwhile.
_OLD_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """When what is shown was asked for (milliseconds since the epoch), and how many seconds ago that is.

    `loading` tells that a part has not come yet, `old` that a newer answer is on its way, `stale` that people have to
    be told of that, `trouble` what went wrong since.
    """

    at: int | None
    age: float | None
    loading: bool
    old: bool
    stale: bool
    trouble: str


def pulse_of(main: Seen[Any], *others: Seen[Any]) -> Pulse:
    """Of a page's main answer, and the others that it shows beside."""
    trouble = "" if main.error is None or main.answer is None else problem_of(main.error).message
    old = not trouble and main.age is not None and main.age > _OLD_SECONDS
    return Pulse(main.at, main.age, any(one.loading for one in (main, *others)), old, main.stale, trouble)


def said(seen: Seen[Any]) -> str:
    """What to say where a part of a page has no answer; empty where it has one, or it is still to come."""
    return "" if seen.error is None or seen.answer is not None else problem_of(seen.error).message
