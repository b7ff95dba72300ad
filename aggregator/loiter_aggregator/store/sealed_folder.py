"""The folder of the sealed files: files are made whole, and deleted once nobody reads them any more."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from loiter.logs import fields
from loiter_aggregator.store.manifest import SealedFile

_log = logging.getLogger(__name__)

_SUFFIX: Final = ".parquet"
_TEMPORARY: Final = ".part"


class SealedFolder:
    """The folder. Any thread may read; one at a time makes and deletes files."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder, which is made when there is something to put into it."""
        self.path = folder
        # Files of the list that are gone or not whole: questions are answered without them, and that is said.
        self.missing: frozenset[str] = frozenset()
        self._guard = threading.Lock()
        self._moments = itertools.count()
        self._reading: set[int] = set()
        self._doomed: list[tuple[int, str]] = []

    def settle(self, listed: Iterable[SealedFile]) -> None:
        """Deletes files that are not on the list, as a crash leaves them, and looks for those that are.

        Raises OSError.
        """
        known = {one.file: one for one in listed}
        for path in self._files():
            if path.name not in known:
                path.unlink(missing_ok=True)
        self.look_for(known.values())

    def look_for(self, listed: Iterable[SealedFile]) -> bool:
        """Looks which files of the list are there and as long as they were. Returns whether more are missing."""
        missing = frozenset(one.file for one in listed if self._size(one.file) != one.bytes)
        more = missing - self.missing
        for name in sorted(more):
            said = "is not there" if self._size(name) is None else "is not as long as it was"
            _log.error(
                "%s %s: its rows are lost to all questions. Put it back from a backup and restart; otherwise it is "
                "forgotten when its time comes",
                self.path / name,
                said,
                extra=fields(file=self.path / name),
            )
        self.missing = missing
        return bool(more)

    def temporary(self, name: str) -> Path:
        """Where to write a file before it has its name. Raises OSError."""
        self.path.mkdir(exist_ok=True)
        return self.path / (name + _TEMPORARY)

    def keep(self, name: str) -> int:
        """Gives a file that was written its name; from then on, it survives a crash. Returns its size in bytes.

        Raises OSError.
        """
        temporary = self.temporary(name)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
            size = os.fstat(stream.fileno()).st_size
        temporary.rename(self.path / name)
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return size

    def give_up(self, name: str) -> None:
        """Deletes a file that is not on the list."""
        for path in (self.path / (name + _TEMPORARY), self.path / name):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def doom(self, names: Iterable[str]) -> None:
        """Deletes files that are not on the list any more, once those who may have read the list before are through."""
        with self._guard:
            self._doomed += [(next(self._moments), name) for name in names]
        self._delete_doomed()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keeps the files of the list as it is now for the block."""
        with self._guard:
            moment = next(self._moments)
            self._reading.add(moment)
        try:
            yield
        finally:
            with self._guard:
                self._reading.discard(moment)
                idle = not self._doomed
            if not idle:
                self._delete_doomed()

    def _delete_doomed(self) -> None:
        with self._guard:
            oldest = min(self._reading, default=None)
            free = [name for moment, name in self._doomed if oldest is None or moment < oldest]
            self._doomed = [(moment, name) for moment, name in self._doomed if name not in free]
        for name in free:
            self.give_up(name)

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        return [path for path in self.path.iterdir() if path.name.endswith((_SUFFIX, _SUFFIX + _TEMPORARY))]

    def _size(self, name: str) -> int | None:
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return None
