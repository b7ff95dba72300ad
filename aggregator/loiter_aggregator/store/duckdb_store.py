"""The store on DuckDB: one file, one process, one writer; any number of readers in that process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import duckdb

from loiter_aggregator.store import rollup
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.database import BrokenDatabase, Database, StoreError
from loiter_aggregator.store.forgetting import UNUSED_IDENTITIES
from loiter_aggregator.store.late import rolled_until
from loiter_aggregator.store.levels import LEVELS, ROLLUPS, SAMPLE, SOURCE, TABLES, Level
from loiter_aggregator.store.maintenance import Maintenance
from loiter_aggregator.store.manifest import sealed_files
from loiter_aggregator.store.migrations import migrate
from loiter_aggregator.store.question import Parameters, Question, Rows
from loiter_aggregator.store.ranges import Kept
from loiter_aggregator.store.rolling import SETTLED_MS
from loiter_aggregator.store.schema import CREATE, VERSION
from loiter_aggregator.store.sealed_folder import SealedFolder
from loiter_aggregator.store.turns import Turns
from loiter_aggregator.store.writing import write_batch

__all__ = ["DuckDbStore", "LevelFigures", "StoreError", "UnfitError"]

# Errors that are about what was to be written, and not about the file.
_UNFIT: Final = (duckdb.DataError, duckdb.IntegrityError)

_FILE: Final = "loiter.duckdb"
_SEALED: Final = "sealed"
# A host that has not been heard of for so long beyond retention is forgotten, and so is the epoch of a spool.
_LONG_GONE_MS: Final = 30 * 86_400_000
_RETRY_SECONDS: Final = 1.0


class UnfitError(StoreError):
    """What was to be written does not fit into the tables."""


class StoredHost(NamedTuple):
    """What a host said of itself last, when it was heard, and the name in the certificate that its id belongs to.

    `last_seen`, in milliseconds, is None where no report came; `certificate_name` where none was shown.
    """

    hostname: str
    boot_id: str
    interval_ms: int
    last_seen: int | None
    certificate_name: str | None


class LevelFigures(NamedTuple):
    """How far a level has come, in milliseconds, None where nothing is rolled; and what of it is sealed."""

    rolled_until: int | None
    files: int
    rows: int
    bytes: int


class DuckDbStore:
    """An open store."""

    def __init__(self, data_dir: Path, memory_limit: str) -> None:
        """Opens the store in a folder, and makes it where there is none. One of an older version is migrated.

        Raises:
            StoreError: The folder or the file can not be used, another process has it open, or a newer version of
                loiter made it.
        """
        self.file = file = data_dir / _FILE
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot use the folder {data_dir}: {error.strerror}") from None
        self._database = Database(file, memory_limit)
        self._turns = Turns()
        self._closing = threading.Event()
        self.sealed = SealedFolder(data_dir / _SEALED)
        self.maintenance = Maintenance(
            self._database, lambda: self._transaction(), self._turns, self.sealed, self._closing
        )
        # Called by the thread that writes while it waits for the file to be readable again.
        self.on_wait: Callable[[], None] = lambda: None
        # Those in the file, and no others as long as this is certain: whoever deletes some need not say which.
        self._identities: set[int] = set()
        self._identities_are_certain = True
        # Those of the batches that were written since somebody last began to look for identities that none has.
        self._used: set[int] = set()
        try:
            self._prepare(file)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self, file: Path) -> None:
        tables = {name for (name,) in self.read("SELECT table_name FROM duckdb_tables()")}
        if not tables:
            with self._transaction() as connection:
                for statement in (*CREATE, *rollup.CREATE):
                    connection.execute(statement)
            return
        if "store_version" not in tables:
            raise StoreError(
                f"{file} is a DuckDB file, but not a store of loiter; move it away or choose another folder"
            )
        found = self.read("SELECT max(version) FROM store_version")[0][0]
        if found is None or found > VERSION:
            raise StoreError(
                f"{file} has version {found} of the store, and this loiter knows none later than {VERSION}: "
                "use the newer loiter that made it, or another folder"
            )
        if found < VERSION:
            self._migrate(file, found)
        with self._transaction() as connection:
            # Hosts that greeted and never reported: nobody is connected yet who could.
            connection.execute("DELETE FROM host WHERE last_seen IS NULL")
        self._read_identities()
        self._settle_files()

    def _settle_files(self) -> None:
        with self._database.cursor() as connection:
            listed = sealed_files(connection)
        try:
            self.sealed.settle(listed)
        except OSError as error:
            raise StoreError(f"cannot use the folder {self.sealed.path}: {error.strerror}") from None

    def _migrate(self, file: Path, found: int) -> None:
        try:
            with self._database.cursor() as connection:
                migrate(connection, found)
        except duckdb.Error as error:
            raise StoreError(
                f"cannot bring the store {file} from version {found} to {VERSION}: {self._database.explain(error)}"
            ) from None

    def high_water(self, host_key: int | None = None) -> dict[tuple[int, int], int]:
        """Reads the last stored sequence of every spool, or of those of one host, by host key and epoch.

        Raises StoreError.
        """
        only = "" if host_key is None else f" WHERE host_key = {int(host_key)}"
        rows = self.read(f"SELECT host_key, spool_epoch, sequence FROM high_water{only}")
        return {(host_key, epoch): sequence for host_key, epoch, sequence in rows}

    def hosts(self, host_key: int | None = None) -> dict[int, StoredHost]:
        """Reads what is stored of every host, or of one, by host key. Raises StoreError."""
        only = "" if host_key is None else f" WHERE host_key = {int(host_key)}"
        rows = self.read(f"SELECT host_key, {', '.join(StoredHost._fields)} FROM host{only}")
        return {key: StoredHost(*row) for key, *row in rows}

    def knows_identity(self, identity_key: int) -> bool:
        """Whether an identity is stored, or was until lately. Does not read: it is remembered."""
        return identity_key in self._identities

    def write(self, batch: Batch) -> None:
        """Commits a batch: samples, losses, identities and high-water marks, all or nothing.

        When this returns, the batch survives a crash of the process and of the machine: DuckDB has written it to its
        write-ahead log and called fsync.

        Raises:
            UnfitError: Nothing of the batch was stored, nor ever will be.
            StoreError: Nothing of the batch was stored.
        """
        with self._turns.turn_for_rows(min(batch.times(), default=None)):
            self._database.check_in_place()
            if not self._identities_are_certain:
                self._read_identities()
            try:
                with self._transaction() as connection:
                    write_batch(connection, batch, self._identities)
            except BrokenDatabase:
                if not self._was_stored(batch):
                    raise
            self._identities.update(batch.identities)
            self._used.update(batch.identities)
            self._database.checkpoint_if_due()

    def roll(self, now: int) -> bool:
        """Rolls the next buckets that have settled by a time, in milliseconds. Returns whether there were any.

        Raises StoreError.
        """
        return self.maintenance.roll(now - SETTLED_MS)

    def kept(self) -> dict[Level, Kept]:
        """What there is of each level, for `ranges`. Raises StoreError."""
        rows = self._database.read("SELECT name, rolled_until, forgotten_until FROM level")
        found = {name: Kept(rolled, forgotten) for name, rolled, forgotten in rows}
        return {level: found[level.name] for level in LEVELS}

    def figures(self) -> dict[str, LevelFigures]:
        """How far each level has come, by its name; samples need not be rolled. Raises StoreError."""
        with self._database.cursor() as connection:
            marks, files = rolled_until(connection), sealed_files(connection)
        return {
            level.name: LevelFigures(
                marks[level.name],
                len(found := [one for one in files if TABLES[one.table][0] is level]),
                sum(one.rows for one in found),
                sum(one.bytes for one in found),
            )
            for level in LEVELS
        }

    def seal(self, now: int, hot: int) -> int:
        """Seals what was taken more than `hot` milliseconds ago, and is rolled. Returns how many files were made.

        Raises StoreError: what was sealed by then is sealed, and the next time goes on from there.
        """
        return self.maintenance.seal(now - hot, now)

    def forget_before(self, time: int, rollups: Mapping[Level, int] = MappingProxyType({})) -> None:
        """Deletes samples taken before a time in milliseconds, and all that is only there for samples long gone.

        Rollups are kept from times of their own, before which nothing of theirs is kept; without, from that time, too.
        What they are to keep is rolled before. Step by step: batches are written in between. What a crash leaves is
        deleted the next time. Raises StoreError.
        """
        before = {SAMPLE: time, **{level: rollups.get(level, time) for level in ROLLUPS}}
        if rollups:
            self._roll_before(before)
        forgotten = [self.maintenance.forget_files(before)]
        forgotten += [self.maintenance.forget_rows(level, end) for level, end in before.items()]
        oldest = min(before.values())
        long_gone = time - _LONG_GONE_MS
        self._change(
            ("DELETE FROM lost_sample WHERE greatest(last_ts, received) < ?", [oldest]),
            ("DELETE FROM host_latest WHERE ts < ?", [time]),
            ("DELETE FROM high_water WHERE updated < ?", [long_gone]),
            ("DELETE FROM host WHERE last_seen < ?", [min(long_gone, oldest)]),
            ("DELETE FROM host_label WHERE host_key NOT IN (SELECT host_key FROM host)", []),
        )
        if any(forgotten):
            self._forget_identities()

    def forget_between(self, after: int, until: int) -> None:
        """Deletes samples and losses of later than `after`, up to `until`, in milliseconds. Raises StoreError."""
        self.maintenance.take_back(after, until)

    def follow_clock(self, step: int, now: int) -> None:
        """Has the clock set by `step` milliseconds to `now`: when hosts were heard of is as long ago as before.

        Raises StoreError.
        """
        self._change(("UPDATE host SET last_seen = least(last_seen + ?, ?) WHERE last_seen IS NOT NULL", [step, now]))

    def newest_sample(self) -> int | None:
        """When the newest sample was taken, in milliseconds; None without any. Raises StoreError."""
        newest: int | None = self._database.read(
            "SELECT max(ts) FROM (SELECT max(ts) AS ts FROM host_sample UNION ALL "
            "SELECT max(last_time) FROM sealed WHERE table_name = 'host_sample') AS newest"
        )[0][0]
        return newest

    def _roll_before(self, before: Mapping[Level, int]) -> None:
        """Rolls all that is to be forgotten of a level into the next one."""
        until = max(level.ceil(before[SOURCE[level]]) for level in ROLLUPS)
        while self.maintenance.roll(until):
            pass

    def _change(self, *statements: tuple[str, list[int]]) -> None:
        """Runs statements together, unless the store is being closed."""
        with self._turns.job, self._turns.turn():
            if self._closing.is_set():
                return
            with self._transaction() as connection:
                for sql, parameters in statements:
                    connection.execute(sql, parameters)
            self._database.checkpoint_if_due()

    def _forget_identities(self) -> None:
        """Deletes what no stored process is called. To find it takes a while, in which it may come into use again."""
        with self._turns.turn():
            self._used.clear()
        unused = {key for (key,) in self._database.read(UNUSED_IDENTITIES)}
        with self._turns.turn():
            unused -= self._used
            if not unused or self._closing.is_set():
                return
            self._identities_are_certain = False  # until the next write, also where this fails after the commit
            with self._transaction() as connection:
                connection.execute("DELETE FROM identity WHERE identity_key IN (SELECT unnest(?))", [list(unused)])

    def read(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Runs a query on a connection of its own, beside the writer. Raises StoreError."""
        return self.question().read(sql, parameters)

    def question(self, since: int | None = None, until: int | None = None) -> Question:
        """Begins to read for one question, which can be called off.

        Where it asks for what was taken within a window, in milliseconds, it need not look at the files of other times.
        """
        return Question(self._database, self.sealed, since, until)

    def close(self) -> None:
        """Closes the store. Closing twice is harmless."""
        self._closing.set()
        self.maintenance.hurry()
        with self._turns.turn():
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Commits what the block does, or nothing of it.

        Raises:
            BrokenDatabase: All of it or nothing, which is to be looked up.
            StoreError: Nothing of it, and why.
        """
        try:
            with self._database.cursor() as connection:
                connection.begin()
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    # DuckDB may have rolled back by itself: what matters is the error that made it.
                    with suppress(duckdb.Error):
                        connection.rollback()
                    raise
        except duckdb.Error as error:
            kind = UnfitError if isinstance(error, _UNFIT) else StoreError
            raise kind(f"cannot write to the store: {self._database.explain(error)}") from None
        except BrokenDatabase as error:
            raise BrokenDatabase(f"cannot write to the store: {error}") from None

    def _was_stored(self, batch: Batch) -> bool:
        """Looks up whether a batch was committed before DuckDB gave up.

        While the file can not be opened, nobody can tell, and to write the batch again could store it twice. So this
        waits for it, or for the store to be closed. Raises StoreError in that case.
        """
        while True:
            try:
                stored = self.high_water()
            except StoreError:
                self.on_wait()
                if self._closing.wait(_RETRY_SECONDS):
                    raise
            else:
                marks = batch.high_water.items()
                return bool(marks) and all(stored.get(spool, 0) >= sequence for spool, sequence in marks)

    def _read_identities(self) -> None:
        self._identities = {key for (key,) in self.read("SELECT identity_key FROM identity")}
        self._identities_are_certain = True
