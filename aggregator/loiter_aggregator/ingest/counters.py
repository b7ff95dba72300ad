"""Counts what comes in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What has happened since `started`, in milliseconds; `streams` are those that are open now."""

    started: int
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    failed_commits: int = 0
    samples_lost: int = 0
    streams: int = 0
    streams_overloaded: int = 0
    calls_refused: int = 0
