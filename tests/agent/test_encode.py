"""Samples on the wire: nothing unknown becomes a zero, and no text is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, timedelta

import pytest

from loiter.limits import MAX_NAMESPACES, MAX_PORT_BUDGETS, MAX_STRING_CHARS, MAX_TIME_WAIT_GROUPS
from loiter.v1 import sample_pb2 as pb
from loiter_agent.encode import AgentStatus, encode_host, encode_sample, fit
from loiter_agent.sample import (
    Cause,
    CollectorStatus,
    Container,
    Degradation,
    Namespace,
    OwnerRow,
    OwnerSource,
    Sample,
    TcpStates,
)
from support.proctree_samples import (
    CRAWLER_ROW,
    EMPTY,
    EVIDENCE,
    EXPLAINED,
    EXPLAINED_ROW,
    FULL,
    HOST,
    NOBODYS_ROW,
    PORT_ROW,
    ROW,
    TIME,
    UNKNOWN_ROW,
)


def over_the_wire(sample: Sample) -> pb.Sample:
    """What the aggregator gets of it."""
    status = AgentStatus(interval=20.0, cpu_budget=0.02, cpu_share=0.015, late_ticks=5, dropped_reports=6)
    return pb.Sample.FromString(encode_sample(sample, status).SerializeToString())


def present(message: object) -> set[str]:
    """The fields that were sent."""
    assert hasattr(message, "ListFields")
    return {descriptor.name for descriptor, _ in message.ListFields()}


def test_what_is_known_arrives() -> None:
    """Section by section."""
    sample = over_the_wire(FULL)
    assert sample.sample_time.ToDatetime(UTC) == TIME
    assert sample.sampler == pb.SAMPLER_SOCK_DIAG
    assert (sample.host_fds.allocated, sample.host_fds.limit) == (9_500, 1_048_576)
    assert (sample.other_processes.processes, sample.other_processes.fd_open) == (180, 4_000)
    assert (sample.coverage.sockets_ownerless, sample.coverage.dump_torn) == (3_010, True)
    assert (sample.cost.late_ticks, sample.cost.dropped_reports) == (5, 6)
    assert sample.cost.cpu_seconds == 0.0125
    assert (sample.cost.cpu_share, sample.cost.cpu_budget) == (0.015, 0.02)
    assert sample.interval.ToTimedelta() == timedelta(seconds=20)
    assert [status.name for status in sample.collectors] == ["processes", "tcp", "host_fds"]
    (row,) = sample.processes
    assert (row.pid, row.name, row.app, row.user) == (4242, "gunicorn", "web.service", "www-data")
    assert (row.close_wait, row.fd_limit) == (1_500, 4_096)
    assert row.start_time.ToDatetime(UTC) == ROW.start_time


def test_a_zero_is_sent_and_an_unknown_is_not() -> None:
    """The reader can tell them apart."""
    states = over_the_wire(FULL).tcp_states
    assert present(states) == {
        "established",
        "syn_sent",
        "time_wait",
        "close_wait",
        "listen",
        "new_syn_recv",
    }
    assert states.syn_sent == 0


def test_an_unknown_process_is_no_more_than_its_names() -> None:
    """Counts are absent; the user is empty, which is how the contract says unknown."""
    (row,) = over_the_wire(replace(FULL, processes=(UNKNOWN_ROW,))).processes
    assert present(row) == {"pid", "start_time", "name", "app"}


def test_time_wait_of_a_process_that_is_not_known_is_absent() -> None:
    """Where nobody could tell whose they were: the kernel keeps no owner of such a socket."""
    (row,) = over_the_wire(FULL).processes
    assert not row.HasField("time_wait")


def test_why_a_process_does_not_close_arrives() -> None:
    """Cause, evidence, ages and peers; what of it is unknown is absent, what is 0 is not."""
    (row,) = over_the_wire(EXPLAINED).processes
    assert (row.cause, row.stuck, row.time_wait, row.ports_share) == (pb.CAUSE_LEAK, 1_390, 30, 0.25)
    age = row.close_wait_age
    assert (age.p50_seconds, age.p99_seconds, age.max_seconds) == (120.0, 3_600.5, 7_200.0)
    assert [(peer.address, peer.port, peer.count) for peer in row.peers] == [
        ("10.0.0.2", 0, 1_499),
        ("10.0.0.3", 443, 1),
    ]
    assert [peer.HasField("port") for peer in row.peers] == [False, True]
    assert (row.container.runtime, row.container.id, row.container.pod) == ("docker", "0123456789ab", "")
    assert (row.fd_limit_hard, row.arguments) == (1_048_576, "gunicorn app:app")
    evidence = row.evidence
    known = {field.name for field in fields(EVIDENCE)} - {"throttled_share"}
    assert present(evidence) == known
    assert (evidence.client_side, evidence.cpu_pressure) == (0, 0.0)
    assert (dict(evidence.thread_states), dict(evidence.wait_channels)) == ({"S": 60, "D": 4}, {"futex_do_wait": 60})
    assert evidence.accept_queue.depth == 5
    assert evidence.accept_queue.limit == 0


@pytest.mark.parametrize(
    "cause", [None, "unknown", "leak", "idle_pool", "stalled_reader", "cpu_starved", "never_accepted"]
)
def test_every_cause_has_a_name_on_the_wire(cause: Cause | None) -> None:
    """None: there is nothing to explain."""
    (row,) = over_the_wire(replace(EXPLAINED, processes=(replace(EXPLAINED_ROW, cause=cause),))).processes
    assert pb.Cause.Name(row.cause) == f"CAUSE_{(cause or 'unspecified').upper()}"


def test_time_wait_and_ports_and_namespaces_arrive() -> None:
    """Row by row, with who was found and how."""
    sample = over_the_wire(EXPLAINED)
    first, rest = sample.time_wait
    assert (first.namespace, first.destination, first.listener) == ("4026531840", "10.0.0.3:443", "")
    assert (first.count, first.closes_per_second) == (2_400, 40.0)
    assert (first.owner.pid, first.owner.name, first.owner.app) == (4_343, "crawl", "crawl.py")
    assert first.owner.source == pb.OWNER_SOURCE_EXACT
    assert first.owner.HasField("start_time")
    assert present(rest.owner) == {"source"}
    assert rest.owner.source == pb.OWNER_SOURCE_UNATTRIBUTED
    (budget,) = sample.ports
    assert (budget.used, budget.available, budget.pid, budget.reusable) == (2_500, 28_232, 4_343, 0)
    assert not budget.HasField("exhausted_in_seconds")
    limits = sample.time_wait_limits
    assert (limits.overflows, limits.max_buckets, limits.reuse, limits.seconds) == (3, 131_072, 2, 60.0)
    assert [(one.name, one.read, one.sampler) for one in sample.namespaces] == [
        ("host", True, pb.SAMPLER_SOCK_DIAG),
        ("web", True, pb.SAMPLER_PROCFS),
        ("", False, pb.SAMPLER_UNSPECIFIED),
    ]


@pytest.mark.parametrize("degradation", Degradation)
def test_every_step_of_degradation_has_a_name_on_the_wire(degradation: Degradation) -> None:
    """None: nothing is left out."""
    sent = over_the_wire(replace(FULL, degradation=degradation)).degradation
    name = "UNSPECIFIED" if degradation == Degradation.NONE else degradation.name
    assert pb.Degradation.Name(sent) == f"DEGRADATION_{name}"


def test_what_the_first_tick_can_not_know_is_absent() -> None:
    """No time has passed of which the processor time could be a share; nor need anything be said of a spool."""
    sample = encode_sample(FULL, AgentStatus(interval=10.0, cpu_budget=0.02))
    assert not sample.cost.HasField("cpu_share")
    assert not sample.HasField("spool")
    kept = pb.SpoolStatus(waiting_reports=3, waiting_bytes=900, in_memory=True)
    assert encode_sample(FULL, AgentStatus(interval=10.0, cpu_budget=0.02, spool=kept)).spool == kept


@pytest.mark.parametrize("how", ["exact", "listener", "cgroup", "destination", "unattributed"])
def test_every_way_to_find_an_owner_has_a_name_on_the_wire(how: OwnerSource) -> None:
    """None of them is unspecified."""
    row = replace(NOBODYS_ROW, owner=OwnerRow(None, None, None, "app", how))
    (sent,) = over_the_wire(replace(FULL, time_wait=(row,))).time_wait
    assert pb.OwnerSource.Name(sent.owner.source) == f"OWNER_SOURCE_{how.upper()}"
    assert (sent.owner.HasField("pid"), sent.owner.app) == (False, "app")


def test_no_more_rows_are_sent_than_the_wire_allows() -> None:
    """The aggregator would refuse all of the report."""
    sample = over_the_wire(
        replace(
            FULL,
            time_wait=(CRAWLER_ROW,) * (MAX_TIME_WAIT_GROUPS + 1),
            ports=(PORT_ROW,) * (MAX_PORT_BUDGETS + 1),
            namespaces=tuple(Namespace(number, "", None) for number in range(MAX_NAMESPACES + 1)),
        )
    )
    assert len(sample.time_wait) == MAX_TIME_WAIT_GROUPS
    assert len(sample.ports) == MAX_PORT_BUDGETS
    assert len(sample.namespaces) == MAX_NAMESPACES


def test_a_tick_in_which_everything_failed_is_sent_all_the_same() -> None:
    """It says why, and claims nothing."""
    sample = over_the_wire(EMPTY)
    assert sample.sampler == pb.SAMPLER_UNSPECIFIED
    assert present(sample.tcp_states) == set()
    assert not sample.HasField("host_fds")
    assert present(sample.coverage) == set()
    assert not sample.HasField("other_processes")
    assert not sample.cost.HasField("resident_bytes")
    assert [status.error for status in sample.collectors] == ["Operation not permitted"]


def test_psutil_is_named_as_the_sampler() -> None:
    """Its figures mean something else."""
    assert over_the_wire(replace(FULL, sampler="psutil")).sampler == pb.SAMPLER_PSUTIL


def test_every_state_has_a_field_of_its_own() -> None:
    """In the contract as in the kernel."""
    numbers = {field.name: number for number, field in enumerate(fields(TcpStates), start=1)}
    states = over_the_wire(replace(FULL, tcp_states=TcpStates(**numbers))).tcp_states
    assert {descriptor.name: value for descriptor, value in states.ListFields()} == numbers
    assert {descriptor.name: descriptor.number for descriptor, _ in states.ListFields()} == numbers


@pytest.mark.parametrize("text", ["\udcff\udcfe", "caf\udce9", "\ud800"])
def test_names_that_are_not_utf8_are_sent_with_marks_in_their_place(text: str) -> None:
    """protobuf refuses lone surrogates, and a report must not be lost for a name."""
    row = replace(ROW, name=text, app=text, user=text)
    status = CollectorStatus("tcp", 0.0, text)
    (sent,) = over_the_wire(replace(FULL, processes=(row,))).processes
    assert sent.name == sent.app == sent.user == text.encode("utf-8", "replace").decode()
    assert over_the_wire(replace(FULL, collectors=(status,))).collectors[0].error == sent.name
    assert encode_host(replace(HOST, hostname=text), "1.0").hostname == sent.name
    owner = replace(NOBODYS_ROW, owner=OwnerRow(1, None, text, text, "exact"))
    box = replace(EXPLAINED_ROW, container=Container("docker", text, text), arguments=text)
    named = over_the_wire(
        replace(FULL, processes=(box,), time_wait=(owner,), namespaces=(Namespace(1, text, "sock_diag"),))
    )
    assert named.time_wait[0].owner.name == named.namespaces[0].name == sent.name
    assert named.processes[0].container.id == named.processes[0].arguments == sent.name


def test_long_texts_are_cut_to_what_the_wire_allows() -> None:
    """Rather than rejected on the other side."""
    row = replace(ROW, name="n" * 1_000, app="\N{SNOWMAN}" * 1_000)
    (sent,) = over_the_wire(replace(FULL, processes=(row,))).processes
    assert (len(sent.name), len(sent.app)) == (MAX_STRING_CHARS, MAX_STRING_CHARS)


def test_the_host_is_sent_with_its_labels() -> None:
    """And the agent's version."""
    host = encode_host(HOST, "1.2.3")
    assert (host.host_id, host.hostname, host.boot_id) == (HOST.host_id, "web-1", HOST.boot_id)
    assert (dict(host.labels), host.agent_version, host.kernel_release) == ({"role": "web"}, "1.2.3", "6.12.0")


def test_a_host_without_an_id_has_an_empty_one() -> None:
    """The aggregator refuses it; an agent that reports always has one."""
    assert encode_host(replace(HOST, host_id=None), "1").host_id == ""


def test_a_sample_that_is_too_large_is_made_to_fit() -> None:
    """The last of its processes are added to the others; nothing is lost from the sums."""
    rows = tuple(replace(ROW, pid=pid, name="n" * 200, close_wait=2, sockets=3, fd_open=5) for pid in range(1, 501))
    whole = encode_sample(replace(FULL, processes=rows), AgentStatus(interval=10.0, cpu_budget=0.02))
    fitted = fit(whole, 50_000)
    assert fitted.ByteSize() <= 50_000
    assert 0 < len(fitted.processes) < 500
    assert fitted.processes[0].pid == 1
    folded = 500 - len(fitted.processes)
    before, after = whole.other_processes, fitted.other_processes
    assert after.processes - before.processes == folded
    assert after.close_wait - before.close_wait == 2 * folded
    assert after.fd_open - before.fd_open == 5 * folded
    assert fit(whole, 1 << 20) is whole
