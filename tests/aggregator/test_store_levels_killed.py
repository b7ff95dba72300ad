"""An aggregator that is killed while it rolls, seals, merges or forgets loses nothing by it, and doubles nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from loiter_aggregator.store.duckdb_store import DuckDbStore
from loiter_aggregator.store.levels import FIVE_MINUTES, HOUR, KINDS, MINUTE
from support.aggregators import open_store
from support.reports import HOUR as HOUR_MS
from support.reports import MINUTE as MINUTE_MS
from support.store_levels import MIDNIGHT, level_sums, put, raw_sums, roll, sums, the_same

DAY = 24 * HOUR_MS
END = MIDNIGHT + 2 * DAY


def prepare_rolling(store: DuckDbStore) -> None:
    """Two hosts over three hours, and nothing rolled."""
    put(store, *((host, MIDNIGHT + i * 97_000, i) for host in ("web-1", "web-2") for i in range(110)))


def prepare_sealing(store: DuckDbStore) -> None:
    """All of it rolled, and something that came late."""
    prepare_rolling(store)
    roll(store, END)
    put(store, *(("web-1", MIDNIGHT + i * 101_000, i) for i in range(50)))


def prepare_merging(store: DuckDbStore) -> None:
    """Every span in four files, and something that came late since."""
    prepare_sealing(store)
    for again in range(1, 5):
        do_sealing(store, END + again * 2 * HOUR_MS)
        put(store, *(("web-2", MIDNIGHT + i * 103_000 + again, i) for i in range(50)))


def do_rolling(store: DuckDbStore) -> None:
    """Rolls all there is."""
    roll(store, END)


def do_sealing(store: DuckDbStore, now: int = END) -> None:
    """Seals all there is."""
    store.maintenance.seal(now - HOUR_MS, now)


def do_forgetting(store: DuckDbStore) -> None:
    """Forgets all samples, and some of the rollups."""
    store.forget_before(
        MIDNIGHT + DAY,
        {MINUTE: MIDNIGHT + 3 * HOUR_MS, FIVE_MINUTES: MIDNIGHT + 2 * HOUR_MS, HOUR: MIDNIGHT + HOUR_MS},
    )


def do_take_back(store: DuckDbStore) -> None:
    """The clock was set back into the second hour."""
    store.forget_between(MIDNIGHT + 80 * MINUTE_MS + 7, MIDNIGHT + 110 * MINUTE_MS)


JOBS: Final[dict[str, tuple[Callable[[DuckDbStore], None], Callable[[DuckDbStore], None]]]] = {
    "rolling": (prepare_rolling, do_rolling),
    "sealing": (prepare_sealing, do_sealing),
    "merging": (prepare_merging, lambda store: do_sealing(store, END + DAY)),
    "forgetting": (prepare_merging, do_forgetting),
    "taking back": (prepare_merging, do_take_back),
}
FILE = ["file written", "file renamed", "file on the list"]
DELETED = ["files to be deleted", "files deleted"]
STEPS: Final = {
    "rolling": ["minute rolled", "five_minutes rolled", "hour rolled"],
    "sealing": [*FILE, "rows deleted"],
    "merging": [*FILE, "rows deleted", "old files off the list", *DELETED],
    "forgetting": ["files off the list", *DELETED, "rows forgotten"],
    "taking back": ["taken back", *DELETED],
}
# Times of a step at which to be killed: the first and a later one.
KILLS: Final = [
    (job, step, which) for job, steps in STEPS.items() for step in steps for which in ((1, 5) if step in FILE else (1,))
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for each job, by its name, and beside each what it is once the job is done."""
    folder = tmp_path_factory.mktemp("prepared")
    for job, (prepare, do) in JOBS.items():
        store = open_store(folder / job)
        prepare(store)
        store.close()
        shutil.copytree(folder / job, folder / f"{job} done")
        store = open_store(folder / f"{job} done")
        taken: list[str] = []
        store.maintenance.on_step = taken.append
        do(store)
        store.close()
        assert {step for step in taken if step != "nothing rolled"} == set(STEPS[job]), "every step has its test"
    return folder


KILLED = """
import os, signal, sys
from pathlib import Path
from aggregator.test_store_levels_killed import JOBS
from support.aggregators import open_store

folder, job, last, times = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

def on_step(step):
    global times
    times -= step == last
    if times == 0:
        os.kill(os.getpid(), signal.SIGKILL)

store = open_store(folder)
store.maintenance.on_step = on_step
JOBS[job][1](store)
"""


@pytest.mark.parametrize(("job", "step", "times"), KILLS)
def test_a_job_that_is_killed_can_be_done_again(
    prepared: Path, tmp_path: Path, job: str, step: str, times: int
) -> None:
    """What there is by then is whole, and once it is done, it is as if nothing had happened."""
    folder = tmp_path / "data"
    shutil.copytree(prepared / job, folder)
    before = contents(folder)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), job, step, str(times)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()

    store = open_store(folder)
    if job != "forgetting":
        check_levels(store)
    if job not in ("forgetting", "taking back"):
        for table in ("host_sample", "process_sample"):
            assert the_same(level_sums(store)[table], before[table])
    check_files(store)
    JOBS[job][1](store)
    check_files(store)
    store.close()
    found, wanted = contents(folder), contents(prepared / f"{job} done")
    assert [table for table in wanted if not the_same(found[table], wanted[table])] == []


def contents(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What each table of a store comes to."""
    store = open_store(folder)
    found = level_sums(store)
    store.close()
    return found


def check_levels(store: DuckDbStore) -> None:
    """Rollups are of the samples that are there."""
    for kind in KINDS:
        for since, until in ((0, END), (MIDNIGHT + 17 * MINUTE_MS + 3, MIDNIGHT + 150 * MINUTE_MS)):
            assert the_same(sums(store, kind, since, until, HOUR), raw_sums(store, kind, since, until))


def check_files(store: DuckDbStore) -> None:
    """The folder has the files of the list, and no others."""
    listed = {file for (file,) in store.read("SELECT file FROM sealed")}
    folder = store.sealed.path
    assert {path.name for path in folder.glob("*")} == listed
    assert not store.sealed.missing
