"""Disks that are soon full. They need root; where it is refused, the test that wants one is skipped."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BALLAST_BYTES = 1_000_000


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mounts a tmpfs(5) of so many bytes on a folder for the block. Its file `ballast` can be deleted to make room."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        (folder / "ballast").write_bytes(bytes(BALLAST_BYTES))
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def leave_no_room(disk: Path) -> Path:
    """Takes all that is left of a disk, to the last byte, by a file that can be deleted, and returns that."""
    rest = disk / "rest"
    with rest.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return rest
