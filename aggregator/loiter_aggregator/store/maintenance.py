"""What is done with rows that are stored: rolling, sealing, forgetting. One at a time, and beside those who write.

Each step is one transaction. Whatever ends it leaves the store as it was before the step or as it is after it, and the
next run goes on from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Final

import duckdb

from loiter_aggregator.store.database import BrokenDatabase, Database, StoreError
from loiter_aggregator.store.forgetting import drop_old_files, note_forgotten, take_back
from loiter_aggregator.store.levels import KINDS, Level
from loiter_aggregator.store.manifest import SealedFile
from loiter_aggregator.store.rolling import roll_buckets
from loiter_aggregator.store.sealed_folder import SealedFolder
from loiter_aggregator.store.sealing import SLICE_ROWS, Step, due_merges, due_parts, merge, seal
from loiter_aggregator.store.turns import Turns

# What is deleted at once, as nothing can be written meanwhile: about a second's worth.
_SLICE_ROWS: Final = 500_000
_MINUTE_MS: Final = 60_000

Begin = Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]]


class _GivesWay(Exception):
    """Somebody waits for what takes long."""


class Maintenance:
    """Does it. Any thread may ask for it; who asks while another is at it waits for its step."""

    def __init__(
        self, database: Database, begin: Begin, turns: Turns, folder: SealedFolder, closing: threading.Event
    ) -> None:
        """Takes what to do it on, and how to begin a transaction."""
        self._database = database
        self._begin = begin
        self._turns = turns
        self._folder = folder
        self._closing = closing
        self._wanted = threading.Event()
        self._slow: duckdb.DuckDBPyConnection | None = None
        self.slice_rows = SLICE_ROWS
        # Is told of each step within a transaction, by a name: tests end the process there.
        self.on_step: Step = _go_on

    def hurry(self) -> None:
        """Interrupts what takes long, for whoever said that it is in the way."""
        slow = self._slow
        if slow is not None:
            with suppress(duckdb.Error):  # it has just ended
                slow.interrupt()

    def roll(self, until: int) -> bool:
        """Rolls the next buckets that end by a time, in milliseconds. Returns whether there were any.

        Raises StoreError.
        """
        if self._closing.is_set():
            return False
        with self._turns.rolling(until), self._begin() as connection:
            level = roll_buckets(connection, until)
            self.on_step(f"{level.name} rolled" if level else "nothing rolled")
        self._database.checkpoint_if_due()
        return level is not None

    def seal(self, before: int, now: int) -> int:
        """Seals what was taken before a time, as far as it is rolled, and merges small files. Times in milliseconds.

        Returns how many files were made. Raises StoreError: what was sealed by then is sealed.
        """
        made = 0
        with self._database.cursor() as connection:
            parts = due_parts(connection, before, now)
        for part in parts:
            made += len(self._make_files(partial(seal, part, self.slice_rows, self._folder, now, self.on_step)))
        return made + self._merge(now)

    def _merge(self, now: int) -> int:
        if self._closing.is_set():
            return 0
        made = 0
        with self._database.cursor() as connection:
            merges = due_merges(connection, self.slice_rows, self._folder)
        for old in merges:
            files = self._make_files(partial(merge, old, self._folder, now, self.on_step))
            if files:
                self._delete(old)
            made += len(files)
        return made

    def forget_files(self, before: Mapping[Level, int]) -> bool:
        """Deletes the sealed files that are wholly older than the time of their level. Returns whether there were any.

        Raises StoreError.
        """
        with self._turns.job, self._begin() as connection:
            note_forgotten(connection, before)
            files = drop_old_files(connection, before)
            self.on_step("files off the list")
        self._delete(files)
        return bool(files)

    def take_back(self, after: int, until: int) -> None:
        """Deletes samples and losses of later than `after`, up to `until`, from all levels. Raises StoreError."""
        self._wanted.set()
        self.hurry()
        with self._turns.job, self._turns.turn_for_all():
            self._wanted.clear()
            with self._begin() as connection:
                files = take_back(connection, after, until, self._folder)
                self.on_step("taken back")
            self._delete(files)

    def forget_rows(self, level: Level, time: int) -> bool:
        """Deletes the rows of a level that are wholly older than a time, step by step. Returns whether there were any.

        Raises StoreError.
        """
        slices = self._row_slices(level, time)
        for end in slices:
            with self._turns.job, self._turns.turn():
                if self._closing.is_set():
                    break
                with self._begin() as connection:
                    for kind in KINDS:
                        connection.execute(f"DELETE FROM {level.table(kind)} WHERE {level.time} < ?", [end])
                    self.on_step("rows forgotten")
                self._database.checkpoint_if_due()
        return bool(slices)

    def _row_slices(self, level: Level, time: int) -> list[int]:
        """The times up to which to delete one after the other, so that each step is of some rows and not of all."""
        tables = " UNION ALL ".join(
            f"SELECT {level.time} AS time FROM {level.table(kind)} WHERE {level.time} < $end" for kind in KINDS
        )
        end = time - level.width + 1 if level.width else time
        rows = self._database.read(
            f"""
                SELECT max(minute) FROM (
                    SELECT minute, sum(rows) OVER (ORDER BY minute) // $slice_rows AS slice FROM (
                        SELECT time // $minute_ms AS minute, count(*) AS rows FROM ({tables}) AS old
                        GROUP BY minute) AS minutes) AS sliced
                GROUP BY slice ORDER BY slice""",
            {"end": end, "minute_ms": _MINUTE_MS, "slice_rows": _SLICE_ROWS},
        )
        return [min((minute + 1) * _MINUTE_MS, end) for (minute,) in rows]

    def _make_files(self, make: Callable[[duckdb.DuckDBPyConnection], Iterable[str]]) -> list[str]:
        """Has files made in one transaction, and returns them; none where that is in somebody's way.

        Then it is begun again another time. Where it fails, the files are given up. Raises StoreError.
        """
        with self._turns.job:
            files: list[str] = []
            try:
                with self._begin() as connection, self._slowly(connection):
                    for file in make(connection):
                        files.append(file)
                        if self._is_in_the_way():
                            raise _GivesWay
            except BrokenDatabase:
                raise  # the files may be on the list: the next start knows
            except (_GivesWay, StoreError, OSError) as error:
                for file in files:
                    self._folder.give_up(file)
                if self._is_in_the_way():
                    return []
                said = f"{self._folder.path}: {error.strerror}" if isinstance(error, OSError) else error
                raise StoreError(f"cannot seal what is old: {said}") from None
        self._database.checkpoint_if_due()
        return files

    @contextmanager
    def _slowly(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        self._slow = connection
        try:
            yield
        finally:
            self._slow = None

    def _is_in_the_way(self) -> bool:
        return self._closing.is_set() or self._wanted.is_set()

    def _delete(self, files: Iterable[SealedFile]) -> None:
        self.on_step("files to be deleted")
        self._folder.doom(one.file for one in files)
        self.on_step("files deleted")


def _go_on(step: str) -> None:
    """Does nothing at a step."""
