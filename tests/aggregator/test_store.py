"""The store keeps what was committed, says no in words, and knows unknown from zero."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import duckdb
import pytest

from loiter.v1 import ingest_service_pb2 as ingest_pb
from loiter.v1 import sample_pb2 as pb
from loiter_aggregator.clock import from_timestamp
from loiter_aggregator.host_detail import find_host, known_names
from loiter_aggregator.ranking.hosts import rank_hosts
from loiter_aggregator.store import maintenance
from loiter_aggregator.store.batch import Batch, Lost
from loiter_aggregator.store.database import BrokenDatabase
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from loiter_aggregator.store.question import Parameters, Rows
from loiter_aggregator.store.schema import HOST_SAMPLE, PROCESS_SAMPLE, VERSION
from support.aggregators import batch_of, host_key, open_store, put_host, ranking, record, store_samples
from support.programs import wait_until
from support.reports import EPOCH, HOUR, MINUTE, NOW, SECOND, explained, full_report, hello, process, report, sample

DAY = 24 * HOUR
HOSTILE = ("'; DROP TABLE host; --", 'a"b', "nul\0byte", "ünïcödé 😀 \u202e", "\x1b[31m[red]", "%s {0} $since ?", "\\")


def _count(store: DuckDbStore, table: str) -> int:
    return int(store.read(f"SELECT count(*) FROM {table}")[0][0])


@contextmanager
def _renamed(store: DuckDbStore, table: str) -> Iterator[None]:
    """Has a table out of the way for a while, so that writing to it fails."""
    store.read(f"ALTER TABLE {table} RENAME TO away")
    yield
    store.read(f"ALTER TABLE away RENAME TO {table}")


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    """The first start needs no preparation."""
    store = open_store(tmp_path / "var" / "lib" / "loiter")
    assert store.high_water() == {}
    assert store.read("SELECT version FROM store_version") == [(VERSION,)]
    store.close()


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    """Samples, hosts, labels, identities and marks outlive the process that wrote them."""
    store = open_store(tmp_path)
    put_host(store, record(hello(labels={"role": "web"})), NOW)
    store.write(batch_of(full_report()))
    store.close()

    reopened = open_store(tmp_path)
    assert reopened.high_water() == {(host_key("web-1"), EPOCH): 1}
    assert _count(reopened, "host_sample") == 1
    assert _count(reopened, "process_sample") == 2
    assert _count(reopened, "identity") == 2
    detail = find_host(reopened, "web-1")
    assert detail is not None
    assert dict(detail.host.labels) == {"role": "web"}
    reopened.close()


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """The message names both versions and what to do, and the file is left as it is."""
    open_store(tmp_path).close()
    with duckdb.connect(str(tmp_path / "loiter.duckdb")) as connection:
        connection.execute("UPDATE store_version SET version = ?", [VERSION + 1])
    for _ in range(2):
        with pytest.raises(
            StoreError,
            match=rf"has version {VERSION + 1} of the store.* none later than {VERSION}: use the newer loiter",
        ):
            open_store(tmp_path)


def test_a_duckdb_file_of_another_program_is_refused(tmp_path: Path) -> None:
    """Its tables are not touched."""
    with duckdb.connect(str(tmp_path / "loiter.duckdb")) as connection:
        connection.execute("CREATE TABLE theirs AS SELECT 1 AS x")
    with pytest.raises(StoreError, match="not a store of loiter"):
        open_store(tmp_path)
    with duckdb.connect(str(tmp_path / "loiter.duckdb")) as connection:
        assert connection.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("theirs",)]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """The message names the file, and the file is left as it is."""
    file = tmp_path / "loiter.duckdb"
    file.write_bytes(b"these are notes, not tables\n" * 1_000)
    with pytest.raises(StoreError, match=r"cannot open the store .*loiter\.duckdb"):
        open_store(tmp_path)
    assert file.read_bytes().startswith(b"these are notes")


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    """A file in the way is said to be in the way."""
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(StoreError, match="cannot use the folder"):
        open_store(tmp_path / "data" / "loiter")


def test_a_second_process_is_told_that_the_store_is_in_use(tmp_path: Path) -> None:
    """One process has the file; another one gets a StoreError that says so."""
    store = open_store(tmp_path)
    program = """
import sys
import threading
from pathlib import Path
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
try:
    DuckDbStore(Path(sys.argv[1]), "256MB")
