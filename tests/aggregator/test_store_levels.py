"""What is rolled and sealed reads as if it never had been."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from loiter_aggregator.ranking.hosts import rank_hosts
from loiter_aggregator.ranking.processes import rank_processes
from loiter_aggregator.store import sealing
from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.levels import FIVE_MINUTES, HOUR, KINDS, LEVELS, MINUTE
from support.aggregators import batch_of, open_store, ranking
from support.reports import HOUR as HOUR_MS
from support.reports import MINUTE as MINUTE_MS
from support.reports import SECOND, full_report, process, report, sample
from support.store_levels import MIDNIGHT, level_sums, put, raw_sums, roll, sums, the_same

DAY = 24 * HOUR_MS
END = MIDNIGHT + 2 * DAY


def sealed(store: DuckDbStore, table: str) -> list[Path]:
    """The sealed files of a table."""
    rows = store.read("SELECT file FROM sealed WHERE table_name = $table ORDER BY span, sealed_at", {"table": table})
    return [store.sealed.path / file for (file,) in rows]


def seal(store: DuckDbStore, now: int = END) -> int:
    """Rolls and seals all there is."""
    roll(store, now)
    return store.seal(now, hot=HOUR_MS)


def contents(store: DuckDbStore) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all levels."""
    return {
        level.table(kind): store.read(f"SELECT * FROM {level.table(kind)} ORDER BY ALL")
        for level in LEVELS
        for kind in KINDS
    }


def store_hours(store: DuckDbStore, hours: int = 3) -> None:
    """A host that leaks, for some hours."""
    put(store, *(("web-1", MIDNIGHT + i * 30_000, i) for i in range(120 * hours)))


def test_what_is_sealed_reads_as_it_was(store: DuckDbStore) -> None:
    """Every column of every level, those that are unknown included; and nothing of it is in the database any more."""
    said = full_report()
    said.sample.sample_time.FromMilliseconds(MIDNIGHT + 1)
    store.write(batch_of(said, received=MIDNIGHT + 17))
    put(store, ("web-2", MIDNIGHT + 2, None), ("web-2", MIDNIGHT + 3 * HOUR_MS + 7, 2**32 - 1))
    roll(store, END)
    before = contents(store)
    assert store.seal(END, hot=HOUR_MS) == 2 * (2 + 2 + 1 + 1)
    assert contents(store) == before
    assert store._database.read("SELECT count(*) FROM host_sample") == [(0,)]
    assert all(len(rows) > 1 for rows in before.values())


def test_rankings_are_the_same_before_and_after(store: DuckDbStore) -> None:
    """They ask for samples, wherever those are."""
    store_hours(store)
    asked = ranking(window_ms=150 * MINUTE_MS, now=MIDNIGHT + 170 * MINUTE_MS)
    hosts, processes = rank_hosts(store, asked), rank_processes(store, asked)
    assert hosts[0].close_wait.growth_per_hour == pytest.approx(120)
    seal(store)
    assert rank_hosts(store, asked) == hosts
    assert [(row.series, row.close_wait.current) for row in rank_processes(store, asked)] == [
        (row.series, row.close_wait.current) for row in processes
    ]


def test_a_question_about_a_window_reads_no_files_of_other_times(store: DuckDbStore) -> None:
    """Files that it does not need might as well not be there."""
    store_hours(store)
    seal(store)
    first, *others = sealed(store, "host_sample")
    for other in others:
        other.unlink()
    question = store.question(MIDNIGHT, MIDNIGHT + HOUR_MS - 1)
    assert question.read("SELECT count(*) FROM host_sample") == [(120,)]
    assert not store.sealed.missing
    assert first.exists()


def test_samples_that_come_late_to_a_sealed_hour_become_a_file_when_they_have_waited(store: DuckDbStore) -> None:
    """For an hour; or at once, when they are many."""
    store_hours(store, 1)
    seal(store)
    put(store, ("web-2", MIDNIGHT + 5, 9))
    assert seal(store, END + 59 * MINUTE_MS) == 0
    assert len(sealed(store, "host_sample")) == 1
    assert seal(store, END + HOUR_MS) > 0
    assert len(sealed(store, "host_sample")) == 2
    assert store.read("SELECT count(*) FROM host_sample") == [(121,)]
    put(store, ("web-2", MIDNIGHT + 6, 9))
    assert store.read("SELECT count(*) FROM host_sample") == [(122,)]


