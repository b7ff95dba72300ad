"""What agents send is checked before it is taken in."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.wire_targets import mutate
from loiter.limits import MAX_MESSAGE_BYTES
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.ingest.validation import (
    Invalid,
    check_hello,
    check_report,
    check_rules,
    check_sent,
    passes_at_a_glance,
)
from loiter_aggregator.store.batch import Batch
from loiter_aggregator.store.figures import read_processes
from support.reports import (
    NOW,
    boot_id,
    full_report,
    hello,
    host_id,
    loss,
    open_stream,
    process,
    report,
    sample,
    send,
    stamp,
)

WEB_1 = host_id("web-1")


def _valid_hello() -> pb.Hello:
    return hello(labels={"role": "web", "_dc.rack-1": "fra1"})


def test_a_hello_of_an_agent_is_accepted() -> None:
    """Nothing is raised."""
    check_hello(_valid_hello())


def test_a_hello_at_the_limits_is_accepted() -> None:
    """Every limit is itself allowed."""
    for interval_ms in (500, 3_600_000):
        check_hello(hello("h" * 256, interval_ms=interval_ms, labels={f"k{i:062}": "v" * 255 for i in range(32)}))


def _label(key: str, value: str = "x") -> Callable[[pb.Hello], None]:
    return lambda message: message.host.labels.update({key: value})


def _interval(seconds: int, nanos: int = 0) -> Callable[[pb.Hello], None]:
    return lambda message: message.interval.CopyFrom(Duration(seconds=seconds, nanos=nanos))


def _settled(epoch: int, sequence: int) -> Callable[[pb.Hello], object]:
    return lambda message: message.settled.add(spool_epoch=epoch, sequence=sequence)


def _host(name: str, value: str) -> Callable[[pb.Hello], None]:
    return lambda message: setattr(message.host, name, value)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (_host("host_id", ""), "host_id"),
        (_host("host_id", WEB_1[:-1]), "host_id"),
        (_host("host_id", WEB_1.upper()), "host_id"),
        (_host("host_id", WEB_1 + "\n"), "host_id"),
        (_host("boot_id", ""), "boot_id"),
        (_host("boot_id", "not-a-uuid"), "boot_id"),
        (_host("hostname", ""), "hostname is empty"),
        (_host("hostname", "h" * 257), "hostname is longer"),
        (_host("agent_version", "1" * 257), "agent_version is longer"),
        (_host("kernel_release", "6" * 257), "kernel_release is longer"),
        (_label(""), "labels has a name"),
        (_label("1st"), "labels has a name"),
        (_label("ro le"), "labels has a name"),
        (_label("role\n"), "labels has a name"),
        (_label("k" * 64), "labels has a name"),
        (_label("role", "v" * 256), "labels has a value"),
        (lambda message: message.host.labels.update({f"k{i}": "" for i in range(33)}), "labels has more than"),
        (lambda message: message.ClearField("interval"), "interval"),
        (_interval(0, 499_000_000), "interval"),
        (_interval(3_600, 1_000_000), "interval"),
        (_interval(-10), "interval"),
        (_interval(2**62), "interval"),
        (_settled(0, 1), "spool_epoch of a settled position"),
        (_settled(2**63, 1), "spool_epoch of a settled position"),
        (_settled(7, 2**63), "sequence of a settled position"),
        (lambda message: message.settled.extend([pb.SpoolPosition(spool_epoch=7)] * 2_001), "settled has more than"),
    ],
)
def test_a_hello_that_breaks_a_rule_is_refused(spoil: Callable[[pb.Hello], None], rule: str) -> None:
    """The message names the rule."""
    message = _valid_hello()
    spoil(message)
    with pytest.raises(Invalid, match=rule):
        check_hello(message)


def test_a_report_of_an_agent_is_accepted() -> None:
    """Nothing is raised."""
    check_report(full_report(), WEB_1)


def test_a_report_in_which_nothing_could_be_read_is_accepted() -> None:
    """Counts may be absent: unknown breaks no rule."""
    check_report(report(taken=sample(NOW)), WEB_1)


def test_a_report_at_the_limits_is_accepted() -> None:
    """Every limit is itself allowed."""
    message = report(taken=sample(0, processes=[process(pid + 1, name="n" * 256) for pid in range(2_000)]))
    message.spool_epoch = message.sequence = 2**63 - 1
    taken = message.sample
    for _ in range(64):
        taken.collectors.add(name="c" * 256, error="e" * 256)
    for _ in range(100):
        taken.time_wait.add(destination="d" * 256, count=2**32 - 1, closes_per_second=1e308)
    for _ in range(50):
        taken.ports.add(source="s" * 256, destination="d" * 256, used=2**32 - 1, available=0, pid=2**32 - 1)
    for _ in range(1_000):
        taken.namespaces.add(id="4026531833", name="n" * 256)
    first = taken.processes[0]
    first.cause, first.arguments = sample_pb2.CAUSE_NEVER_ACCEPTED, "a" * 256
    first.evidence.thread_states.update({f"{n:0256}": 2**32 - 1 for n in range(16)})
    for _ in range(10):
        first.peers.add(address="a" * 256, port=65_535)
    check_report(message, WEB_1)


def test_text_is_measured_in_characters_not_bytes() -> None:
    """256 characters pass, whatever they take in UTF-8."""
    check_report(report(taken=sample(processes=[process(name="😀" * 256)])), WEB_1)


def _processes(count: int) -> Callable[[pb.Report], None]:
    return lambda message: message.sample.processes.extend(process(1_000 + pid) for pid in range(count))


def _collector(name: str, error: str) -> Callable[[pb.Report], None]:
    return lambda message: message.sample.collectors.extend([sample_pb2.CollectorStatus(name=name, error=error)])


def _cost(name: str, value: float) -> Callable[[pb.Report], None]:
    return lambda message: setattr(message.sample.cost, name, value)


def _set(name: str, value: int | str) -> Callable[[pb.Report], None]:
    return lambda message: setattr(message, name, value)


def _process(name: str, value: int | str) -> Callable[[pb.Report], None]:
    return lambda message: setattr(message.sample.processes[0], name, value)


def _sample(change: Callable[[sample_pb2.Sample], object]) -> Callable[[pb.Report], None]:
    def spoil(message: pb.Report) -> None:
        change(message.sample)

    return spoil


def _first(change: Callable[[sample_pb2.ProcessSample], object]) -> Callable[[pb.Report], None]:
    return _sample(lambda sample: change(sample.processes[0]))


def _number(where: Callable[[sample_pb2.Sample], object], name: str, value: float) -> Callable[[pb.Report], None]:
    return _sample(lambda sample: setattr(where(sample), name, value))


def _sample_time(seconds: int, nanos: int = 0) -> Callable[[pb.Report], None]:
    def spoil(message: pb.Report) -> None:
        message.sample.sample_time.seconds = seconds
        message.sample.sample_time.nanos = nanos

    return spoil


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (_set("host_id", host_id("web-2")), "host_id is not the one in the hello"),
        (_set("host_id", ""), "host_id is not the one in the hello"),
        (_set("boot_id", ""), "boot_id"),
        (_set("boot_id", boot_id("web-1").upper()), "boot_id"),
        (_set("spool_epoch", 0), "spool_epoch"),
        (_set("spool_epoch", 2**63), "spool_epoch"),
        (_set("sequence", 0), "sequence"),
        (_set("sequence", 2**64 - 1), "sequence"),
        (lambda message: message.ClearField("sample"), "both sample and loss are missing"),
        (lambda message: message.sample.ClearField("sample_time"), "sample_time is missing"),
        (_sample_time(-1), "sample_time is out of range"),
        (_sample_time(4_102_444_800), "sample_time is out of range"),
        (_sample_time(2**63 - 1), "sample_time is out of range"),
        (_sample_time(NOW // 1_000, -1), "sample_time is out of range"),
        (_sample_time(NOW // 1_000, 10**9), "sample_time is out of range"),
        (lambda message: setattr(message.sample, "sampler", 99), "sampler"),
        (_processes(1_999), "more than 2000 rows"),
        (lambda message: message.sample.processes.extend([process(100)]), "process 100 is there twice"),
        (_process("pid", 0), "no pid"),
        (lambda message: message.sample.processes[1].ClearField("start_time"), "start_time of a process is missing"),
        (
            lambda message: message.sample.processes[1].start_time.CopyFrom(stamp(-1_000)),
            "start_time of a process is out of range",
        ),
        (_process("name", "n" * 257), "name of process 100"),
        (_process("app", "a" * 257), "app of process 100"),
        (_process("user", "u" * 257), "user of process 100"),
        (
            lambda message: message.sample.collectors.extend([message.sample.collectors[0]] * 63),
            "collectors has more than",
        ),
        (_collector("c" * 257, ""), "name of a collector"),
        (_collector("tcp", "e" * 257), "error of a collector"),
        (_cost("cpu_seconds", float("nan")), "cpu_seconds"),
        (_cost("wall_seconds", float("inf")), "wall_seconds"),
        (_cost("process_cpu_seconds", -0.5), "process_cpu_seconds"),
        (_first(lambda one: setattr(one, "cause", 99)), "cause of process 100 is not known"),
        (_first(lambda one: setattr(one, "arguments", "a" * 257)), "arguments of process 100"),
        (_first(lambda one: setattr(one, "ports_share", float("nan"))), "ports_share of process 100"),
        (_first(lambda one: setattr(one, "ports_share", -0.1)), "ports_share of process 100"),
        (_first(lambda one: setattr(one.close_wait_age, "p99_seconds", float("inf"))), "p99_seconds of process 100"),
        (_first(lambda one: setattr(one.close_wait_age, "max_seconds", -1)), "max_seconds of process 100"),
        (_first(lambda one: setattr(one.container, "pod", "p" * 257)), "pod of process 100"),
        (_first(lambda one: setattr(one.container, "runtime", "r" * 257)), "runtime of process 100"),
        (_first(lambda one: one.peers.extend([one.peers[0]] * 9)), "peers of process 100 has more than 10"),
        (_first(lambda one: setattr(one.peers[0], "address", "a" * 257)), "address of a peer of process 100"),
        (_first(lambda one: setattr(one.peers[0], "port", 65_536)), "port of a peer of process 100"),
        (_first(lambda one: setattr(one.evidence, "survived", float("nan"))), "survived of process 100"),
        (_first(lambda one: setattr(one.evidence, "io_pressure", -1)), "io_pressure of process 100"),
        (_first(lambda one: one.evidence.thread_states.update({f"s{n}": 1 for n in range(17)})), "thread_states of"),
        (_first(lambda one: one.evidence.wait_channels.update({"w" * 257: 1})), "wait_channels of process 100 has a"),
        (_sample(lambda one: one.time_wait.extend([one.time_wait[0]] * 99)), "time_wait has more than 100 rows"),
        (_sample(lambda one: one.ports.extend([one.ports[0]] * 50)), "ports has more than 50 rows"),
        (_sample(lambda one: one.namespaces.extend([one.namespaces[0]] * 999)), "namespaces has more than 1000 rows"),
        (_number(lambda one: one.time_wait[0], "closes_per_second", float("inf")), "closes_per_second"),
        (_number(lambda one: one.time_wait_limits, "seconds", float("nan")), "seconds of sample.time_wait_limits"),
        (
            _number(lambda one: one.ports[0], "connects_per_second", float("nan")),
            "connects_per_second of a port budget",
        ),
        (_number(lambda one: one.ports[0], "exhausted_in_seconds", -1), "exhausted_in_seconds of a port budget"),
        (_sample(lambda one: setattr(one.time_wait[0], "destination", "d" * 257)), "destination of a TIME_WAIT group"),
        (_sample(lambda one: setattr(one.time_wait[0].owner, "source", 99)), "source of the owner"),
        (_sample(lambda one: setattr(one.time_wait[0].owner, "pid", 0)), "pid 0"),
        (_sample(lambda one: setattr(one, "degradation", 99)), "sample.degradation is not known"),
        (_sample(lambda one: one.interval.CopyFrom(Duration(seconds=3_601))), "sample.interval is out of range"),
        (_sample(lambda one: one.interval.CopyFrom(Duration(nanos=1))), "sample.interval is out of range"),
        (_sample(lambda one: one.interval.CopyFrom(Duration(seconds=1, nanos=-1))), "sample.interval is out of range"),
        (_cost("cpu_share", float("nan")), "cpu_share"),
        (_cost("cpu_budget", -1), "cpu_budget"),
        (_sample(lambda one: setattr(one.time_wait[0].owner, "app", "a" * 257)), "app of the owner"),
        (_sample(lambda one: setattr(one.time_wait[0].owner.start_time, "seconds", -1)), "start_time of the owner"),
        (_sample(lambda one: setattr(one.ports[0], "source", "s" * 257)), "source of a port budget"),
        (_sample(lambda one: setattr(one.namespaces[0], "name", "n" * 257)), "name of a network namespace"),
        (_sample(lambda one: setattr(one.namespaces[0], "sampler", 99)), "sampler of a network namespace"),
    ],
)
def test_a_report_that_breaks_a_rule_is_refused(spoil: Callable[[pb.Report], None], rule: str) -> None:
    """The message names the rule."""
    message = full_report()
    spoil(message)
    with pytest.raises(Invalid, match=rule):
        check_report(message, WEB_1)


def _loss(name: str, value: int) -> Callable[[pb.Report], None]:
    return lambda message: setattr(message.loss, name, value)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (_loss("reason", 99), "loss.reason is not known"),
        (_loss("first_sequence", 10), "loss.first_sequence is after the sequence of the report"),
        (lambda message: message.loss.first_sample_time.CopyFrom(stamp(-1_000)), "loss.first_sample_time is out of"),
        (lambda message: setattr(message.loss.last_sample_time, "nanos", -1), "loss.last_sample_time is out of range"),
        (_set("sequence", 3_000_000_000), "loss covers more than 1,000,000,000 samples"),
    ],
)
def test_a_loss_that_breaks_a_rule_is_refused(spoil: Callable[[pb.Report], None], rule: str) -> None:
    """The message names the rule."""
    message = loss(3, 9)
    check_report(message, WEB_1)
    spoil(message)
    with pytest.raises(Invalid, match=rule):
        check_report(message, WEB_1)


def test_losses_at_the_limits_are_accepted() -> None:
    """Of one sample, of a thousand million, and of nobody knows how many."""
    for first, last in ((9, 9), (1, 1_000_000_000), (0, 2**63 - 1)):
        check_report(_of(loss(first, 9), last), WEB_1)


def _of(message: pb.Report, sequence: int) -> pb.Report:
    message.sequence = sequence
    return message


@pytest.mark.parametrize("seconds", [-1, 2**62, 10**10])
def test_a_clock_since_boot_that_can_not_be_is_refused(seconds: int) -> None:
    """In a message, and in a report."""
    request = send(full_report())
    request.sent_since_boot.seconds = seconds
    with pytest.raises(Invalid, match="sent_since_boot is out of range"):
        check_sent(request)
    message = full_report()
    message.taken_since_boot.seconds = seconds
    with pytest.raises(Invalid, match="taken_since_boot is out of range"):
        check_report(message, WEB_1)


def test_an_agent_that_says_when_it_sends_says_which_run_of_it_sends() -> None:
    """Older agents say neither."""
    check_sent(open_stream(hello()))
    check_sent(open_stream(hello(instance=1), sent=1))
    check_sent(send(report(), sent=1))
    with pytest.raises(Invalid, match="instance is missing"):
        check_sent(open_stream(hello(), sent=1))


def _largest(message: pb.Report, grow: Callable[[sample_pb2.Sample], object]) -> bytes:
    """The report with as much of something as fits into a message."""
    size = 0
    while size < MAX_MESSAGE_BYTES:
        for _ in range(1 + (MAX_MESSAGE_BYTES - size) // 4_000):
            grow(message.sample)
        size = message.ByteSize()
    return message.SerializeToString()


def _with_maps(taken: sample_pb2.Sample) -> object:
    one = taken.processes.add(pid=1_000 + len(taken.processes), name="n" * 100, app="a" * 20)
    one.start_time.seconds = NOW // 1_000
    one.evidence.wait_channels.update({f"{number:020}": number for number in range(16)})
    return one


@pytest.mark.parametrize(
    "grow",
    [
        lambda taken: taken.processes.extend([sample_pb2.ProcessSample()] * 1_000),
        lambda taken: taken.collectors.extend([sample_pb2.CollectorStatus()] * 1_000),
        lambda taken: taken.processes[0].peers.extend([sample_pb2.ProcessSample().peers.add()] * 1_000),
        lambda taken: taken.processes[0].evidence.wait_channels.update(
            {str(len(taken.processes[0].evidence.wait_channels) + number): 1 for number in range(200)}
        ),
        _with_maps,
    ],
    ids=["processes", "collectors", "peers", "map", "maps"],
)
def test_a_message_of_the_largest_size_is_done_with_soon(grow: Callable[[sample_pb2.Sample], object]) -> None:
    """Whatever it is full of. The loop that serves all agents waits for it meanwhile."""
    data = _largest(full_report(), grow)
    began = time.process_time()
    message = pb.Report.FromString(data)
    try:
        check_report(message, WEB_1)
    except Invalid:
        pass
    else:
        Batch().add(1, message, NOW)
    took = time.process_time() - began
    assert took < 0.5


def test_a_message_of_a_broken_rule_quotes_nothing_of_the_agents() -> None:
    """The reason goes to logs and terminals: what is in it was written here."""
    message = full_report()
    message.sample.processes[0].name = "\x1b[31m" + "n" * 300
    with pytest.raises(Invalid) as caught:
        check_report(message, WEB_1)
    assert "\x1b" not in str(caught.value)


def _decode_and_check(data: bytes) -> None:
    try:
        request = pb.StreamReportsRequest.FromString(data)
        if request.WhichOneof("request") == "hello":
            check_hello(request.hello)
        else:
            check_report(request.report, WEB_1)
    except (DecodeError, Invalid):
        pass


@pytest.mark.parametrize("message", [report(), full_report()], ids=["counts", "full"])
def test_a_report_as_agents_send_it_passes_at_a_glance(message: pb.Report) -> None:
    """Also with all that only some processes have."""
    assert passes_at_a_glance(message.sample, read_processes(message.sample))


@settings(derandomize=True, max_examples=1_500, deadline=None, database=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_what_passes_at_a_glance_breaks_no_rule(seed: int, changes: int) -> None:
    """Whichever fields are changed to whatever fits on the wire, one by one or several."""
    message, rng = full_report(), random.Random(seed)
    for _ in range(changes):
        mutate(message, rng)
    taken = pb.Report.FromString(message.SerializeToString()).sample
    if passes_at_a_glance(taken, read_processes(taken)):
        check_rules(taken)


VALID = send(full_report()).SerializeToString()


def test_a_report_cut_short_anywhere_is_refused_in_words() -> None:
    """Every prefix of a report decodes to something valid, or raises DecodeError or Invalid."""
    for length in range(len(VALID)):
        _decode_and_check(VALID[:length])


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_a_mutated_report_is_refused_in_words(changes: list[tuple[int, int]]) -> None:
    """Whatever bytes change, nothing but DecodeError or Invalid is raised."""
    data = bytearray(VALID)
    for at, byte in changes:
        data[at] = byte
    _decode_and_check(bytes(data))


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=400))
def test_bytes_of_anybodys_making_are_refused_in_words(data: bytes) -> None:
    """No bytes raise anything but DecodeError or Invalid."""
    _decode_and_check(data)
