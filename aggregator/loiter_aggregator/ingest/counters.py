"""Counts what comes in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What has happened since `started`, in milliseconds."""

    started: int
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    failed_commits: int = 0
