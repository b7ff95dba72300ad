"""Records what was due of a schedule, in the tables of `schema`: each time once, however the clock is set.

Where a clock that was ahead had a report built before its time, it is built again, as another edition, when that time
comes. What tells is how long ago it was built: by the clock as it is now, that was too early.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from loiter.durations import format_duration
from loiter_aggregator.reports.due import Plan
from loiter_aggregator.reports.uptime import Uptime, by_clock_of_now

_KEPT_RUNS: Final = 1_000
# With those that are still on their way: of a report that is due every minute, those of a day, and half as many again.
_MOST_RUNS: Final = 2_200
# Clocks are put right by seconds all the time: a report that was built so much before its time is of that time.
EARLY_MS: Final = 60_000
_SUPERSEDED: Final = "not sent any more: a report of the same time, built when that had come, takes its place"

_IS_NOT_OPEN: Final = """
    NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.run = run.id AND delivery.state IN ('waiting', 'sending'))"""
# The last whose time has come: what was sent before its time will be built again.
_IS_NOT_LAST: Final = """
    run.id IS NOT (SELECT max(arrived.id) FROM delivery JOIN run AS arrived ON arrived.id = delivery.run
        WHERE arrived.schedule = ?1 AND delivery.state = 'delivered' AND arrived.due <= ?2 AND NOT EXISTS (
            SELECT 1 FROM run AS again WHERE again.schedule = ?1 AND again.due = arrived.due
            AND again.edition > arrived.edition))"""


@dataclass(frozen=True, slots=True)
class Now:
    """What time it is: by the wall clock (milliseconds since the epoch), and by the one that is never set."""

    wall: int
    up: Uptime


def note_due(database: sqlite3.Connection, schedule: str, timing: str, now: Now, plan: Callable[[int], Plan]) -> None:
    """Records what was due since it was last looked, within a transaction.

    `plan` says what to do about what was due after a time. Raises sqlite3.Error.
    """
    row = database.execute("SELECT timing, looked FROM schedule WHERE name = ?", (schedule,)).fetchone()
    looked = now.wall if row is None or row[0] != timing else _looked(database, schedule, row[1], now.wall)
    found = plan(looked)
    if row is not None and row == (timing, looked) and found == Plan(None, ()):
        return  # nothing to write
    for due in found.missed:
        _miss(database, schedule, due, now.wall)
    claimed = found.run is not None and _claim(database, schedule, found.run, now)
    # With nothing due there is nothing to remember of the time in between, but for a clock that was set back.
    reached = now.wall if found != Plan(None, ()) else looked
    database.execute("INSERT OR REPLACE INTO schedule VALUES (?, ?, ?)", (schedule, timing, reached))
    if claimed:
        _prune(database, schedule, now.wall)


def _claim(database: sqlite3.Connection, schedule: str, due: int, now: Now) -> bool:
    """Records that a report is to be built; False where that is recorded, or it was built at its time."""
    row = database.execute(
        "SELECT id, edition, state, built, boot, uptime FROM run WHERE schedule = ? AND due = ? "
        "ORDER BY edition DESC LIMIT 1",
        (schedule, due),
    ).fetchone()
    if row is None:
        database.execute("INSERT INTO run (schedule, due, state) VALUES (?, ?, 'due')", (schedule, due))
        return True
    run, edition, state, built, boot, up = row
    if state in ("missed", "failed"):  # while the clock was ahead, and now it comes due
        database.execute("UPDATE run SET state = 'due', next_try = 0, error = '' WHERE id = ?", (run,))
        return True
    if state != "built":
        return False
    early = due - by_clock_of_now(built, None if boot is None else Uptime(boot, up), now.wall, now.up)
    if early <= EARLY_MS:
        return False
    ago = format_duration(early // 60_000 * 60)
    why = f"built {ago} before its time, by a clock that was ahead; built again when that had come"
    database.execute("UPDATE run SET error = ? WHERE id = ?", (why, run))
    database.execute(
        "INSERT INTO run (schedule, due, edition, state) VALUES (?, ?, ?, 'due')", (schedule, due, edition + 1)
    )
    end_superseded(database)
    return True


def end_superseded(database: sqlite3.Connection) -> None:
    """Gives up what waits to be sent of reports that were built again, also where it was being sent meanwhile."""
    database.execute(
        """
        UPDATE delivery SET state = 'failed', error = ? WHERE state = 'waiting' AND EXISTS (
            SELECT 1 FROM run JOIN run AS again USING (schedule, due)
            WHERE run.id = delivery.run AND again.edition > run.edition)""",
        (_SUPERSEDED,),
    )


def _looked(database: sqlite3.Connection, schedule: str, looked: int, now: int) -> int:
    """Until when what was due is recorded, by the clock as it is now.

    A clock that was ahead passed over what was due meanwhile. Where it is set back to before what it came to, all that
    is recorded is looked at again: the latest of it is late, unless it was built.
    """
    if looked <= now:
        return looked
    first, last = database.execute("SELECT min(due), max(due) FROM run WHERE schedule = ?", (schedule,)).fetchone()
    return first - 1 if first is not None and first <= now < last else now


def _miss(database: sqlite3.Connection, schedule: str, due: int, now: int) -> None:
    """Records that a report was missed. None is before one that was built: there the clock was back for a while."""
    database.execute(
        """
        INSERT INTO run (schedule, due, state) SELECT ?1, ?2, 'missed' WHERE NOT EXISTS (
            SELECT 1 FROM run WHERE schedule = ?1 AND (due = ?2 OR due > ?2 AND built <= ?3))""",
        (schedule, due, now),
    )


def _prune(database: sqlite3.Connection, schedule: str, now: int) -> None:
    # What it says is needed of those on their way, and of the last that arrived: the next is compared with that.
    outnumbered = f"""
        DELETE FROM run WHERE schedule = ?1 AND {_IS_NOT_LAST} AND id <= (
            SELECT id FROM run WHERE schedule = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?3)"""  # noqa: S608 - ours
    database.execute(f"{outnumbered} AND {_IS_NOT_OPEN}", (schedule, now, _KEPT_RUNS))
    database.execute(outnumbered, (schedule, now, _MOST_RUNS))
    database.execute(
        f"""
        UPDATE run SET report = NULL
        WHERE schedule = ?1 AND report IS NOT NULL AND {_IS_NOT_LAST} AND {_IS_NOT_OPEN}""",  # noqa: S608 - ours
        (schedule, now),
    )