except StoreError as error:
    print(error)
"""
    second = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "loiter.duckdb is in use by another process" in second.stdout
    assert second.stderr == ""
    store.close()


def test_an_absent_count_is_null_and_zero_is_zero(store: DuckDbStore) -> None:
    """A reader can tell what could not be read from what was not there."""
    absent = sample(processes=[process(100)])
    zero = sample(
        NOW + SECOND,
        close_wait=0,
        time_wait=0,
        fd_allocated=0,
        processes=[process(100, 0, time_wait=0, fd_open=0, fd_limit=0)],
    )
    zero.coverage.sockets_unattributed = 0
    zero.other_processes.fd_open = 0
    zero.cost.cpu_seconds = 0
    store_samples(store, "web-1", [absent, zero])

    host_columns = "close_wait, time_wait, fd_allocated, sockets_unattributed, other_fd_open, cpu_seconds"
    assert store.read(f"SELECT {host_columns} FROM host_sample ORDER BY ts") == [(None,) * 6, (0,) * 6]
    process_columns = "close_wait, time_wait, fd_open, fd_limit"
    assert store.read(f"SELECT {process_columns} FROM process_sample ORDER BY ts") == [(None,) * 4, (0,) * 4]


def test_every_column_takes_the_largest_value_of_its_field(store: DuckDbStore) -> None:
    """No agent can make a commit fail with a number that the wire allows."""
    message = report(taken=sample(processes=[process(2**32 - 1)]))
    taken = message.sample
    one = taken.processes[0]
    one.cause = pb.CAUSE_NEVER_ACCEPTED
    parts = (taken.tcp_states, taken.host_fds, taken.coverage, taken.other_processes, taken.cost, one)
    for part in (*parts, one.close_wait_age, one.evidence, taken.time_wait_limits):
        for field in part.DESCRIPTOR.fields:
            if field.cpp_type == field.CPPTYPE_UINT32:
                setattr(part, field.name, 2**32 - 1)
            elif field.cpp_type == field.CPPTYPE_UINT64:
                setattr(part, field.name, 2**64 - 1)
            elif field.cpp_type == field.CPPTYPE_DOUBLE:
                setattr(part, field.name, 1e308)
    message.spool_epoch = message.sequence = 2**63 - 1
    put_host(store, record(hello()), NOW)
    store.write(batch_of(message))

    row = dict(zip(HOST_SAMPLE, store.read(f"SELECT {', '.join(HOST_SAMPLE)} FROM host_sample")[0], strict=True))
    assert row["close_wait"] == 2**32 - 1
    assert row["fd_limit"] == 2**64 - 1
    assert row["cpu_seconds"] == 1e308
    row = dict(
        zip(PROCESS_SAMPLE, store.read(f"SELECT {', '.join(PROCESS_SAMPLE)} FROM process_sample")[0], strict=True)
    )
    assert row["pid"] == 2**32 - 1
    assert row["fd_limit"] == 2**64 - 1
    assert store.high_water() == {(host_key("web-1"), 2**63 - 1): 2**63 - 1}


def test_the_latest_sample_comes_back_as_it_was_sent(store: DuckDbStore) -> None:
    """Every field, the absent ones included."""
    sent = full_report()
    put_host(store, record(hello(labels={"role": "web"})), NOW)
    store.write(batch_of(sent))
    detail = find_host(store, "web-1")
    assert detail is not None
    assert detail.latest == sent.sample
    assert detail.host == hello(labels={"role": "web"}).host


def test_the_latest_sample_is_the_one_taken_last(store: DuckDbStore) -> None:
    """An older one that comes late does not take its place, in the same batch or in a later one."""
    put_host(store, record(hello()), NOW)

    def latest() -> tuple[int, int]:
        detail = find_host(store, "web-1")
        assert detail is not None
        assert detail.latest is not None
        return from_timestamp(detail.latest.sample_time), detail.latest.tcp_states.close_wait

    def come(*offsets: int) -> None:
        store.write(
            batch_of(*(report(sequence=10 + at, taken=sample(NOW + at, at + 5)) for at in offsets), received=NOW + 9)
        )

    come(2, 1)
    assert latest() == (NOW + 2, 7)
    come(0)
    assert latest() == (NOW + 2, 7)
    come(3)
    assert latest() == (NOW + 3, 8)
    assert _count(store, "host_latest") == 1


def test_the_time_of_the_latest_sample_is_set_right(store: DuckDbStore) -> None:
    """As the samples that rankings are made of."""
    put_host(store, record(hello()), NOW)
    batch = Batch()
    batch.add(host_key("web-1"), report(taken=sample(NOW - HOUR)), NOW, skew=HOUR - SECOND)
    store.write(batch)
    detail = find_host(store, "web-1")
    assert detail is not None
    assert detail.latest is not None
    assert from_timestamp(detail.latest.sample_time) == NOW - SECOND


def test_the_latest_sample_goes_with_the_others(store: DuckDbStore) -> None:
    """Retention takes it when it takes those of its time."""
    store_samples(store, "web-1", [sample(NOW, 1)])
    store.forget_before(NOW)
    assert _count(store, "host_latest") == 1
    store.forget_before(NOW + 1)
    assert _count(store, "host_latest") == 0
    detail = find_host(store, "web-1")
    assert detail is not None
    assert detail.latest is None


def test_what_a_host_comes_to_is_stored_with_its_sample(store: DuckDbStore) -> None:
    """The cause of the process with the most sockets that stay, the sum of the stuck, the fullest budget of ports."""
    churning = process(100, 90)
    leaking = explained(process(200, 40), pb.CAUSE_LEAK, settled=30, stuck=30)
    pooling = explained(process(300, 50), pb.CAUSE_IDLE_POOL, settled=20, stuck=20)
    taken = sample(processes=[churning, leaking, pooling, process(400, 0), process(500)])
    taken.ports.add(used=10, available=100)
    taken.ports.add(used=30, available=60)
    taken.ports.add(used=9_000)
    taken.time_wait_limits.overflows = 7
    store_samples(store, "web-1", [taken])
    columns = "cause, stuck, ports_share, time_wait_overflows, time_wait_max_buckets"
    assert store.read(f"SELECT {columns} FROM host_sample") == [(pb.CAUSE_LEAK, 50, 0.5, 7, None)]
    assert store.read("SELECT pid, cause, stuck FROM process_sample ORDER BY pid") == [
        (100, None, None),
        (200, pb.CAUSE_LEAK, 30),
        (300, pb.CAUSE_IDLE_POOL, 20),
        (400, None, 0),
        (500, None, None),
    ]


def test_a_host_without_close_wait_has_none_that_is_stuck(store: DuckDbStore) -> None:
    """Zero where the count is known to be, unknown where it is not."""
    store_samples(store, "none", [sample(NOW, 0)])
    store_samples(store, "unknown", [sample(NOW)])
    store_samples(store, "some", [sample(NOW, 3, processes=[process(close_wait=3)])])
    found = store.read("SELECT hostname, stuck FROM host_sample JOIN host USING (host_key) ORDER BY hostname")
    assert found == [("none", 0), ("some", None), ("unknown", None)]


def test_a_host_is_found_by_its_id_and_an_unknown_one_is_not(store: DuckDbStore) -> None:
    """Names and ids are both names."""
    put_host(store, record(hello()), NOW)
    detail = find_host(store, hello().host.host_id)
    assert detail is not None
    assert detail.host.hostname == "web-1"
    assert detail.latest is None
    assert find_host(store, "web-2") is None


def test_processes_that_are_called_the_same_share_one_identity(store: DuckDbStore) -> None:
    """In one batch, in a later one, on another host, and after reopening."""
    for sequence in (1, 2):
        taken = sample(NOW + sequence, processes=[process(100), process(200), process(300, name="worker")])
        store.write(batch_of(report("web-1", sequence, taken), report("web-2", sequence, taken)))
    assert _count(store, "process_sample") == 12
    assert sorted(store.read("SELECT name, app, user_name FROM identity")) == [
        ("gateway", "gateway.service", "www-data"),
        ("worker", "gateway.service", "www-data"),
    ]


def test_identities_are_known_again_after_reopening(tmp_path: Path) -> None:
    """A process that was there before the restart adds no identity."""
    for sequence in (1, 2):
        store = open_store(tmp_path)
        store.write(batch_of(report(sequence=sequence, taken=sample(NOW + sequence, processes=[process()]))))
        assert _count(store, "identity") == 1
        store.close()


def test_names_that_join_to_the_same_text_are_different_identities(store: DuckDbStore) -> None:
    """("ab", "c") is not ("a", "bc")."""
    taken = sample(processes=[process(1, name="ab", app="c", user=""), process(2, name="a", app="bc", user="")])
    store.write(batch_of(report(taken=taken)))
    assert _count(store, "identity") == 2


def test_a_write_that_fails_stores_nothing(store: DuckDbStore) -> None:
    """Samples, identities, marks and last_seen come together or not at all, and the next write goes through."""
    put_host(store, record(hello()), NOW)

    class Broken(Batch):
        def process_columns(self) -> dict[str, object]:  # type: ignore[override]  # columns that do not fit
            return {"ts": super().process_columns()["ts"]}

    good = batch_of(full_report(), received=NOW + SECOND)
    broken = Broken(
        host_rows=good.host_rows,
        process_rows=good.process_rows,
        identities=good.identities,
        high_water=good.high_water,
        last_seen=good.last_seen,
    )
    with pytest.raises(StoreError, match="cannot write to the store"):
        store.write(broken)
    assert [_count(store, table) for table in ("host_sample", "process_sample", "identity", "high_water")] == [0] * 4
    assert store.read("SELECT last_seen FROM host") == [(NOW,)]

    store.write(good)
    assert [_count(store, table) for table in ("host_sample", "process_sample", "identity", "high_water")] == [
        1,
        2,
        2,
        1,
    ]
    assert store.read("SELECT last_seen FROM host") == [(NOW + SECOND,)]


@pytest.mark.parametrize("table", ["host", "host_sample", "process_sample", "identity", "host_latest", "high_water"])
def test_why_a_write_failed_is_said(store: DuckDbStore, table: str) -> None:
    """Whichever table it was, and not what could not be tidied up after; the next write goes through."""
    batch = batch_of(full_report())
    batch.hosts[host_key("web-1")] = record(hello())
    with _renamed(store, table), pytest.raises(StoreError, match=f"{table} does not exist"):
        store.write(batch)
    assert store.read("SELECT view_name FROM duckdb_views() WHERE view_name = 'incoming'") == []
    store.write(batch)
    assert _count(store, table) > 0


def test_samples_are_not_stored_where_their_marks_can_not_be(store: DuckDbStore) -> None:
    """The marks are the last to be written: without them, a report would be stored again when it is sent again."""
    batch = batch_of(full_report())
    with _renamed(store, "high_water"), pytest.raises(StoreError):
        store.write(batch)
    assert [_count(store, table) for table in ("host_sample", "process_sample", "identity")] == [0] * 3
    store.write(batch)
    assert store.high_water() == {(host_key("web-1"), EPOCH): 1}


def test_the_mark_of_a_spool_is_its_last_sequence(store: DuckDbStore) -> None:
    """Epochs of one host are apart, and so are hosts."""
    store.write(batch_of(report(sequence=1), report(sequence=2), report("web-2", 5)))
    store.write(batch_of(report(sequence=3), report(sequence=1, epoch=8)))
    assert store.high_water() == {
        (host_key("web-1"), EPOCH): 3,
        (host_key("web-1"), 8): 1,
        (host_key("web-2"), EPOCH): 5,
    }


def test_a_host_that_connects_again_is_described_anew(store: DuckDbStore) -> None:
    """Name, interval and labels are the latest; when it was last heard of stays, for no report has come."""
    put_host(store, record(hello("web-1", labels={"role": "web", "dc": "fra1"})), NOW)
    again = hello("web-1", interval_ms=60 * SECOND, labels={"role": "db"})
    again.host.hostname = "web-1.example.org"
    put_host(store, record(again), NOW + HOUR)
    assert store.read("SELECT hostname, interval_ms, last_seen FROM host") == [
        ("web-1.example.org", 60 * SECOND, NOW + HOUR)
    ]
    assert store.read("SELECT name, value FROM host_label") == [("role", "db")]


def test_what_is_older_than_the_retention_is_forgotten(store: DuckDbStore) -> None:
    """Samples from the given time on stay; so do hosts and identities."""
    samples = [sample(NOW + offset, 1, processes=[process()]) for offset in (-1, 0, 1)]
    store_samples(store, "web-1", samples)
    store.forget_before(NOW)
    assert store.read("SELECT ts FROM host_sample ORDER BY ts") == [(NOW,), (NOW + 1,)]
    assert store.read("SELECT ts FROM process_sample ORDER BY ts") == [(NOW,), (NOW + 1,)]
    assert known_names(store) == ["web-1"]
    assert _count(store, "identity") == 1


def test_an_epoch_is_remembered_for_a_month_longer_than_its_samples(store: DuckDbStore) -> None:
    """An agent that comes back after weeks is still known, and its reports are not stored twice."""
    store.write(batch_of(report(), received=NOW))
    store.forget_before(NOW + 30 * DAY)
    assert store.high_water() == {(host_key("web-1"), EPOCH): 1}
    store.forget_before(NOW + 30 * DAY + 1)
    assert store.high_water() == {}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_kept_as_text(store: DuckDbStore, text: str) -> None:
    """Names and label values are never part of a statement, and come back as they were sent."""
    said = hello(labels={"role": text})
    said.host.hostname = text
    put_host(store, record(said), NOW)
    store.write(batch_of(report(taken=sample(close_wait=1, processes=[process(name=text, app=text, user=text)]))))

    detail = find_host(store, text)
    assert detail is not None
    assert detail.host == said.host
    assert known_names(store) == [text]
    assert store.read("SELECT name, app, user_name FROM identity") == [(text, text, text)]
    assert [row.hostname for row in rank_hosts(store, ranking(labels={"role": text}))] == [text]
    assert rank_hosts(store, ranking(labels={"role": text + "x"})) == []


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    """And frees the file for whoever comes next."""
    store = open_store(tmp_path)
    store.close()
    store.close()
    open_store(tmp_path).close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Reading and writing raise StoreError, not an error of DuckDB."""
    store = open_store(tmp_path)
    store.close()
    with pytest.raises(StoreError, match="the store is closed"):
        store.high_water()
    with pytest.raises(StoreError, match="the store is closed"):
        store.write(batch_of(report()))
    with pytest.raises(StoreError, match="the store is closed"):
        store.forget_before(NOW)


