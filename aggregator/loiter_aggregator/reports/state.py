"""What became of each scheduled report, kept across restarts in a database of its own (SQLite).

A run is one report that was due: it is recorded, under its schedule and the time it was due, before it is built, and
there is no second one of that time, but for one: where a clock that was ahead had a report built before its time, it is
built again, as another edition, when that time comes. With a report that was built, its deliveries are recorded, and
with each delivery every try, before it is made. Whatever a method has returned from survives a crash.
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
from loiter_aggregator.reports.noting import Now, end_superseded, note_due
from loiter_aggregator.reports.schema import CREATE
from loiter_aggregator.reports.uptime import Uptime, uptime

FILE: Final = "reports.sqlite3"
_MAX_ERROR_CHARS: Final = 500
_EVER: Final = 2**62

RunState = Literal["due", "built", "failed", "missed"]
DeliveryState = Literal["waiting", "sending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class Run:
    """One report that was due. Times are in milliseconds since the epoch.

    `edition` is 0, and more where it was built before, too early by the clock.
    """

    id: int
    schedule: str
    due: int
    edition: int
    state: RunState
    built: int | None
    next_try: int
    error: str
    title: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A report on its way to one target. `tried` is when it was last, by the clock of then; None where it never was."""

    id: int
    run: int
    target: str
    state: DeliveryState
    attempts: int
    next_try: int
    delivered: int | None
    error: str
    tried: int | None


_RUN: Final = "run.id, schedule, due, edition, run.state, built, run.next_try, run.error, title"
_DELIVERY: Final = (
    "delivery.id, run, target, delivery.state, attempts, delivery.next_try, delivered, delivery.error, "
    "(SELECT time FROM attempt WHERE attempt.delivery = delivery.id ORDER BY rowid DESC LIMIT 1)"
)


class ReportState:
    """The database. Its methods block, may be called from any thread, and raise sqlite3.Error."""

    def __init__(self, folder: Path, read_uptime: Callable[[], Uptime] | None = None) -> None:
        """Opens it, or makes it. What was being sent when the program ended is to be sent again."""
        self._uptime = read_uptime or uptime
        file = folder / FILE
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self._lock = threading.Lock()
        self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "foreign_keys = ON"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(CREATE)
        with self._change() as database:
            if database.execute("SELECT 1 FROM installation").fetchone() is None:
                database.execute("INSERT INTO installation VALUES (?)", (secrets.token_hex(8),))
            database.execute("UPDATE delivery SET state = 'waiting', next_try = 0 WHERE state = 'sending'")
            end_superseded(database)
            self.installation: str = database.execute("SELECT id FROM installation").fetchone()[0]

    def close(self) -> None:
        """Closes it."""
        with self._lock:
            self._database.close()

    def note_due(self, schedule: str, timing: str, now: int, plan: Callable[[int], Plan]) -> None:
        """Records what was due of a schedule since it was last looked at.

        A schedule that is new, or that has another timing than before, begins now.
        """
        with self._change() as database:
            note_due(database, schedule, timing, Now(now, self._uptime()), plan)

    def runs_to_build(self, now: int) -> list[Run]:
        """What is recorded and not built, oldest first; not what has yet to come, since the clock was set back."""
        return self._runs("WHERE state = 'due' AND due <= ? ORDER BY id", now)

    def latest_runs(self, limit: int, now: int) -> list[Run]:
        """The latest runs of all schedules, latest first; what was recorded by a clock that was ahead at its own time.

        What is yet to come is not among them, unless it was built.
        """
        up = self._uptime()
        return self._runs(
            "WHERE due <= ?1 OR built IS NOT NULL "
            "ORDER BY min(due, CASE WHEN boot = ?2 THEN ?1 - ?3 + uptime ELSE due END) DESC, id DESC LIMIT ?4",
            *(now, up.boot, up.milliseconds, limit),
        )

    def _runs(self, which: str, *values: int | str) -> list[Run]:
        return [Run(*row) for row in self._read(f"SELECT {_RUN} FROM run {which}", *values)]  # noqa: S608 - ours

    def built(self, run: int, now: int, title: str, report: bytes, targets: Sequence[str]) -> None:
        """Records a report that was built, and that it is to be delivered."""
        up = self._uptime()
        with self._change() as database:
            database.execute(
                "UPDATE run SET state = 'built', built = ?, boot = ?, uptime = ?, title = ?, report = ?, error = '' "
                "WHERE id = ?",
                (now, up.boot, up.milliseconds, title, report, run),
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

    def last_delivered(self, schedule: str, now: int, before: Run | None = None) -> bytes | None:
        """The last report of a schedule that arrived anywhere; of those before a run, where one is given.

        One of a time that is yet to come is of a clock that was ahead, and none to compare with.
        """
        rows = self._read(
            "SELECT report FROM run WHERE schedule = ? AND id < ? AND due < ? AND built <= ? AND report IS NOT NULL "
            "AND EXISTS (SELECT 1 FROM delivery WHERE run = run.id AND delivery.state = 'delivered') "
            "ORDER BY id DESC LIMIT 1",
            schedule,
            _EVER if before is None else before.id,
            _EVER if before is None else before.due,
            now,
        )
        return rows[0][0] if rows else None

    def open_deliveries(self) -> list[tuple[Delivery, Run]]:
        """What is still to be delivered, oldest first."""
        rows = self._read(
            f"SELECT {_DELIVERY}, {_RUN} FROM delivery "  # noqa: S608 - ours
            "JOIN run ON run.id = delivery.run WHERE delivery.state = 'waiting' ORDER BY delivery.id"
        )
        of_delivery = len(_DELIVERY.split(","))
        return [(Delivery(*row[:of_delivery]), Run(*row[of_delivery:])) for row in rows]

    def deliveries(self, run: int) -> list[Delivery]:
        """Where a report goes."""
        rows = self._read(f"SELECT {_DELIVERY} FROM delivery WHERE run = ? ORDER BY id", run)  # noqa: S608 - ours
        return [Delivery(*row) for row in rows]

    def sending(self, delivery: int, now: int) -> int:
        """Records a try, before it is made. Returns when the first was made: by a clock that was ahead, it is later."""
        with self._change() as database:
            database.execute("INSERT INTO attempt VALUES (?, ?, NULL)", (delivery, now))
            database.execute("UPDATE delivery SET state = 'sending', attempts = attempts + 1 WHERE id = ?", (delivery,))
            first = database.execute("SELECT min(time) FROM attempt WHERE delivery = ?", (delivery,))
            return int(first.fetchone()[0])

    def delivered(self, delivery: int, now: int) -> None:
        """Records that a report has arrived."""
        with self._change() as database:
            database.execute(
                "UPDATE delivery SET state = 'delivered', delivered = ?, error = '' WHERE id = ?", (now, delivery)
            )

    def not_delivered(self, delivery: int, error: str, next_try: int | None) -> None:
        """Records why a try failed, and when the next is; there is none, where None, or the report was built again."""
        with self._change() as database:
            database.execute(
                "UPDATE attempt SET error = ? WHERE rowid = (SELECT max(rowid) FROM attempt WHERE delivery = ?)",
                (error[:_MAX_ERROR_CHARS], delivery),
            )
            database.execute(
                "UPDATE delivery SET state = ?, next_try = ?, error = ? WHERE id = ?",
                ("failed" if next_try is None else "waiting", next_try or 0, error[:_MAX_ERROR_CHARS], delivery),
            )
            end_superseded(database)

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
