"""The levels of the store are kept up while the aggregator runs, and what goes wrong is said."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from loiter_aggregator.retention import Retention
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.levels import FIVE_MINUTES, HOUR, MINUTE
from loiter_aggregator.upkeep import Upkeep
from support.aggregators import FakeClock, open_store
from support.reports import HOUR as HOUR_MS
from support.reports import MINUTE as MINUTE_MS
from support.reports import SECOND
from support.store_levels import MIDNIGHT, put
from support.stores_of_old import make_old_store

DAY = 24 * HOUR_MS


def test_a_minute_is_rolled_when_it_has_settled(store: DuckDbStore) -> None:
    """Half a minute after its end: by then most of it has come."""
    clock = FakeClock(MIDNIGHT + MINUTE_MS + 30 * SECOND - 1)
    upkeep = Upkeep(store, 2 * HOUR_MS, clock)
    put(store, ("web-1", MIDNIGHT, 1))
    upkeep.roll()
    assert store.read("SELECT count(*) FROM host_minute") == [(0,)]
    clock.now += 1
    upkeep.roll()
    assert store.read("SELECT count(*) FROM host_minute") == [(1,)]
    assert upkeep.figures["minute"].rolled_until == MIDNIGHT + MINUTE_MS
    assert upkeep.figures["five_minutes"].rolled_until == MIDNIGHT


def test_an_hour_is_sealed_when_it_is_old_enough(store: DuckDbStore) -> None:
    """All of it is older than what stays in the database."""
    clock = FakeClock(MIDNIGHT + 3 * HOUR_MS - 1)
    upkeep = Upkeep(store, 2 * HOUR_MS, clock)
    put(store, ("web-1", MIDNIGHT + HOUR_MS - 1, 1))
    upkeep.roll()
    upkeep.seal()
    assert upkeep.figures["sample"].files == 0
    clock.now += 1
    upkeep.seal()
    assert upkeep.figures["sample"].files == 2


def test_what_goes_wrong_is_logged_and_counted_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The program goes on: samples are stored meanwhile."""
    store = open_store(tmp_path)
    upkeep = Upkeep(store, HOUR_MS, FakeClock(MIDNIGHT + DAY))
    put(store, ("web-1", MIDNIGHT, 1))
    store.read("ALTER TABLE process_minute RENAME TO away")

    async def for_a_while() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(upkeep.keep_rolling(), 1)

    asyncio.run(for_a_while())
    assert upkeep.failures == 1
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "process_minute does not exist" in said
    store.read("ALTER TABLE away RENAME TO process_minute")
    upkeep.roll()
    assert store.read("SELECT count(*) FROM process_minute") == [(2,)]
    store.close()


def test_rollups_are_kept_at_least_as_long_as_what_they_are_made_of(store: DuckDbStore) -> None:
    """Whatever the settings say: a gap between the levels would be one in every answer."""
    put(store, *(("web-1", MIDNIGHT + hour * HOUR_MS, hour) for hour in range(49)))
    clock, steady = FakeClock(MIDNIGHT + 50 * HOUR_MS), FakeClock(5)
    rollups = {MINUTE: 12 * HOUR_MS, FIVE_MINUTES: HOUR_MS, HOUR: 30 * HOUR_MS}
    retention = Retention(store, 10 * HOUR_MS, clock, steady, rollups)
    clock.now += HOUR_MS
    steady.now += HOUR_MS
    retention.forget()
    oldest = {"host_sample": 41, "host_minute": 39, "host_five_minutes": 39, "host_hour": 21}
    for table, hour in oldest.items():
        time = "ts" if table == "host_sample" else "bucket"
        assert store.read(f"SELECT min({time}) FROM {table}") == [(MIDNIGHT + hour * HOUR_MS,)], table


def test_what_an_older_loiter_stored_is_rolled_and_sealed_after_the_start(tmp_path: Path) -> None:
    """And reads as before."""
    make_old_store(tmp_path, "store_v4")
    store = open_store(tmp_path)
    samples = "SELECT * FROM host_sample ORDER BY ALL"
    before = store.read(samples)
    newest = store.newest_sample()
    assert newest is not None
    upkeep = Upkeep(store, HOUR_MS, FakeClock(newest + 3 * DAY))
    upkeep.roll()
    upkeep.seal()
    assert store.read("SELECT sum(samples) FROM host_hour") == [(len(before),)]
    assert upkeep.figures["sample"].rows == len(before) + store.read("SELECT count(*) FROM process_sample")[0][0]
    assert store.read(samples) == before
    assert store.newest_sample() == newest
    store.close()