def test_a_query_that_is_wrong_is_a_store_error(store: DuckDbStore) -> None:
    """Callers have one error to catch."""
    with pytest.raises(StoreError, match="cannot read from the store"):
        store.read("SELECT nothing FROM nowhere")


def test_what_no_sample_needs_any_more_is_forgotten(store: DuckDbStore) -> None:
    """Names of processes with their samples; hosts and their labels a month after."""
    taken = [sample(NOW, 1, processes=[process()])]
    store_samples(store, "web-1", taken, labels={"role": "web"})
    store.forget_before(NOW + 1)
    assert _count(store, "identity") == 0
    assert (_count(store, "host"), _count(store, "host_label")) == (1, 1)
    store_samples(store, "web-2", [sample(NOW + 30 * DAY, 1, processes=[process()])])
    assert _count(store, "identity") == 1, "known names are those in the table"
    store.forget_before(NOW + 30 * DAY + 1)
    assert known_names(store) == ["web-2"]
    assert _count(store, "host_label") == 0


@pytest.mark.parametrize("fails", ["DuckDB gives the file up after the commit", "what is left can not be read"])
def test_a_name_that_was_forgotten_is_stored_again_whatever_failed_meanwhile(
    store: DuckDbStore, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A process without a name would be left out of every ranking until a restart."""
    store_samples(store, "web-1", [sample(NOW, 1, processes=[process()])])
    again = batch_of(report("web-1", 2, sample(NOW + SECOND, 1, processes=[process()])))
    with monkeypatch.context() as broken:
        if fails == "what is left can not be read":
            broken.setattr(store, "_read_identities", _unreadable)
            store.forget_before(NOW + 1)
            with pytest.raises(StoreError, match="can not be read now"):
                store.write(again)
        else:
            # After those of the list of files, the samples, and what is only there for them.
            broken.setattr(store, "_transaction", _given_up_after(store._transaction, commits=4))
            with pytest.raises(BrokenDatabase):
                store.forget_before(NOW + 1)
    assert (_count(store, "host_sample"), _count(store, "identity")) == (0, 0)
    store.write(again)
    assert (_count(store, "host_sample"), _count(store, "identity")) == (1, 1)


def _unreadable(*_: object) -> NoReturn:
    raise StoreError("it can not be read now")


def _given_up_after(
    transaction: Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]], commits: int
) -> object:
    @contextmanager
    def given_up() -> Iterator[duckdb.DuckDBPyConnection]:
        nonlocal commits
        with transaction() as connection:
            yield connection
        commits -= 1
        if not commits:
            raise BrokenDatabase("given up")

    return given_up


def test_batches_are_written_between_the_steps_of_a_large_delete(
    store: DuckDbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the step under way is over, so that the delete holds up neither acknowledgements nor the watchdog."""
    monkeypatch.setattr(maintenance, "_SLICE_ROWS", 1)
    store_samples(store, "web-1", [sample(NOW - minute * MINUTE, 1) for minute in range(1, 6)])
    again = batch_of(report("web-1", 6, sample(NOW, 1)))
    writer = threading.Thread(target=store.write, args=(again,))
    steps: list[str] = []

    def step_is_over() -> None:
        steps.append("written" if threading.current_thread() is writer else "deleted")
        if writer.ident is None:
            writer.start()
            wait_until(store._turns._next.locked, 20, "the writer waits for its turn")

    monkeypatch.setattr(store._database, "checkpoint_if_due", step_is_over)
    store.forget_before(NOW)
    writer.join()
    assert steps[:3] == ["deleted", "written", "deleted"]
    assert store.read("SELECT ts FROM host_sample") == [(NOW,)]


def test_a_name_that_comes_into_use_while_unused_ones_are_looked_for_stays(
    store: DuckDbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes a while in a large store, in which reports are stored."""
    store_samples(store, "web-1", [sample(NOW, 1, processes=[process()])])
    again = batch_of(report("web-1", 2, sample(NOW + SECOND, 1, processes=[process()])))
    read = store._database.read

    def read_slowly(sql: str, parameters: Parameters = ()) -> Rows:
        rows = read(sql, parameters)
        if "EXCEPT" in sql:
            assert rows, "it is unused as yet"
            store.write(again)
        return rows

    monkeypatch.setattr(store._database, "read", read_slowly)
    store.forget_before(NOW + 1)
    assert _count(store, "identity") == 1


def test_why_a_commit_failed_is_said(store: DuckDbStore) -> None:
    """In the words of what failed, and the next write goes through."""

    class Broken(Batch):
        def host_columns(self) -> dict[str, object]:  # type: ignore[override]  # fails amid the transaction
            raise duckdb.IOException("could not write the file\nand more that only DuckDB's authors want to know")

    full = batch_of(report())
    broken = Broken(host_rows=full.host_rows, high_water=full.high_water, last_seen=full.last_seen)
    with pytest.raises(StoreError, match=r"^cannot write to the store: could not write the file$"):
        store.write(broken)
    store.write(full)
    assert _count(store, "host_sample") == 1


def _lost(first: int | None, last: int, reason: ingest_pb.LossReason.ValueType, at: int | None) -> Lost:
    return Lost(EPOCH, first, last, reason, at, at)


def test_losses_are_stored_with_the_mark_that_they_move(store: DuckDbStore) -> None:
    """Unknown numbers and times as NULL; retention takes them when it takes samples of their time."""
    batch = batch_of(report(sequence=1))
    key = host_key("web-1")
    batch.add_loss(key, _lost(2, 5, ingest_pb.LOSS_REASON_SPOOL_FULL, NOW - HOUR), NOW)
    batch.add_loss(key, _lost(None, 6, ingest_pb.LOSS_REASON_SPOOL_CORRUPT, None), NOW)
    with _renamed(store, "high_water"), pytest.raises(StoreError):
        store.write(batch)
    assert _count(store, "lost_sample") == 0
    store.write(batch)
    assert store.high_water(key) == {(key, EPOCH): 6}
    assert store.high_water(host_key("web-2")) == {}
    columns = "first_sequence, last_sequence, first_ts, last_ts, received, reason"
    assert store.read(f"SELECT {columns} FROM lost_sample ORDER BY last_sequence") == [
        (2, 5, NOW - HOUR, NOW - HOUR, NOW, ingest_pb.LOSS_REASON_SPOOL_FULL),
        (None, 6, None, None, NOW, ingest_pb.LOSS_REASON_SPOOL_CORRUPT),
    ]
    store.forget_before(NOW)
    assert _count(store, "lost_sample") == 2
    store.forget_before(NOW + 1)
    assert _count(store, "lost_sample") == 0


def test_the_name_in_a_certificate_is_kept(store: DuckDbStore) -> None:
    """The first that was shown, also when the host comes back without one, or with another."""
    said = record(hello())
    assert store.hosts(said.host_key) == {}
    for shown, kept in ((None, None), ("web-1", "web-1"), (None, "web-1"), ("web-2", "web-1")):
        put_host(store, replace(said, certificate_name=shown), NOW)
        assert store.hosts(said.host_key)[said.host_key].certificate_name == kept


def test_the_interval_of_a_host_is_that_of_its_latest_sample(store: DuckDbStore) -> None:
    """An agent over its budget stretches it; what a backlog says of it is out of date."""
    put_host(store, record(hello(interval_ms=10 * SECOND)), NOW)

    def interval_after(at: int, sequence: int, seconds: int | None) -> int:
        taken = sample(at, 1)
        if seconds is not None:
            taken.interval.seconds = seconds
        store.write(batch_of(report(sequence=sequence, taken=taken), received=NOW + HOUR))
        return int(store.read("SELECT interval_ms FROM host")[0][0])

    assert interval_after(NOW, 1, None) == 10 * SECOND
    assert interval_after(NOW + MINUTE, 2, 40) == 40 * SECOND
    assert interval_after(NOW + SECOND, 3, 20) == 40 * SECOND
    assert interval_after(NOW + 2 * MINUTE, 4, 10) == 10 * SECOND


def test_a_commit_whose_outcome_is_not_known_is_looked_up(store: DuckDbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB may give the file up with the commit already in its log: then it is stored, and not to be sent again."""
    broken = duckdb.FatalException("fsync failed")

    @contextmanager
    def breaking(commits: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        with transaction() as connection:
            yield connection
            if not commits:
                raise broken
        with store._database.cursor():
            raise broken

    transaction = store._transaction
    for sequence, commits in ((1, True), (2, False)):
        monkeypatch.setattr(store, "_transaction", lambda commits=commits: breaking(commits))
        batch = batch_of(report(sequence=sequence))
        if commits:
            store.write(batch)
        else:
            with pytest.raises(StoreError, match="fsync failed"):
                store.write(batch)
        monkeypatch.undo()
        assert _count(store, "host_sample") == 1
    store.write(batch)
    assert _count(store, "host_sample") == 2


@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_that_was_removed_takes_nothing_more(tmp_path: Path, replaced: bool) -> None:
    """What is written to a file that is not there any more would be acknowledged and gone."""
    store = open_store(tmp_path / "data")
    store.write(batch_of(report(sequence=1)))
    (tmp_path / "data").rename(tmp_path / "moved")
    if replaced:
        (tmp_path / "data").mkdir()
        (tmp_path / "data/loiter.duckdb").write_bytes(b"")
    with pytest.raises(StoreError, match="was removed or replaced while it was in use"):
        store.write(batch_of(report(sequence=2)))
    if replaced:
        (tmp_path / "data/loiter.duckdb").unlink()
        (tmp_path / "data").rmdir()
    (tmp_path / "moved").rename(tmp_path / "data")
    store.write(batch_of(report(sequence=2)))
    assert store.read("SELECT count(*) FROM host_sample") == [(2,)]
    store.close()


def test_a_damaged_store_is_not_said_to_be_in_use(tmp_path: Path) -> None:
    """DuckDB speaks of a block then, in which there is a lock."""
    store = open_store(tmp_path)
    store.write(batch_of(*(report(sequence=sequence) for sequence in range(1, 400))))
    store.close()
    file = tmp_path / "loiter.duckdb"
    content = bytearray(file.read_bytes())
    content[12_288 : 12_288 + 4_096] = b"\xa5" * 4_096
    file.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path).read("SELECT * FROM host_sample")
    assert "block" in str(caught.value)
    assert "in use" not in str(caught.value)


def test_the_store_is_closed_while_it_is_being_read(store: DuckDbStore) -> None:
    """As by SIGTERM amid a question: what runs is through first, and nothing is begun any more."""
    began, answers = threading.Event(), []

    def ask() -> None:
        began.set()
        with suppress(StoreError):
            while True:
                answers.append(store.read("SELECT sum(range * range) FROM range(100_000)"))

    asking = threading.Thread(target=ask)
    asking.start()
    began.wait()
    store.close()
    asking.join(30)
    assert not asking.is_alive()
    with pytest.raises(StoreError, match="the store is closed"):
        store.read("SELECT 1")
