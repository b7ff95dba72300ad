"""Rollups and samples together come to what the samples of a window do, whatever came when."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from loiter_aggregator.store.levels import FIVE_MINUTES, HOUR, KINDS, LEVELS, MINUTE, ROLLUPS, SAMPLE, Level
from loiter_aggregator.store.ranges import Kept, Range, ranges
from support.aggregators import open_store
from support.reports import HOUR as HOUR_MS
from support.reports import MINUTE as MINUTE_MS
from support.store_levels import MIDNIGHT, put, raw_sums, roll, sums, the_same

DAY = 24 * HOUR_MS
ALL = {SAMPLE: Kept(), **dict.fromkeys(ROLLUPS, Kept(rolled_until=MIDNIGHT + DAY))}


def test_the_edges_of_a_window_are_of_finer_levels() -> None:
    """Down to samples; what the middle is of is as coarse as can be."""
    found = ranges(MIDNIGHT + 59 * MINUTE_MS - 1, MIDNIGHT + 2 * HOUR_MS + 6 * MINUTE_MS + 4, ALL)
    hour = MIDNIGHT + HOUR_MS
    assert found.parts == (
        Range(SAMPLE, hour - MINUTE_MS - 1, hour - MINUTE_MS),
        Range(MINUTE, hour - MINUTE_MS, hour),
        Range(HOUR, hour, hour + HOUR_MS),
        Range(FIVE_MINUTES, hour + HOUR_MS, hour + HOUR_MS + 5 * MINUTE_MS),
        Range(MINUTE, hour + HOUR_MS + 5 * MINUTE_MS, hour + HOUR_MS + 6 * MINUTE_MS),
        Range(SAMPLE, hour + HOUR_MS + 6 * MINUTE_MS, hour + HOUR_MS + 6 * MINUTE_MS + 5),
    )
    assert found.exact


def test_what_is_not_rolled_is_read_from_samples() -> None:
    """A store that has rolled nothing has nothing else."""
    found = ranges(MIDNIGHT, MIDNIGHT + DAY, dict.fromkeys(LEVELS, Kept()))
    assert found.parts == (Range(SAMPLE, MIDNIGHT, MIDNIGHT + DAY + 1),)


def test_nothing_coarser_than_asked_for_is_read() -> None:
    """As a chart needs several points in its window."""
    found = ranges(MIDNIGHT, MIDNIGHT + DAY - 1, ALL, FIVE_MINUTES)
    assert found.parts == (Range(FIVE_MINUTES, MIDNIGHT, MIDNIGHT + DAY),)


def test_edges_whose_samples_are_gone_are_moved_out_and_that_is_said() -> None:
    """To the bounds of the finest bucket that is still there."""
    kept = {**ALL, SAMPLE: Kept(forgotten_until=MIDNIGHT + DAY), MINUTE: Kept(MIDNIGHT + DAY, MIDNIGHT + DAY)}
    found = ranges(MIDNIGHT + 1, MIDNIGHT + HOUR_MS + MINUTE_MS, kept)
    assert found.parts == (
        Range(HOUR, MIDNIGHT, MIDNIGHT + HOUR_MS),
        Range(FIVE_MINUTES, MIDNIGHT + HOUR_MS, MIDNIGHT + HOUR_MS + 5 * MINUTE_MS),
    )
    assert (found.since, found.until) == (MIDNIGHT, MIDNIGHT + HOUR_MS + 5 * MINUTE_MS)
    assert not found.exact


times = st.integers(MIDNIGHT, MIDNIGHT + DAY)


@st.composite
def anything_kept(draw: st.DrawFn) -> dict[Level, Kept]:
    """Marks and retention as they can be: coarser levels are behind finer ones, and are kept longer."""
    mark = gone = MIDNIGHT + DAY
    kept = {}
    for level in ROLLUPS:
        mark = level.floor(draw(st.integers(MIDNIGHT, mark)))
        kept[level] = mark
    found: dict[Level, Kept] = {}
    for level, coarser in zip(LEVELS, (*ROLLUPS, None), strict=True):
        # Nothing is forgotten that the next level does not have.
        gone = draw(st.integers(MIDNIGHT - DAY, min(gone, kept[coarser] if coarser else gone)))
        found[level] = Kept(kept.get(level), gone)
    return found


@given(times, times, anything_kept(), st.sampled_from(LEVELS))
def test_ranges_follow_on_each_other_and_are_there(one: int, other: int, kept: dict[Level, Kept], most: Level) -> None:
    """Without a gap or an overlap, in whole buckets that are rolled and not forgotten."""
    since, until = sorted((one, other))
    found = ranges(since, until, kept, most)
    bounds = [found.since, *(part.until for part in found.parts)]
    assert [part.since for part in found.parts] == bounds[:-1]
    assert bounds[-1] == found.until
    for level, first, end in found.parts:
        assert first < end
        assert (level.floor(first), level.floor(end)) == (first, end)
        assert level is SAMPLE or end <= (kept[level].rolled_until or 0)
        # An hour that is gone in all levels is gone.
        assert first >= (kept[level].forgotten_until or 0)
    assert found.exact == ((found.since, found.until) == (since, until + 1))
    if (kept[SAMPLE].forgotten_until or 0) <= since:
        assert found.exact


hosts = st.sampled_from(["web-1", "web-2"])
# Times of which several fall into one bucket, and several buckets have none.
moments = st.one_of(
    st.integers(0, 3 * HOUR_MS), st.integers(0, 400).map(lambda i: i * 10_000), st.integers(0, 40).map(lambda i: i * 37)
).map(lambda offset: MIDNIGHT + offset)
batches = st.lists(st.tuples(hosts, moments, st.none() | st.integers(0, 2**32 - 1)), min_size=1, max_size=12)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), batches),
        st.tuples(st.just("roll"), moments),
        st.tuples(st.just("seal"), moments),
        st.tuples(st.just("take back"), st.tuples(moments, st.integers(0, HOUR_MS))),
        st.tuples(st.just("restart"), st.none()),
    ),
    min_size=2,
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(operations, st.lists(st.tuples(moments, moments), min_size=1, max_size=3), st.sampled_from(ROLLUPS))
@example(
    [
        ("put", [("web-1", MIDNIGHT + i * 50_000, i) for i in range(100)]),
        ("roll", MIDNIGHT + HOUR_MS),
        ("put", [("web-1", MIDNIGHT + i * 50_001, i) for i in range(100)]),
        ("seal", MIDNIGHT + 3 * HOUR_MS),
        ("put", [("web-1", MIDNIGHT + i * 50_002, None) for i in range(100)]),
        ("take back", (MIDNIGHT + 10 * MINUTE_MS + 7, 25 * MINUTE_MS)),
    ],
    [(MIDNIGHT + 1, MIDNIGHT + 90 * MINUTE_MS)],
    HOUR,
)
def test_sums_over_ranges_are_those_over_the_samples(
    done: list[tuple[str, object]], windows: list[tuple[int, int]], coarsest: Level
) -> None:
    """With late data, gaps, restarts, sealed hours and a clock that was set back."""
    model: set[tuple[str, int]] = set()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder))
        for what, how in done:
            if what == "put":
                assert isinstance(how, list)
                fresh = {(host, time): (host, time, count) for host, time, count in how if (host, time) not in model}
                if fresh:
                    put(store, *fresh.values())
                model |= fresh.keys()
            elif what == "roll":
                assert isinstance(how, int)
                roll(store, how)
            elif what == "seal":
                assert isinstance(how, int)
                store.maintenance.seal(how, now=how + DAY)
            elif what == "take back":
                assert isinstance(how, tuple)
                after, span = how
                store.forget_between(after, after + span)
                model = {(host, time) for host, time in model if not after < time <= after + span}
            else:
                store.close()
                store = open_store(Path(folder))
        assert store.read("SELECT count(*) FROM host_sample") == [(len(model),)]
        assert store.read("SELECT count(*) FROM process_sample") == [(2 * len(model),)]
        for window in windows:
            since, until = sorted(window)
            for kind in KINDS:
                assert the_same(sums(store, kind, since, until, coarsest), raw_sums(store, kind, since, until))
        store.close()
