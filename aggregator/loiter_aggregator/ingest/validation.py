"""The rules that what an agent sends must keep. Pure: raises Invalid with the rule that was broken, or returns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from loiter.limits import (
    BOOT_ID_PATTERN,
    HOST_ID_PATTERN,
    LABEL_KEY_PATTERN,
    MAX_COLLECTORS,
    MAX_EVIDENCE_ENTRIES,
    MAX_INTERVAL_SECONDS,
    MAX_LABEL_KEY_CHARS,
    MAX_LABEL_VALUE_CHARS,
    MAX_LABELS,
    MAX_NAMESPACES,
    MAX_PEERS,
    MAX_PORT_BUDGETS,
    MAX_PROCESSES,
    MAX_STRING_CHARS,
    MAX_TIME_WAIT_GROUPS,
    MIN_INTERVAL_SECONDS,
)
from loiter.v1 import ingest_service_pb2, sample_pb2, socket_pb2
from loiter_aggregator.clock import from_duration
from loiter_aggregator.ingest.glance import (
    CAUSES,
    DEGRADATIONS,
    LATEST_SECONDS,
    OWNER_SOURCES,
    SAMPLERS,
    processes_hold,
    sample_holds,
)
from loiter_aggregator.store.figures import NO_PROCESSES, Processes, read_processes

_HOST_ID: Final = re.compile(HOST_ID_PATTERN)
_BOOT_ID: Final = re.compile(BOOT_ID_PATTERN)
_LABEL_KEY: Final = re.compile(LABEL_KEY_PATTERN)
_MAX_SEQUENCE: Final = 2**63 - 1
_MAX_PORT: Final = 65_535
_MAX_SETTLED: Final = 2_000
# No agent keeps so many: at one a second, that is thirty years.
_MAX_LOSS: Final = 1_000_000_000
# A century without a reboot.
_LONGEST_SECONDS: Final = 3_155_760_000
_MAX_ROWS: Final = {
    "processes": MAX_PROCESSES,
    "collectors": MAX_COLLECTORS,
    "time_wait": MAX_TIME_WAIT_GROUPS,
    "ports": MAX_PORT_BUDGETS,
    "namespaces": MAX_NAMESPACES,
}
_LOSS_REASONS: Final = frozenset(ingest_service_pb2.LossReason.values())
_TCP_STATES: Final = frozenset(socket_pb2.TcpState.values())
_COST: Final = ("cpu_seconds", "wall_seconds", "process_cpu_seconds", "cpu_share", "cpu_budget")
_PORT_RATES: Final = ("connects_per_second", "exhausting_connects_per_second", "exhausted_in_seconds")
_EVIDENCE_SHARES: Final = ("survived", "run_delay_share", "throttled_share", "cpu_pressure", "io_pressure")


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
    _check(len(hello.settled) <= _MAX_SETTLED, f"settled has more than {_MAX_SETTLED} positions")
    for position in hello.settled:
        _check(0 < position.spool_epoch <= _MAX_SEQUENCE, "spool_epoch of a settled position is out of range")
        _check(position.sequence <= _MAX_SEQUENCE, "sequence of a settled position is out of range")


def check_sent(request: ingest_service_pb2.StreamReportsRequest) -> None:
    """Checks what goes with every message of an agent that says when it sends it; older ones do not."""
    if request.HasField("sent_since_boot"):
        _check_duration("sent_since_boot", request.sent_since_boot)
        _check(request.hello.instance or not request.HasField("hello"), "instance is missing")


def check_report(report: ingest_service_pb2.Report, host_id: str) -> Processes:
    """Checks a report on a stream that was opened for `host_id`. Returns the processes of its sample, now read."""
    check_name(report)
    _check(report.host_id == host_id, "host_id is not the one in the hello")
    _check(_BOOT_ID.fullmatch(report.boot_id), "boot_id is not a UUID")
    if report.HasField("taken_since_boot"):
        _check_duration("taken_since_boot", report.taken_since_boot)
    content = report.WhichOneof("content")
    _check(content is not None, "both sample and loss are missing")
    if content == "loss":
        _check_loss(report.loss, report.sequence)
        return NO_PROCESSES
    return _check_sample(report.sample)


def check_name(report: ingest_service_pb2.Report) -> None:
    """Checks what tells a report from others of its host: where it holds, it is known which report was rejected."""
    _check(0 < report.spool_epoch <= _MAX_SEQUENCE, "spool_epoch is out of range")
    _check(0 < report.sequence <= _MAX_SEQUENCE, "sequence is out of range")


def check_socket_answer(answer: socket_pb2.SocketAnswer, query: socket_pb2.SocketQuery) -> None:
    """Checks the answer to a question."""
    _check_text("error", answer.error)
    _check(len(answer.sockets) <= query.limit, f"sockets has more than the {query.limit} that were asked for")
    _check(
        not answer.HasField("matching") or answer.matching >= len(answer.sockets), "matching is less than the sockets"
    )
    _check(answer.unattributed <= len(answer.sockets), "unattributed is more than the sockets")
    _check(answer.HasField("sample_time") or answer.error, "sample_time is missing")
    _check_time("sample_time", answer.sample_time)
    for one in answer.sockets:
        _check(one.state in _TCP_STATES, "state of a socket is not known")
        _check(one.state in query.states or not query.states, "a socket is in a state that was not asked for")
        _check(one.pid == query.pid or not query.pid, "a socket is of a process that was not asked for")
        _check_texts("a socket", one, ("local", "peer", "name", "app", "namespace"))
        _check(one.pid > 0 or not one.HasField("pid"), "a socket is of pid 0")
        for name in ("age", "idle"):
            if one.HasField(name):
                _check_duration(f"{name} of a socket", getattr(one, name))


def _check_loss(loss: ingest_service_pb2.Loss, sequence: int) -> None:
    _check(loss.reason in _LOSS_REASONS, "loss.reason is not known")
    _check(loss.first_sequence <= sequence, "loss.first_sequence is after the sequence of the report")
    _check(
        not loss.first_sequence or sequence - loss.first_sequence < _MAX_LOSS,
        f"loss covers more than {_MAX_LOSS:,} samples",
    )
    for name in ("first_sample_time", "last_sample_time"):
        if loss.HasField(name):
            _check_time(f"loss.{name}", getattr(loss, name))


def _check_sample(sample: sample_pb2.Sample) -> Processes:
    if len(sample.processes) <= MAX_PROCESSES:  # a message can hold so many that to read them takes long
        processes = read_processes(sample)
        if passes_at_a_glance(sample, processes):
            return processes
    check_rules(sample)
    return read_processes(sample)  # it has something seldom, and breaks no rule


def passes_at_a_glance(sample: sample_pb2.Sample, processes: Processes) -> bool:
    """Whether a sample is seen to keep all rules without going by them one by one."""
    try:
        return sample_holds(sample) and processes_hold(processes, _check_details)
    except Invalid:  # what is wrong is said in the order of the rules
        return False


def check_rules(sample: sample_pb2.Sample) -> None:
    """Goes by the rules for a sample one by one, and names the first that it breaks."""
    _check(sample.HasField("sample_time"), "sample.sample_time is missing")
    _check_time("sample.sample_time", sample.sample_time)
    _check_sampler("sample.sampler", sample.sampler)
    for name, most in _MAX_ROWS.items():
        _check(len(getattr(sample, name)) <= most, f"sample.{name} has more than {most} rows")
    seen = set()
    for process in sample.processes:
        _check(process.pid > 0, "a process has no pid")
        _check(process.pid not in seen, f"process {process.pid} is there twice")
        seen.add(process.pid)
        _check_process(process)
    for status in sample.collectors:
        _check_texts("a collector", status, ("name", "error"))
    _check_numbers("sample.cost", sample.cost, _COST)
    _check(sample.degradation in DEGRADATIONS, "sample.degradation is not known")
    if sample.HasField("interval"):
        _check_duration("sample.interval", sample.interval)
        _check(
            MIN_INTERVAL_SECONDS <= from_duration(sample.interval) / 1_000 <= MAX_INTERVAL_SECONDS,
            "sample.interval is out of range",
        )
    for group in sample.time_wait:
        _check_time_wait_group(group)
    _check_numbers("sample.time_wait_limits", sample.time_wait_limits, ("seconds", "overflows_per_second"))
    for budget in sample.ports:
        _check_texts("a port budget", budget, ("namespace", "source", "destination"))
        _check_numbers("a port budget", budget, _PORT_RATES)
    for namespace in sample.namespaces:
        _check_texts("a network namespace", namespace, ("id", "name"))
        _check_sampler("sampler of a network namespace", namespace.sampler)


def _check_process(process: sample_pb2.ProcessSample) -> None:
    what = f"process {process.pid}"
    _check(process.HasField("start_time"), "start_time of a process is missing")
    _check_time("start_time of a process", process.start_time)
    _check_texts(what, process, ("name", "app", "user"))
    _check_text(f"arguments of {what}", process.arguments)
    _check(process.cause in CAUSES, f"cause of {what} is not known")
    _check_numbers(what, process, ("ports_share",))
    _check_details(process)


def _check_details(process: sample_pb2.ProcessSample) -> None:
    """Checks what most processes do not have."""
    what = f"process {process.pid}"
    if process.HasField("close_wait_age"):
        _check_numbers(what, process.close_wait_age, ("p50_seconds", "p99_seconds", "max_seconds"))
    if process.HasField("container"):
        _check_texts(what, process.container, ("runtime", "id", "pod"))
    if process.HasField("evidence"):
        _check_evidence(what, process.evidence)
    _check(len(process.peers) <= MAX_PEERS, f"peers of {what} has more than {MAX_PEERS} rows")
    for peer in process.peers:
        _check_texts(f"a peer of {what}", peer, ("address",))
        _check(peer.port <= _MAX_PORT, f"port of a peer of {what} is out of range")


def _check_evidence(what: str, evidence: sample_pb2.CloseWaitEvidence) -> None:
    _check_numbers(what, evidence, _EVIDENCE_SHARES)
    _check_counts(f"thread_states of {what}", evidence.thread_states)
    _check_counts(f"wait_channels of {what}", evidence.wait_channels)


def _check_time_wait_group(group: sample_pb2.TimeWaitGroup) -> None:
    what = "a TIME_WAIT group"
    _check_texts(what, group, ("namespace", "destination", "listener"))
    _check_numbers(what, group, ("closes_per_second",))
    owner = group.owner
    _check(owner.source in OWNER_SOURCES, f"source of the owner of {what} is not known")
    _check(owner.pid > 0 or not owner.HasField("pid"), f"the owner of {what} has pid 0")
    if owner.HasField("start_time"):
        _check_time(f"start_time of the owner of {what}", owner.start_time)
    _check_texts(f"the owner of {what}", owner, ("name", "app"))


def _check_counts(what: str, counts: Mapping[str, int]) -> None:
    _check(len(counts) <= MAX_EVIDENCE_ENTRIES, f"{what} has more than {MAX_EVIDENCE_ENTRIES} entries")
    _check(all(len(key) <= MAX_STRING_CHARS for key in counts), f"{what} has a name over {MAX_STRING_CHARS} characters")


def _check_sampler(what: str, sampler: int) -> None:
    _check(sampler in SAMPLERS, f"{what} is not known")


def _check_numbers(what: str, message: Message, names: Iterable[str]) -> None:
    """Durations, rates and shares: none is negative, infinite or not a number. One that is absent reads as 0."""
    for name in names:
        value = getattr(message, name)
        if not (math.isfinite(value) and value >= 0):
            raise Invalid(f"{name} of {what} is not a finite number from 0 on")


def _check_texts(what: str, message: Message, names: Iterable[str]) -> None:
    for name in names:
        if len(getattr(message, name)) > MAX_STRING_CHARS:
            raise Invalid(f"{name} of {what} is longer than {MAX_STRING_CHARS} characters")


def _check_time(what: str, stamp: Timestamp) -> None:
    _check(0 <= stamp.seconds < LATEST_SECONDS and 0 <= stamp.nanos < 10**9, f"{what} is out of range")


def _check_duration(what: str, duration: Duration) -> None:
    _check(
        0 <= duration.seconds <= _LONGEST_SECONDS and 0 <= duration.nanos < 10**9,
        f"{what} is out of range",
    )


def _check_text(what: str, text: str) -> None:
    _check(len(text) <= MAX_STRING_CHARS, f"{what} is longer than {MAX_STRING_CHARS} characters")


def _check(holds: object, rule: str) -> None:
    if not holds:
        raise Invalid(rule)
