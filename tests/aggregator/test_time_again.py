"""Time that comes twice makes room in the store, also where the store does not take that at once."""

from __future__ import annotations

import pytest

from loiter_aggregator.ingest.time_again import TimeAgain
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from support.aggregators import store_samples
from support.reports import HOUR, NOW, sample


def test_hosts_follow_a_clock_that_was_set_while_the_disk_was_full(
    store: DuckDbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the store can be written to."""

    def full(step: int, now: int) -> None:
        raise StoreError(f"the disk is full: {step} {now}")

    store_samples(store, "web-1", [sample(NOW, 1)])
    again = TimeAgain(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "follow_clock", full)
        with pytest.raises(StoreError):
            again.make_room(NOW - HOUR, NOW - HOUR)
    again.make_room(NOW - HOUR, NOW - HOUR)
    assert store.read("SELECT last_seen FROM host") == [(NOW - HOUR,)]
