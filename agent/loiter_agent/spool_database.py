"""The SQLite database of a spool: how it is opened, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# "loit": says whose file it is (PRAGMA application_id).
_APPLICATION_ID: Final = 0x6C6F6974
_VERSION: Final = 1

_CACHE_KIB: Final = 256
_CHECKPOINT_PAGES: Final = 256
_PAGE_BYTES: Final = 4_096
# What the log grows to before it is moved to the tables.
LOG_BYTES: Final = _CHECKPOINT_PAGES * _PAGE_BYTES

_SCHEMA: Final = (
    # In the order of their making. `first` to `sequence` is what a row stands for: more than one in the case of a loss.
    "CREATE TABLE report (position INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, first INTEGER NOT NULL, "
    "sequence INTEGER NOT NULL, reason INTEGER NOT NULL, boot_id TEXT NOT NULL, since_boot REAL NOT NULL, "
    "taken REAL NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (epoch, sequence))",
    "CREATE INDEX report_by_reason ON report (reason)",
    "CREATE TABLE dropped (reports INTEGER NOT NULL)",
    "INSERT INTO dropped VALUES (0)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)

# SQLite's result codes (sqlite.org/rescode.html) that speak of the disk or of rights, not of what is in the file:
# PERM BUSY LOCKED READONLY IOERR FULL CANTOPEN.
_UNWRITABLE: Final = frozenset((3, 5, 6, 8, 10, 13, 14))
# Those of IOERR that say that the file can not be read: READ SHORT_READ DATA CORRUPTFS.
_UNREADABLE: Final = frozenset((266, 522, 8202, 8458))


class Corrupt(Exception):
    """The file is no spool, or not a whole one."""


class LaterVersion(Corrupt):
    """The file is sound, but only a later agent can read it: to this one, it is as good as corrupt."""

    def __init__(self, version: int) -> None:
        """Takes the version of the file."""
        super().__init__(f"it is of version {version}, and this agent knows none later than {_VERSION}")
        self.version = version


class Unwritable(OSError):
    """The disk does not take what is written, or may not be written to."""


def open_database(path: Path | None) -> sqlite3.Connection:
    """Opens the database of a file, or makes it; None for memory. Raises Corrupt or Unwritable."""
    with translated():
        db = _connect(path)
        try:
            _prepare(db)
        except BaseException:
            db.close()
            raise
        return db


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is None:
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:  # SQLite would make a file that everybody may read; its other files get the mode of this one
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(file, 0o600)
        finally:
            os.close(file)
    except OSError as error:
        raise Unwritable(error.strerror) from None
    return sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)


def _prepare(db: sqlite3.Connection) -> None:
    """Sets how the file is used, and makes the tables of a new one."""
    # Nobody else reads the file: without a shared index in memory, which needs a file of its own.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA secure_delete = OFF")  # some distributions have what is deleted written over
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}").fetchall()
    db.execute(f"PRAGMA journal_size_limit = {4 * LOG_BYTES}").fetchall()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if (application, version) == (_APPLICATION_ID, _VERSION):
        return
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == _APPLICATION_ID and version > _VERSION:
        raise LaterVersion(version)
    if tables or version or application:
        raise Corrupt("the file is no spool")
    db.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        db.execute(statement)
    db.execute("COMMIT")


@contextmanager
def translated() -> Iterator[None]:
    """Says of an error of SQLite whether the file or the disk is at fault. Misuse stays what it is."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in _UNWRITABLE and code not in _UNREADABLE:
            raise Unwritable(str(error)) from error
        raise Corrupt(str(error)) from error
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        # A column holds what was never put there: in SQLite, a value has the type that the file says.
        raise Corrupt(f"{type(error).__name__}: {error}") from error