def test_many_late_samples_do_not_wait(store: DuckDbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take room that a file would not."""
    monkeypatch.setattr(sealing, "_LATE_ROWS", 3)
    store_hours(store, 1)
    seal(store)
    put(store, *(("web-2", MIDNIGHT + i, 9) for i in range(3)))
    seal(store, END + 1)
    assert len(sealed(store, "host_sample")) == 2


def test_many_small_files_of_an_hour_become_one(store: DuckDbStore) -> None:
    """Each costs a question a little."""
    store_hours(store, 1)
    for again in range(4):
        seal(store, END + again * HOUR_MS)
        put(store, ("web-2", MIDNIGHT + again, 9))
    before = level_sums(store)
    old = sealed(store, "process_minute")
    assert len(old) == 4
    seal(store, END + 5 * HOUR_MS)
    (new,) = sealed(store, "process_minute")
    assert new.exists()
    assert not any(file.exists() for file in old)
    after = level_sums(store)
    assert [table for table in before if not the_same(before[table], after[table])] == []
    # Partial rows are one row by then: there are two hosts with two processes each in the first minute.
    assert store.read(f"SELECT count(*) FROM process_minute WHERE bucket = {MIDNIGHT}") == [(4,)]


def test_an_hour_of_many_rows_is_sealed_by_hosts_into_several_files(
    store: DuckDbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As each is sorted in memory; and a very large one in parts of its time, each in one transaction."""
    put(store, *((f"web-{host}", MIDNIGHT + i * MINUTE_MS, i) for host in range(6) for i in range(60)))
    before = raw_sums(store, "process", MIDNIGHT, END)
    store.maintenance.slice_rows = 260
    monkeypatch.setattr(sealing, "_PART_ROWS", 400)
    seal(store)
    hosts_of = [
        {key for (key,) in store.read(f"SELECT DISTINCT host_key FROM read_parquet('{file}')")}
        for file in sealed(store, "process_sample")
    ]
    assert [len(hosts) for hosts in hosts_of] == [4, 2, 4, 2]
    assert not hosts_of[0] & hosts_of[1]
    assert the_same(raw_sums(store, "process", MIDNIGHT, END), before)


def test_each_level_is_kept_for_as_long_as_it_is_told(store: DuckDbStore) -> None:
    """Its files are deleted when all of their rows are older, and with the last the names of processes."""
    store_hours(store)
    seal(store)
    files = {level: sealed(store, level.table("process")) for level in LEVELS}
    times = {MINUTE: MIDNIGHT + 2 * HOUR_MS, FIVE_MINUTES: MIDNIGHT, HOUR: MIDNIGHT}
    store.forget_before(MIDNIGHT + DAY, times)
    counts = [store.read(f"SELECT count(*) FROM {level.table('host')}") for level in LEVELS]
    assert counts == [[(0,)], [(60,)], [(36,)], [(3,)]]
    assert [file.exists() for level in LEVELS for file in files[level]] == [*[False] * 5, True, True, True]
    assert store.read("SELECT count(*) FROM identity") == [(1,)]
    store.forget_before(MIDNIGHT + DAY, dict.fromkeys(times, MIDNIGHT + DAY))
    assert level_sums(store) == {table: [] for table in level_sums(store)}
    assert store.read("SELECT count(*) FROM identity") == [(0,)]
    assert not list(store.sealed.path.glob("*"))


def test_nothing_is_forgotten_of_a_level_before_the_next_has_it(store: DuckDbStore) -> None:
    """Though nothing was rolled as yet, as where the aggregator was down for as long as samples are kept."""
    store_hours(store)
    whole = sums(store, "host", MIDNIGHT, END, HOUR)
    store.forget_before(MIDNIGHT + 90 * MINUTE_MS + 5, {MINUTE: MIDNIGHT + 62 * MINUTE_MS, FIVE_MINUTES: 0, HOUR: 0})
    assert store.read("SELECT min(ts) FROM host_sample") == [(MIDNIGHT + 90 * MINUTE_MS + 30_000,)]
    assert store.read("SELECT min(bucket) FROM host_minute") == [(MIDNIGHT + 62 * MINUTE_MS,)]
    assert store.read("SELECT min(bucket) FROM host_five_minutes") == [(MIDNIGHT,)]
    assert the_same(sums(store, "host", MIDNIGHT, END, HOUR), whole)


def test_a_file_is_deleted_when_nobody_reads_it_any_more(store: DuckDbStore) -> None:
    """Who has begun to read sees what there was."""
    store_hours(store, 1)
    seal(store)
    (file,) = sealed(store, "host_sample")
    with store.sealed.reading():
        with store.sealed.reading():
            store.forget_before(MIDNIGHT + DAY)
        assert file.exists()
    assert not file.exists()


def test_files_that_a_crash_left_are_deleted_at_the_start(store: DuckDbStore, tmp_path: Path) -> None:
    """They are not on the list; others that lie there are not loiter's."""
    store_hours(store, 1)
    seal(store)
    store.close()
    folder = store.sealed.path
    known = {path.name for path in folder.iterdir()}
    for name in ("host_sample-1.parquet", "host_sample-2.parquet.part", "notes.txt"):
        (folder / name).write_bytes(b"x")
    again = open_store(tmp_path / "data")
    assert {path.name for path in folder.iterdir()} == {*known, "notes.txt"}
    again.close()


@pytest.mark.parametrize("damage", ["is not there", "is not as long as it was"])
@pytest.mark.parametrize("when", ["at the start", "meanwhile"])
def test_a_file_that_is_gone_is_said_and_questions_go_on_without_it(
    store: DuckDbStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, when: str
) -> None:
    """Once; and when it is put back, its rows are there again."""
    store_hours(store)
    seal(store)
    _, gone, _ = sealed(store, "host_sample")
    content = gone.read_bytes()
    if when == "at the start":
        store.close()
    gone.unlink() if damage == "is not there" else gone.write_bytes(content[:-9])
    if when == "at the start":
        store = open_store(tmp_path / "data")
    for _ in range(2):
        assert store.read("SELECT count(*) FROM host_sample") == [(240,)]
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert f"{gone} {damage}: its rows are lost to all questions" in said
    seal(store, END + HOUR_MS)
    store.close()
    gone.write_bytes(content)
    again = open_store(tmp_path / "data")
    assert again.read("SELECT count(*) FROM host_sample") == [(360,)]
    again.close()


def test_new_rows_are_written_while_old_ones_are_rolled_and_old_ones_wait(store: DuckDbStore) -> None:
    """What is rolled is of one moment; what waited is added to it."""
    store_hours(store, 1)
    new = threading.Thread(target=put, args=(store, ("web-2", MIDNIGHT + 2 * HOUR_MS, 1)))
    old = threading.Thread(target=put, args=(store, ("web-3", MIDNIGHT, 1)))
    rolled = threading.Event()

    def while_rolling(step: str) -> None:
        if step == "minute rolled" and not rolled.is_set():
            new.start()
            new.join(20)
            assert not new.is_alive()
            old.start()
            old.join(0.2)
            assert old.is_alive()
            rolled.set()

    store.maintenance.on_step = while_rolling
    roll(store, MIDNIGHT + HOUR_MS)
    old.join(20)
    assert rolled.is_set()
    assert the_same(sums(store, "host", 0, END, HOUR), raw_sums(store, "host", 0, END))
    assert store.read(f"SELECT count(*), sum(samples) FROM host_hour WHERE bucket = {MIDNIGHT}") == [(2, 121)]


@pytest.mark.parametrize("who", ["the clock was set back", "the aggregator stops"])
def test_sealing_gives_way(store: DuckDbStore, tmp_path: Path, who: str) -> None:
    """It takes long, and nothing is lost by beginning it again."""
    store_hours(store)
    roll(store, END)
    before = level_sums(store)
    other: list[threading.Thread] = []

    def meanwhile(step: str) -> None:
        if step == "file on the list" and not other:
            act = store.close if who == "the aggregator stops" else lambda: store.forget_between(END, END + SECOND)
            other.append(threading.Thread(target=act))
            other[0].start()
            (store._closing if who == "the aggregator stops" else store.maintenance._wanted).wait(20)

    store.maintenance.on_step = meanwhile
    assert store.seal(END, hot=HOUR_MS) == 0 or who == "the clock was set back"
    other[0].join(20)
    assert not other[0].is_alive()
    store.close()
    again = open_store(tmp_path / "data")
    assert {path.name for path in again.sealed.path.glob("*")} == {
        file for (file,) in again.read("SELECT file FROM sealed")
    }
    again.seal(END, hot=HOUR_MS)
    after = level_sums(again)
    assert [table for table in before if not the_same(before[table], after[table])] == []
    assert again._database.read("SELECT count(*) FROM host_sample") == [(0,)]
    again.close()


def test_the_latest_sample_of_a_bucket_is_known_with_what_it_did_not_know(store: DuckDbStore) -> None:
    """In every level, whichever came first: an older figure would pass for a present one."""
    taken = [
        sample(MIDNIGHT + 20 * SECOND, None, established=7, processes=[process(100, None, fd_open=8)]),
        sample(MIDNIGHT + 10 * SECOND, 5, established=9, processes=[process(100, 5, fd_open=9)]),
    ]
    for sequence, one in enumerate(taken):
        store.write(batch_of(report("web-1", sequence, one), received=END))
        roll(store, END)
    seal(store)
    for level in (MINUTE, FIVE_MINUTES, HOUR):
        merged = "arg_max_null(last_close_wait, last_ts), max(close_wait), arg_max_null(last_established, last_ts)"
        assert store.read(f"SELECT {merged} FROM {level.table('host')}") == [(None, 5, 7)]
        opened = "arg_max_null(last_fd_open, last_ts), max(fd_open), min(fd_y_min)"
        assert store.read(f"SELECT {opened} FROM {level.table('process')}") == [(8, 9, 8)]


def test_what_the_levels_come_to_is_known(store: DuckDbStore) -> None:
    """For the metrics."""
    assert {one.rolled_until for one in store.figures().values()} == {None}
    store_hours(store)
    seal(store)
    figures = store.figures()
    assert figures["hour"].rolled_until == END
    assert (figures["sample"].files, figures["sample"].rows) == (6, 3 * 360)
    assert figures["sample"].bytes == sum(
        file.stat().st_size for kind in KINDS for file in sealed(store, f"{kind}_sample")
    )
