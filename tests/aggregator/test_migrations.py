"""A store that an older loiter made is brought up to date when it is opened, whole or not at all."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pytest

from loiter.v1 import ingest_service_pb2
from loiter_aggregator.host_detail import find_host
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ranking.apps import rank_apps
from loiter_aggregator.ranking.fleet import fleet_coverage
from loiter_aggregator.ranking.hosts import rank_hosts
from loiter_aggregator.ranking.processes import rank_processes
from loiter_aggregator.store.batch import key_of
from loiter_aggregator.store.duckdb_store import StoreError
from loiter_aggregator.store.schema import VERSION
from support.aggregators import FakeClock, batch_of, open_store, ranking
from support.reports import EPOCH, NOW, SECOND, full_report, report
from support.stores_of_old import make_old_store

OLD = ("store_v1_first", "store_v1", "store_v2", "store_v3", "store_v4")
# Those of tests/fixtures/capture_store.py.
WEB, DB = "7765622d310000000000000000000000", "64622d31000000000000000000000000"
TABLES = ("host_sample", "process_sample", "identity", "host", "host_label", "high_water")

old = pytest.mark.parametrize("name", OLD)


def contents(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, with the columns' names and types."""
    with duckdb.connect(str(file), read_only=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {
            table: [
                tuple(connection.execute(f"DESCRIBE {table}").fetchall()),
                *connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall(),
            ]
            for table in tables
        }


def columns(file: Path) -> set[tuple[object, ...]]:
    """What the tables are made of, in whatever order."""
    with duckdb.connect(str(file), read_only=True) as connection:
        return set(
            connection.execute(
                "SELECT table_name, column_name, data_type, is_nullable, column_default FROM duckdb_columns()"
            ).fetchall()
        )


def keys(file: Path) -> set[tuple[object, ...]]:
    """The primary keys."""
    with duckdb.connect(str(file), read_only=True) as connection:
        found = connection.execute("SELECT table_name, constraint_text FROM duckdb_constraints()").fetchall()
    return set(found)


@old
def test_an_old_store_gets_the_tables_of_a_new_one(tmp_path: Path, name: str) -> None:
    """The same columns and keys as if this loiter had made it."""
    (tmp_path / "new").mkdir()
    open_store(tmp_path / "new").close()
    file = make_old_store(tmp_path, name)
    open_store(tmp_path).close()
    assert columns(file) == columns(tmp_path / "new" / "loiter.duckdb")
    assert keys(file) == keys(tmp_path / "new" / "loiter.duckdb")


@old
def test_every_row_is_still_there(tmp_path: Path, name: str) -> None:
    """With all that the older loiter knew, and nothing made up: what it did not know is unknown."""
    file = make_old_store(tmp_path, name)
    with duckdb.connect(str(file)) as connection:
        connection.execute("ALTER TABLE host_sample DROP COLUMN IF EXISTS errors")  # the one that is given up
        known = {
            table: [column for (column, *_) in connection.execute(f"DESCRIBE {table}").fetchall()] for table in TABLES
        }
        before = {
            table: connection.execute(f"SELECT {', '.join(known[table])} FROM {table} ORDER BY ALL").fetchall()
            for table in TABLES
        }
    store = open_store(tmp_path)
    for table in TABLES:
        assert store.read(f"SELECT {', '.join(known[table])} FROM {table} ORDER BY ALL") == before[table], table
        assert before[table], table
    sequences = [(0, EPOCH, sequence, 0) for sequence in range(1, 6)] if name == "store_v4" else [(0, None, None, None)]
    named = "SELECT DISTINCT skew, spool_epoch, sequence, degradation FROM host_sample ORDER BY sequence"
    assert store.read(named) == sequences
    assert store.read("SELECT DISTINCT certificate_name FROM host") == [(None,)]
    assert store.read("SELECT * FROM lost_sample") == []
    assert store.read("SELECT version FROM store_version") == [(VERSION,)]
    store.close()


@old
def test_questions_are_answered(tmp_path: Path, name: str) -> None:
    """From what the older loiter stored."""
    make_old_store(tmp_path, name)
    store = open_store(tmp_path)
    asked = ranking()
    for host in rank_hosts(store, asked):
        assert (host.close_wait.current, host.close_wait.samples) == (15, 5)
        assert host.close_wait.growth_per_hour == pytest.approx(180)
    processes = rank_processes(store, asked)
    assert [(row.hostname, row.pid) for row in processes] == [
        ("db-1", 100),
        ("web-1", 100),
        ("db-1", 200),
        ("web-1", 200),
    ]
    assert processes[0].close_wait.growth_per_hour == pytest.approx(180)
    assert [(row.app, row.close_wait.current) for row in rank_apps(store, asked)] == [
        ("gateway.service", 30),
        ("worker.service", 0),
    ]
    coverage = fleet_coverage(store, {}, NOW)
    assert (coverage.hosts, coverage.hosts_reporting) == (2, 2)
    detail = find_host(store, "web-1")
    assert detail is not None
    # Version 1 kept no latest sample: it comes with the next report.
    assert (detail.latest is not None) == (name not in ("store_v1_first", "store_v1"))
    store.close()


@old
def test_what_was_stored_before_is_known_and_what_comes_is_stored(tmp_path: Path, name: str) -> None:
    """The marks of the older loiter go on, and so do its series and its names of processes."""
    make_old_store(tmp_path, name)
    store = open_store(tmp_path)
    key = key_of(WEB)
    assert store.high_water() == {(key, EPOCH): 5, (key_of(DB), EPOCH): 5}
    coming = full_report()
    coming.host_id, coming.sequence = WEB, 6
    one = coming.sample.processes[0]
    one.start_time.FromMilliseconds(NOW - 86_400_000)
    store.write(batch_of(coming, received=NOW + SECOND))
    assert store.high_water(key) == {(key, EPOCH): 6}
    columns = "degradation, spool_epoch, sequence, close_wait, namespaces_by_procfs"
    assert store.read(f"SELECT {columns} FROM host_sample WHERE sequence = 6") == [(0, EPOCH, 6, 12, None)]
    series = store.read("SELECT count(*) FROM process_sample WHERE host_key = $key AND pid = 100", {"key": key})
    assert series == [(6,)]
    store.close()

    reopened = open_store(tmp_path)
    assert reopened.high_water(key) == {(key, EPOCH): 6}
    reopened.close()


def test_a_migration_is_logged_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From which version to which, and how long it took; and there is none the second time."""
    make_old_store(tmp_path, "store_v1")
    with caplog.at_level(logging.INFO):
        open_store(tmp_path).close()
        open_store(tmp_path).close()
    (line,) = caplog.messages
    assert re.fullmatch(rf"store migrated from version 1 to {VERSION} in \d+\.\d s", line)


KILLED = """
import os, signal, sys
from pathlib import Path
from loiter_aggregator.store import migrations
from loiter_aggregator.store.duckdb_store import DuckDbStore

def killed(step):
    yield from step[:int(sys.argv[2])]
    os.kill(os.getpid(), signal.SIGKILL)

migrations.STEPS[3] = killed(migrations.STEPS[3])
DuckDbStore(Path(sys.argv[1]), "256MB")
"""


@pytest.mark.parametrize("statements", [0, 2, 5])
def test_a_migration_that_is_killed_leaves_the_old_store(tmp_path: Path, statements: int) -> None:
    """Whatever it had done by then is undone, and the next start migrates."""
    file = make_old_store(tmp_path, "store_v1")
    before = contents(file)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(statements)], capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert contents(file) == before
    store = open_store(tmp_path)
    assert store.read("SELECT version FROM store_version") == [(VERSION,)]
    assert store.read("SELECT count(*) FROM host_sample") == [(10,)]
    store.close()


def test_a_migration_that_fails_leaves_the_old_store_and_says_so(tmp_path: Path) -> None:
    """As where somebody has changed the tables by hand."""
    file = make_old_store(tmp_path, "store_v3")
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE lost_sample (mine INTEGER)")
    before = contents(file)
    with pytest.raises(StoreError, match=rf"cannot bring the store .* from version 3 to {VERSION}: .*lost_sample"):
        open_store(tmp_path)
    assert contents(file) == before


@dataclass(eq=False)
class Stream:
    """What an agent's stream was told."""

    acknowledged: list[tuple[int, int]] = field(default_factory=list)

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Notes it."""
        self.acknowledged.append((epoch, sequence))

    def reject(self, rejection: ingest_service_pb2.ReportRejection) -> None:
        """There is nothing to reject."""
        raise AssertionError(rejection)


@old
def test_what_comes_again_after_a_migration_is_not_stored_again(tmp_path: Path, name: str) -> None:
    """An agent that had no acknowledgement sends its last reports to the newer loiter once more, and then new ones."""
    make_old_store(tmp_path, name)
    store = open_store(tmp_path)

    async def scenario() -> None:
        batcher, stream = Batcher(store, FakeClock()), Stream()
        for sequence in (4, 5, 6):
            coming = report(sequence=sequence)
            coming.host_id = WEB
            await batcher.put(key_of(WEB), coming, stream)
        await batcher.commit()
        assert stream.acknowledged == [(EPOCH, 6)]
        assert (batcher.counters.duplicates, batcher.counters.stored) == (2, 1)

    asyncio.run(scenario())
    assert store.read("SELECT count(*) FROM host_sample WHERE host_key = $key", {"key": key_of(WEB)}) == [(6,)]
    store.close()
