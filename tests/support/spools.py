"""Looks into the spool of an agent, be it at work."""

from __future__ import annotations

import shutil
from pathlib import Path

from loiter_agent.spool_database import Corrupt
from loiter_agent.spool_file import SpoolFile


def waiting(state: Path, scratch: Path) -> list[tuple[int, int]]:
    """The reports on the disk of an agent, by epoch and sequence: those in a copy of its files."""
    copy = scratch / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    try:
        shutil.copytree(state, copy, ignore=shutil.ignore_patterns("rest", "ballast"))
        file = SpoolFile("", copy / "spool.db")
    except (Corrupt, shutil.Error):  # it changed as it was copied
        return []
    rows = [(row.epoch, row.sequence) for row in file.rows()]
    file.close()
    return rows
