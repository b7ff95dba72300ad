"""The rules that what an agent sends must keep. Pure: raises Invalid with the rule that was broken, or returns."""

from __future__ import annotations

import math
import re
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from loiter.limits import (
    BOOT_ID_PATTERN,
    HOST_ID_PATTERN,
    LABEL_KEY_PATTERN,
    MAX_COLLECTORS,
    MAX_INTERVAL_SECONDS,
    MAX_LABEL_KEY_CHARS,
    MAX_LABEL_VALUE_CHARS,
    MAX_LABELS,
    MAX_PROCESSES,
    MAX_STRING_CHARS,
    MIN_INTERVAL_SECONDS,
)
from loiter.v1 import ingest_service_pb2, sample_pb2
from loiter_aggregator.clock import from_duration

_HOST_ID: Final = re.compile(HOST_ID_PATTERN)
_BOOT_ID: Final = re.compile(BOOT_ID_PATTERN)
_LABEL_KEY: Final = re.compile(LABEL_KEY_PATTERN)
_LATEST_SECONDS: Final = 4_102_444_800  # the year 2100
_MAX_SEQUENCE: Final = 2**63 - 1


class Invalid(ValueError):
    """What an agent sent breaks a rule; the message says which."""


def check_hello(hello: ingest_service_pb2.Hello) -> None:
    """Checks the message that opens a stream."""
    host = hello.host
    _check(_HOST_ID.fullmatch(host.host_id), "host.host_id is not 32 lower-case hexadecimal digits")
    _check(_BOOT_ID.fullmatch(host.boot_id), "host.boot_id is not a UUID")
    _check(host.hostname, "host.hostname is empty")
    for name in ("hostname", "agent_version", "kernel_release"):
        _check_text(f"host.{name}", getattr(host, name))
    _check(len(host.labels) <= MAX_LABELS, f"host.labels has more than {MAX_LABELS} entries")
    for key, value in host.labels.items():
        _check(
            len(key) <= MAX_LABEL_KEY_CHARS and _LABEL_KEY.fullmatch(key), "host.labels has a name that is not allowed"
        )
        _check(len(value) <= MAX_LABEL_VALUE_CHARS, f"host.labels has a value over {MAX_LABEL_VALUE_CHARS} characters")
    interval = from_duration(hello.interval) / 1_000
    _check(
        MIN_INTERVAL_SECONDS <= interval <= MAX_INTERVAL_SECONDS,
        f"interval is not between {MIN_INTERVAL_SECONDS:g} and {MAX_INTERVAL_SECONDS:g} seconds",
    )
    if hello.HasField("agent_time"):
        _check_time("agent_time", hello.agent_time)


def check_report(report: ingest_service_pb2.Report, host_id: str) -> None:
    """Checks a report on a stream that was opened for `host_id`."""
    _check(report.host_id == host_id, "host_id is not the one in the hello")
    _check(_BOOT_ID.fullmatch(report.boot_id), "boot_id is not a UUID")
    _check(0 < report.spool_epoch <= _MAX_SEQUENCE, "spool_epoch is out of range")
    _check(0 < report.sequence <= _MAX_SEQUENCE, "sequence is out of range")
    _check(report.HasField("sample"), "sample is missing")
    sample = report.sample
    _check(sample.HasField("sample_time"), "sample.sample_time is missing")
    _check_time("sample.sample_time", sample.sample_time)
    _check(sample.sampler in sample_pb2.Sampler.values(), "sample.sampler is not known")
    _check(len(sample.processes) <= MAX_PROCESSES, f"sample.processes has more than {MAX_PROCESSES} rows")
    _check(len(sample.collectors) <= MAX_COLLECTORS, f"sample.collectors has more than {MAX_COLLECTORS} rows")
    seen = set()
    for process in sample.processes:
        _check(process.pid > 0, "a process has no pid")
        _check(process.pid not in seen, f"process {process.pid} is there twice")
        seen.add(process.pid)
        _check(process.HasField("start_time"), "start_time of a process is missing")
        _check_time("start_time of a process", process.start_time)
        for name in ("name", "app", "user"):
            _check_text(f"{name} of process {process.pid}", getattr(process, name))
    for status in sample.collectors:
        _check_text("name of a collector", status.name)
        _check_text("error of a collector", status.error)
    for name in ("cpu_seconds", "wall_seconds", "process_cpu_seconds"):
        value = getattr(sample.cost, name)
        _check(math.isfinite(value) and value >= 0, f"sample.cost.{name} is not a duration")


def _check_time(what: str, stamp: Timestamp) -> None:
    _check(0 <= stamp.seconds < _LATEST_SECONDS and 0 <= stamp.nanos < 10**9, f"{what} is out of range")


def _check_text(what: str, text: str) -> None:
    _check(len(text) <= MAX_STRING_CHARS, f"{what} is longer than {MAX_STRING_CHARS} characters")


def _check(holds: object, rule: str) -> None:
    if not holds:
        raise Invalid(rule)
