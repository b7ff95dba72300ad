"""How long an agent waits before it connects again."""

from __future__ import annotations

import random

import pytest

from loiter_agent.backoff import Backoff
from loiter_agent.failure import Failure, Kind

AWAY = Failure(Kind.AWAY, "nobody there")
STOPPING = Failure(Kind.STOPPING, "stopping")
REFUSED = Failure(Kind.REFUSED, "unknown token")


class Longest(random.Random):
    """Draws the longest wait there can be."""

    def uniform(self, a: float, b: float) -> float:
        del a
        return b


def longest(*failures: Failure, addresses: int = 1) -> list[float]:
    """The longest waits after failures in a row."""
    backoff = Backoff(Longest())
    return [backoff.after(failure, addresses) for failure in failures]


def test_the_bound_doubles_with_every_failure_in_a_row_and_has_an_end() -> None:
    """However long it goes on."""
    assert longest(*[AWAY] * 6) == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert longest(*[AWAY] * 5_000)[-1] == 30.0


def test_a_wait_is_anything_from_nothing_to_the_bound() -> None:
    """Full jitter: agents that lost their aggregator together do not come back together."""
    waits = [Backoff(random.Random(seed)).after(AWAY, 1) for seed in range(500)]
    assert min(waits) < 0.1
    assert max(waits) > 1.9
    assert 0.9 < sum(waits) / len(waits) < 1.1


def test_success_begins_anew() -> None:
    """The next failure is the first."""
    backoff = Backoff(Longest())
    for _ in range(4):
        backoff.after(AWAY, 1)
    backoff.succeeded()
    assert backoff.after(AWAY, 1) == 2.0


def test_from_an_aggregator_that_stops_the_next_takes_over_within_a_second() -> None:
    """Where there is another, and not again and again where all of them stop."""
    assert longest(STOPPING, STOPPING, addresses=2) == [1.0, 4.0]
    assert longest(STOPPING, addresses=1) == [2.0]


def test_where_all_addresses_refuse_there_is_no_hurry() -> None:
    """That does not mend itself; but one that refuses is no reason to let the others wait."""
    assert longest(REFUSED, addresses=1) == [30.0]
    assert longest(REFUSED, REFUSED, addresses=2) == [2.0, 30.0]
    assert longest(REFUSED, AWAY, REFUSED, addresses=2) == [2.0, 4.0, 8.0]


@pytest.mark.parametrize(("asked", "least"), [(0.5, 0.5), (20, 20), (300, 300), (86_400, 300)])
def test_an_aggregator_that_asks_for_time_has_it_but_not_for_ever(asked: float, least: float) -> None:
    """And those that were asked together do not come back together."""
    busy = Failure(Kind.BUSY, "too much to do", asked)
    waits = [Backoff(random.Random(seed)).after(busy, 1) for seed in range(200)]
    assert least <= min(waits) < least + 0.1 * max(2.0, least)
    assert max(waits) > least + 0.9 * max(2.0, least)
