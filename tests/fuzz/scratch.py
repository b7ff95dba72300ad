"""A folder for what a target has to write: in memory where that can be had, and gone when the process ends."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

_SHARED_MEMORY: Final = Path("/dev/shm")


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Makes a folder that is removed with the object; TMPDIR says where, if it is set."""
    in_memory = _SHARED_MEMORY.is_dir() and "TMPDIR" not in os.environ
    return tempfile.TemporaryDirectory(prefix="loiter-fuzz-", dir=_SHARED_MEMORY if in_memory else None)


@cache
def _folder(process: int) -> tempfile.TemporaryDirectory[str]:
    assert process == os.getpid()
    return temporary_folder()


def scratch() -> Path:
    """The folder of this process."""
    return Path(_folder(os.getpid()).name)
