"""Runs programs of this machine, and keeps concurrent runs of the lab from each other."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")


class LabError(Exception):
    """The lab could not do what it was told. The message says what, and what was printed."""


def here(*command: str | Path, check: bool = True, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs a program of this machine to its end. Raises LabError where it fails and `check` is set."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def lab_folder() -> Path:
    """Where templates and what belongs to running hosts are kept: LOITER_LAB_DIR, or a folder of caches."""
    if given := os.environ.get("LOITER_LAB_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()) / "loiter-lab"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Holds a lock that one process at a time can have (flock(2)). It ends with the process, however that ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def wait_for(condition: Callable[[], Answer], seconds: float, what: Callable[[], str] | str) -> Answer:
    """Asks again and again until the answer is true, and returns it. Raises LabError when the time is over."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise LabError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)
    return answer
