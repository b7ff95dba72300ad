"""What became of each scheduled report, kept across restarts in a database of its own (SQLite).

A run is one report that was due: it is recorded, under its schedule and the time it was due, before it is built, and
there is never a second one of that time. With a report that was built, its deliveries are recorded, and with each
delivery every try, before it is made. Whatever a method has returned from survives a crash.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from loiter_aggregator.reports.due import Plan

FILE: Final = "reports.sqlite3"
_KEPT_RUNS: Final = 1_000
# With those that are still on their way: of a report that is due every minute, those of a day, and half as many again.
_MOST_RUNS: Final = 2_200
_MAX_ERROR_CHARS: Final = 500

RunState = Literal["due", "built", "failed", "missed"]
DeliveryState = Literal["waiting", "sending", "delivered", "failed"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS installation (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS schedule (name TEXT PRIMARY KEY, timing TEXT NOT NULL, looked INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY AUTOINCREMENT, schedule TEXT NOT NULL, due INTEGER NOT NULL, state TEXT NOT NULL,
    built INTEGER, next_try INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', title TEXT NOT NULL DEFAULT '',
    report BLOB, UNIQUE (schedule, due));
CREATE TABLE IF NOT EXISTS delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, target TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_try INTEGER NOT NULL DEFAULT 0, delivered INTEGER,
    error TEXT NOT NULL DEFAULT '', UNIQUE (run, target));
CREATE TABLE IF NOT EXISTS attempt (
    delivery INTEGER NOT NULL REFERENCES delivery ON DELETE CASCADE, time INTEGER NOT NULL, error TEXT);
CREATE INDEX IF NOT EXISTS delivery_state ON delivery (state);
CREATE INDEX IF NOT EXISTS attempt_delivery ON attempt (delivery);
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One report that was due. Times are in milliseconds since the epoch."""

    id: int
    schedule: str
    due: int
    state: RunState
    built: int | None
    next_try: int
    error: str
    title: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A report on its way to one target."""

    id: int
    run: int
    target: str
    state: DeliveryState
    attempts: int
    next_try: int
    delivered: int | None
    error: str


_IS_NOT_OPEN: Final = """
    NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.run = run.id AND delivery.state IN ('waiting', 'sending'))"""
_IS_NOT_LAST: Final = """
    run.id IS NOT (SELECT max(arrived.id) FROM delivery JOIN run AS arrived ON arrived.id = delivery.run
        WHERE arrived.schedule = ?1 AND delivery.state = 'delivered')"""
_RUN: Final = "id, schedule, due, state, built, next_try, error, title"
_DELIVERY: Final = "id, run, target, state, attempts, next_try, delivered, error"


class ReportState:
    """The database. Its methods block, may be called from any thread, and raise sqlite3.Error."""

    def __init__(self, folder: Path) -> None:
        """Opens it, or makes it. What was being sent when the program ended is to be sent again."""
        file = folder / FILE
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self._lock = threading.Lock()
        self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)
        with self._change() as database:
            if database.execute("SELECT 1 FROM installation").fetchone() is None:
                database.execute("INSERT INTO installation VALUES (?)", (secrets.token_hex(8),))
            database.execute("UPDATE delivery SET state = 'waiting', next_try = 0 WHERE state = 'sending'")
            self.installation: str = database.execute("SELECT id FROM installation").fetchone()[0]

    def close(self) -> None:
        """Closes it."""
        with self._lock:
            self._database.close()

    def note_due(self, schedule: str, timing: str, now: int, plan: Callable[[int], Plan]) -> bool:
        """Records what was due of a schedule since it was last looked at, and returns whether anything is to be built.

        A schedule that is new, or that has another timing than before, begins now. Where the clock was set back,
        what was recorded stays, and what comes due anew is recorded once.
        """
        with self._change() as database:
            row = database.execute("SELECT timing, looked FROM schedule WHERE name = ?", (schedule,)).fetchone()
            looked = now if row is None or row[0] != timing else min(row[1], now)
            found = plan(looked)
            if row is not None and row == (timing, looked) and found == Plan(None, ()):
                return False  # nothing to write
            database.executemany(
                "INSERT INTO run (schedule, due, state) VALUES (?, ?, 'missed') ON CONFLICT DO NOTHING",
                [(schedule, due) for due in found.missed],
            )
            claimed = found.run is not None and self._claim(database, schedule, found.run)
            # With nothing due there is nothing to remember of the time in between, but for a clock that was set back.
            reached = now if found != Plan(None, ()) else looked
            database.execute("INSERT OR REPLACE INTO schedule VALUES (?, ?, ?)", (schedule, timing, reached))
            self._prune(database, schedule)
            return claimed

    @staticmethod
    def _claim(database: sqlite3.Connection, schedule: str, due: int) -> bool:
        claimed = database.execute(
            "INSERT INTO run (schedule, due, state) VALUES (?, ?, 'due') "
            # Missed while the clock was ahead, and now it comes due.
            "ON CONFLICT DO UPDATE SET state = 'due' WHERE state = 'missed'",
            (schedule, due),
        )
        return claimed.rowcount > 0

    @staticmethod
    def _prune(database: sqlite3.Connection, schedule: str) -> None:
        # What it says is needed of those on their way, and of the last that arrived: the next is compared with that.
        outnumbered = f"""
            DELETE FROM run WHERE schedule = ?1 AND {_IS_NOT_LAST} AND id <= (
                SELECT id FROM run WHERE schedule = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)"""  # noqa: S608 - ours
        database.execute(f"{outnumbered} AND {_IS_NOT_OPEN}", (schedule, _KEPT_RUNS))
        database.execute(outnumbered, (schedule, _MOST_RUNS))
        database.execute(
            f"""
            UPDATE run SET report = NULL
            WHERE schedule = ?1 AND report IS NOT NULL AND {_IS_NOT_LAST} AND {_IS_NOT_OPEN}""",  # noqa: S608 - ours
            (schedule,),
        )

    def runs_to_build(self) -> list[Run]:
        """What is recorded and not built, oldest first."""
        return self._runs("WHERE state = 'due' ORDER BY id")

    def latest_runs(self, limit: int) -> list[Run]:
        """The latest runs of all schedules, latest first."""
        return self._runs("ORDER BY due DESC, id DESC LIMIT ?", limit)

    def _runs(self, which: str, *values: int) -> list[Run]:
        return [Run(*row) for row in self._read(f"SELECT {_RUN} FROM run {which}", *values)]  # noqa: S608 - ours

    def built(self, run: int, now: int, title: str, report: bytes, targets: Sequence[str]) -> None:
        """Records a report that was built, and that it is to be delivered."""
        with self._change() as database:
            database.execute(
                "UPDATE run SET state = 'built', built = ?, title = ?, report = ?, error = '' WHERE id = ?",
                (now, title, report, run),
            )
            database.executemany(
                "INSERT INTO delivery (run, target, state) VALUES (?, ?, 'waiting') ON CONFLICT DO NOTHING",
                [(run, target) for target in targets],
            )

    def not_built(self, run: int, error: str, next_try: int | None) -> None:
        """Records why a report could not be built, and when that is tried again; never, where None."""
        with self._change() as database:
            database.execute(
                "UPDATE run SET state = ?, next_try = ?, error = ? WHERE id = ?",
                ("failed" if next_try is None else "due", next_try or 0, error[:_MAX_ERROR_CHARS], run),
            )

    def report(self, run: int) -> bytes | None:
        """The report of a run, as long as it is kept."""
        row = self._read("SELECT report FROM run WHERE id = ?", run)
        return row[0][0] if row else None

    def last_delivered(self, schedule: str, before: int | None = None) -> bytes | None:
        """The last report of a schedule that arrived anywhere; of those recorded before a run, where one is given."""
        rows = self._read(
            "SELECT report FROM run WHERE schedule = ? AND id < ? AND report IS NOT NULL AND EXISTS "
            "(SELECT 1 FROM delivery WHERE run = run.id AND delivery.state = 'delivered') ORDER BY id DESC LIMIT 1",
            schedule,
            2**62 if before is None else before,
        )
        return rows[0][0] if rows else None

    def open_deliveries(self) -> list[tuple[Delivery, Run]]:
        """What is still to be delivered, oldest first."""
        rows = self._read(
            f"SELECT {_columns('delivery', _DELIVERY)}, {_columns('run', _RUN)} FROM delivery "  # noqa: S608 - ours
            "JOIN run ON run.id = delivery.run WHERE delivery.state = 'waiting' ORDER BY delivery.id"
        )
        of_delivery = len(_DELIVERY.split(","))
        return [(Delivery(*row[:of_delivery]), Run(*row[of_delivery:])) for row in rows]

    def deliveries(self, run: int) -> list[Delivery]:
        """Where a report goes."""
        rows = self._read(f"SELECT {_DELIVERY} FROM delivery WHERE run = ? ORDER BY id", run)  # noqa: S608 - ours
        return [Delivery(*row) for row in rows]

    def sending(self, delivery: int, now: int) -> int:
        """Records a try, before it is made. Returns when the first was made."""
        with self._change() as database:
            database.execute("INSERT INTO attempt VALUES (?, ?, NULL)", (delivery, now))
            database.execute("UPDATE delivery SET state = 'sending', attempts = attempts + 1 WHERE id = ?", (delivery,))
            first = database.execute("SELECT time FROM attempt WHERE delivery = ? ORDER BY rowid LIMIT 1", (delivery,))
            return int(first.fetchone()[0])

    def delivered(self, delivery: int, now: int) -> None:
        """Records that a report has arrived."""
        with self._change() as database:
            database.execute(
                "UPDATE delivery SET state = 'delivered', delivered = ?, error = '' WHERE id = ?", (now, delivery)
            )

    def not_delivered(self, delivery: int, error: str, next_try: int | None) -> None:
        """Records why a try failed, and when the next is; there is none, where None."""
        with self._change() as database:
            database.execute(
                "UPDATE attempt SET error = ? WHERE rowid = (SELECT max(rowid) FROM attempt WHERE delivery = ?)",
                (error[:_MAX_ERROR_CHARS], delivery),
            )
            database.execute(
                "UPDATE delivery SET state = ?, next_try = ?, error = ? WHERE id = ?",
                ("failed" if next_try is None else "waiting", next_try or 0, error[:_MAX_ERROR_CHARS], delivery),
            )

    def attempts(self, delivery: int) -> list[tuple[int, str | None]]:
        """The tries of a delivery, oldest first: when, and why it failed."""
        return [
            (row[0], row[1])
            for row in self._read("SELECT time, error FROM attempt WHERE delivery = ? ORDER BY rowid", delivery)
        ]

    def _read(self, statement: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
        with self._lock:
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise


def _columns(table: str, names: str) -> str:
    return ", ".join(f"{table}.{name.strip()}" for name in names.split(","))
