"""Files that decide who gets in: by one writer at a time, and read again when they change."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LOOK_EVERY_SECONDS: Final = 1.0

# What tells one content of a file from the next: a file that is replaced has another inode, one that is written in
# place another time or size. None stands for a file that is missing or can not be looked at.
Stamp = tuple[int, int, int, int] | None


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keeps other writers of a file waiting. The lock is a file beside it: the file itself is replaced.

    Raises OSError, also where the lock is a symbolic link: in a folder of the service it could lead root anywhere.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(file.with_name(f".{file.name}.lock"), flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def stamp(file: Path) -> Stamp:
    """Looks at a file without reading it."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_ctime_ns


class Watch:
    """Tells when one of some files has changed, looking once a second at most."""

    def __init__(self, files: Sequence[Path], monotonic: Callable[[], float]) -> None:
        """Takes them as they are now."""
        self._files = tuple(files)
        self._monotonic = monotonic
        self._looked = monotonic()
        self._stamps = self._look()

    def changed(self, *, at_once: bool = False) -> bool:
        """Whether one has changed since this was last true. `at_once` looks although the second is not over."""
        now = self._monotonic()
        if now - self._looked < _LOOK_EVERY_SECONDS and not at_once:
            return False
        self._looked = now
        before, self._stamps = self._stamps, self._look()
        return self._stamps != before

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(stamp(file) for file in self._files)
