"""Counts what comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

from loiter_aggregator.distribution import LONG_SECONDS, ROWS, SECONDS, Distribution


@dataclass(slots=True)
class Counters:
    """What has happened since `started`, in milliseconds, which follows the clock; `streams` are open now."""

    started: int
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    failed_commits: int = 0
    samples_lost: int = 0
    streams: int = 0
    streams_overloaded: int = 0
    calls_refused: int = 0
    # Answers to questions for sockets that came too late, or were never asked for.
    socket_answers_dropped: int = 0
    # Of commits that went well: how long each took, and its rows. And the age of samples when they were committed.
    commit_seconds: Distribution = field(default_factory=lambda: Distribution(SECONDS), compare=False)
    commit_rows: Distribution = field(default_factory=lambda: Distribution(ROWS), compare=False)
    lag_seconds: Distribution = field(default_factory=lambda: Distribution(LONG_SECONDS), compare=False)
