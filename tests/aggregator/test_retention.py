"""What is old is deleted by a clock that has proved itself, and by no other."""

from __future__ import annotations

from loiter_aggregator.retention import Retention
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, store_samples
from support.reports import HOUR, MINUTE, NOW, SECOND, sample

DAY = 24 * HOUR


class _Kept:
    """A store with two samples, a day apart, of which retention keeps a day."""

    def __init__(self, store: DuckDbStore, kept: int = DAY, ahead: int = 0) -> None:
        self.store = store
        self.clock, self.steady = FakeClock(NOW + ahead), FakeClock(5)
        store_samples(store, "web-1", [sample(NOW - DAY - SECOND, 1), sample(NOW, 2)])
        self.retention = Retention(store, kept, self.clock, self.steady)

    def after(self, passed: int, step: int = 0) -> list[int]:
        """What is there after some time, and the clock being set."""
        self.clock.now += passed + step
        self.steady.now += passed
        self.retention.forget()
        return [count for (count,) in self.store.read("SELECT close_wait FROM host_sample ORDER BY ts")]


def test_what_is_older_is_deleted(store: DuckDbStore) -> None:
    """From an hour after the start on."""
    kept = _Kept(store)
    assert kept.after(HOUR - 1) == [1, 2]
    assert kept.after(1) == [2]


def test_a_clock_that_is_ahead_for_less_than_an_hour_deletes_nothing(store: DuckDbStore) -> None:
    """Be it wrong from the start, or set since."""
    kept = _Kept(store, ahead=30 * DAY)
    assert kept.after(59 * MINUTE) == [1, 2]
    assert kept.after(MINUTE, step=-30 * DAY) == [1, 2]
    assert kept.after(59 * MINUTE, step=30 * DAY) == [1, 2]
    assert kept.after(59 * MINUTE) == [1, 2]
    assert kept.after(MINUTE) == [], "a clock that was right for an hour is taken to be right"


def test_what_is_kept_for_less_than_an_hour_waits_no_longer(store: DuckDbStore) -> None:
    """By then it is as old by any clock."""
    kept = _Kept(store, kept=10 * MINUTE, ahead=30 * DAY)
    assert kept.after(9 * MINUTE) == [1, 2]
    assert kept.after(MINUTE) == []
