"""Metrics of the aggregator itself: what it takes in, what it stores, and what it answers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from loiter.version import version
from loiter_aggregator.distribution import Distribution
from loiter_aggregator.fleet.turns import QuestionCounts
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.metrics.families import counter, counters, gauge, gauges, histogram
from loiter_aggregator.upkeep import Upkeep

_NO_LABELS: Final[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class Inside:
    """What can be looked at besides the counters: how much waits to be stored, and the file of the store."""

    reports_waiting: Callable[[], int]
    rows_waiting: Callable[[], int]
    store_file: Path
    upkeep: Upkeep | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What was noted of calls and requests, by method and code."""

    calls: Mapping[tuple[str, str], Distribution]
    streams: Mapping[tuple[str, str], Distribution]
    requests: Mapping[tuple[str, str], Distribution]


def families(
    ingest: Counters, questions: QuestionCounts, observed: Observed, inside: Inside | None
) -> Iterator[Metric]:
    """The families. Looks at the file of the store and its disk."""
    yield InfoMetricFamily(
        "loiter_build",
        "What runs.",
        value={"version": version(), "python": ".".join(map(str, sys.version_info[:3]))},
    )
    yield gauge("loiter_start_timestamp_seconds", "When the aggregator started.", ingest.started / 1_000)
    yield from _ingest(ingest)
    if inside is not None:
        yield gauge(
            "loiter_ingest_waiting_reports", "Reports that came in and are not stored yet.", inside.reports_waiting()
        )
        yield gauge("loiter_ingest_waiting_rows", "Rows that came in and are not stored yet.", inside.rows_waiting())
        yield from _store(inside.store_file)
        if inside.upkeep is not None:
            yield from _levels(inside.upkeep)
    yield from _questions(questions)
    labels = ("method", "code")
    yield histogram(
        "loiter_grpc_call_duration_seconds",
        "Time that calls of gRPC took, by method and status code; streams are apart.",
        labels,
        observed.calls.items(),
    )
    yield histogram(
        "loiter_grpc_stream_duration_seconds",
        "Time that streams of gRPC lasted that have ended, by method and status code.",
        labels,
        observed.streams.items(),
    )
    yield histogram(
        "loiter_http_request_duration_seconds",
        "Time that requests of the web page took, by page and status code.",
        ("page", "code"),
        observed.requests.items(),
    )


def _ingest(ingest: Counters) -> Iterator[Metric]:
    yield counters(
        "loiter_ingest_reports",
        "Reports by outcome: duplicates came again and are acknowledged, rejected ones broke a rule.",
        "outcome",
        {"stored": ingest.stored, "duplicate": ingest.duplicates, "rejected": ingest.rejected},
    )
    yield counter("loiter_ingest_samples_lost", "Samples that were taken and will never come.", ingest.samples_lost)
    yield gauge("loiter_ingest_streams", "Agents that are connected.", ingest.streams)
    yield counter(
        "loiter_ingest_streams_turned_away",
        "Streams of agents that were told to come back later.",
        ingest.streams_overloaded,
    )
    yield counter("loiter_grpc_calls_refused", "Calls of callers that may not make them.", ingest.calls_refused)
    yield counter(
        "loiter_ingest_commits_failed",
        "Commits that failed; their reports were kept for the next.",
        ingest.failed_commits,
    )
    for name, help_text, found in (
        ("loiter_ingest_commit_duration_seconds", "Time that commits took.", ingest.commit_seconds),
        ("loiter_ingest_commit_rows", "Rows that were committed together.", ingest.commit_rows),
        (
            "loiter_ingest_lag_seconds",
            "Age of samples when they were committed; those that waited on their hosts are old.",
            ingest.lag_seconds,
        ),
    ):
        yield histogram(name, help_text, _NO_LABELS, [((), found)])


def _store(file: Path) -> Iterator[Metric]:
    parts = {"database": file, "write_ahead_log": file.with_name(file.name + ".wal")}
    yield gauges(
        "loiter_store_size_bytes",
        "Size of the store's files.",
        "part",
        {name: _size(one) for name, one in parts.items()},
    )
    try:
        free: float | None = shutil.disk_usage(file.parent).free
    except OSError:
        free = None
    yield gauge("loiter_store_disk_free_bytes", "Room that is left on the disk of the store.", free)


def _levels(upkeep: Upkeep) -> Iterator[Metric]:
    figures = upkeep.figures
    yield gauges(
        "loiter_store_rolled_until_timestamp_seconds",
        "Up to when samples are rolled up, by level.",
        "level",
        {name: one.rolled_until / 1_000 for name, one in figures.items() if one.rolled_until is not None},
    )
    for what, of in (("files", "Files"), ("rows", "Rows in files"), ("bytes", "Size of files")):
        yield gauges(
            f"loiter_store_sealed_{what}",
            f"{of} that old rows have moved to, by level.",
            "level",
            {name: getattr(one, what) for name, one in figures.items()},
        )
    yield gauge(
        "loiter_store_sealed_files_missing", "Such files that are gone: their rows are lost.", upkeep.missing_files
    )
    yield counter("loiter_store_upkeep_failures", "Times that rows could not be rolled up or moved.", upkeep.failures)


def _size(file: Path) -> float | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0 if file.parent.exists() else None  # nothing was committed since the last checkpoint
    except OSError:
        return None


def _questions(questions: QuestionCounts) -> Iterator[Metric]:
    yield counters(
        "loiter_questions",
        "Questions to the store by outcome; failed ones were wrong, or it could not be read, those turned away "
        "found too many waiting.",
        "outcome",
        {
            "answered": questions.answered,
            "failed": questions.failed,
            "timed_out": questions.timed_out,
            "turned_away": questions.turned_away,
        },
    )
    yield gauge("loiter_questions_in_hand", "Questions that are being answered, or wait for it.", questions.in_hand)


def figures_families(age: float | None, duration: float | None, failures: int) -> Iterator[GaugeMetricFamily | Metric]:
    """How good the figures of the fleet are: their age and how long it took to gather them, in seconds."""
    yield gauge("loiter_fleet_figures_age_seconds", "Age of the figures of the fleet.", age)
    yield gauge("loiter_fleet_figures_duration_seconds", "Time that it took to gather them.", duration)
    yield counter("loiter_fleet_figures_failures", "Times that they could not be gathered.", failures)
