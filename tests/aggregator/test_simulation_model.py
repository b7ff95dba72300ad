"""The hosts of a simulated fleet: each as its kind has it, the same whenever and wherever it is made."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from google.protobuf.message import Message

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.clock import from_duration, from_timestamp
from loiter_aggregator.ingest.validation import check_hello, check_report, check_sent
from loiter_aggregator.simulation.encoding import Messages, Reports, hello
from loiter_aggregator.simulation.hosts import SimulatedHost
from loiter_aggregator.simulation.plan import Kind, Plan
from support.reports import HOUR, NOW, SECOND

PLAN = Plan(hosts=1_000, start=NOW)
HOUR_OF_TICKS = range(360)
KINDS = pytest.mark.parametrize("kind", list(Kind))


def first_of(kind: Kind, plan: Plan = PLAN) -> SimulatedHost:
    """The first host of a kind."""
    return SimulatedHost(plan, next(plan.of_kind(kind)))


def requests(host: SimulatedHost, ticks: range, plan: Plan = PLAN) -> Iterator[pb.StreamReportsRequest]:
    """What the host sends of some ticks, each at once."""
    reports = Reports(plan, host, Messages())
    for tick in ticks:
        run = host.life.run(tick)
        if run is not None and (host.life.end is None or tick < host.life.end):
            sent = host.time_of(tick) - run.booted
            yield pb.StreamReportsRequest.FromString(reports.report(tick, run, sent))


def growth(points: list[tuple[int, int]]) -> float:
    """The least-squares slope of (milliseconds, count), an hour."""
    times, counts = np.array(points, dtype=float).T
    return float(np.polyfit(times / HOUR, counts, 1)[0])


@KINDS
def test_what_a_host_sends_keeps_the_rules(kind: Kind) -> None:
    """Its hello, and its reports over a day, are what the aggregator takes."""
    host = first_of(kind)
    for tick in range(0, 8_640, 97):
        run = host.life.run(tick)
        if run is not None:
            request = pb.StreamReportsRequest.FromString(
                hello(PLAN, host, run, [(host.epoch(run), 3)], host.time_of(tick))
            )
            check_hello(request.hello)
            check_sent(request)
    sent = list(requests(host, range(0, 8_640, 97)))
    assert sent
    for request in sent:
        check_sent(request)
        check_report(request.report, host.host_id)


@KINDS
def test_a_host_is_the_same_wherever_it_is_made(kind: Kind) -> None:
    """Byte by byte, also where another began elsewhere and went back, and has encoded another host meanwhile."""
    host, messages = first_of(kind), Messages()
    one, other = Reports(PLAN, host, messages), Reports(PLAN, first_of(kind), messages)
    stranger = Reports(PLAN, first_of(Kind.BUSY), messages)
    ticks = [tick for tick in range(30) if host.life.run(tick) is not None]
    first = []
    for tick in ticks:
        run = host.life.run(tick)
        assert run is not None
        first.append(one.report(tick, run, 5))
    for tick, before in zip(reversed(ticks), reversed(first), strict=True):
        run = host.life.run(tick)
        assert run is not None
        stranger.report(tick, first_of(Kind.BUSY).life.run(tick) or run, 5)
        assert other.report(tick, run, 5) == before


def test_another_seed_is_another_fleet() -> None:
    """With other hosts: those of one are none of the other."""
    other = Plan(hosts=1_000, start=NOW, seed=2)
    assert first_of(Kind.HEALTHY).host_id != first_of(Kind.HEALTHY, other).host_id
    assert [PLAN.place(number) for number in PLAN.numbers] != [other.place(number) for number in other.numbers]


def test_a_fleet_that_begins_at_another_time_uses_no_epoch_again() -> None:
    """Its hosts are the same, as if each had been booted."""
    one, other = first_of(Kind.HEALTHY), first_of(Kind.HEALTHY, Plan(hosts=1_000, start=NOW + 1))
    run, later = one.life.run(0), other.life.run(0)
    assert run is not None
    assert later is not None
    assert one.host_id == other.host_id
    assert one.epoch(run) != other.epoch(later)
    assert one.boot_id(run) != other.boot_id(later)


@KINDS
def test_all_is_encoded_in_fields_that_there_are(kind: Kind) -> None:
    """What is put together by hand reads back as messages, and says the same when these are encoded."""
    for request in requests(first_of(kind), range(20)):
        again = pb.StreamReportsRequest.FromString(request.SerializeToString())
        assert again == request
        assert not _unknown(request)
        assert len(request.report.sample.processes) == PLAN.processes


def _unknown(message: Message) -> bool:
    """Whether there are bytes of no field: then dropping them makes it shorter."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() != size


@KINDS
def test_the_sums_of_a_host_are_those_of_its_processes(kind: Kind) -> None:
    """No CLOSE_WAIT socket is without a process; its own count of descriptors is above theirs."""
    for request in requests(first_of(kind), range(20)):
        sample = request.report.sample
        assert sample.tcp_states.close_wait == sum(one.close_wait for one in sample.processes)
        assert sample.tcp_states.established > sum(one.established for one in sample.processes)
        assert sample.tcp_states.time_wait == sum(group.count for group in sample.time_wait)
        assert sample.host_fds.allocated > sum(one.fd_open for one in sample.processes)
        assert all(one.fd_open >= one.sockets for one in sample.processes)


def test_reports_come_at_the_interval_and_not_all_at_once() -> None:
    """Each host has a phase of its own; a report was taken a moment before it is sent."""
    times = [from_timestamp(request.report.sample.sample_time) for request in requests(first_of(Kind.BUSY), range(50))]
    assert all(abs(later - earlier - 10 * SECOND) < 10 for earlier, later in pairwise(times))
    phases = [SimulatedHost(PLAN, number).first - PLAN.start for number in PLAN.numbers]
    assert np.histogram(phases, bins=10, range=(0, 10 * SECOND))[0].min() > 60


def test_figures_vary_as_on_real_hosts() -> None:
    """About a third of the processes is idle and stays as it is; nearly half goes up and down; costs never repeat."""
    values = []
    for number in range(1, 30):
        samples = [request.report.sample for request in requests(SimulatedHost(PLAN, number), range(60))]
        values += [
            len({(one.processes[index].established, one.processes[index].fd_open) for one in samples})
            for index in range(PLAN.processes)
        ]
        assert len({sample.cost.cpu_seconds for sample in samples}) == len(samples)
    assert 0.2 < np.mean(np.array(values) == 1) < 0.45
    assert np.mean(np.array(values) > 10) > 0.35


def test_a_leak_grows_as_the_truth_says() -> None:
    """Over an hour, within a tenth of its rate; what is not a leak does not grow."""
    leaking = set(PLAN.of_kind(Kind.LEAKING))
    for number in [*leaking, *range(1, 60)]:
        host = SimulatedHost(PLAN, number)
        if host.kind in (Kind.RESTARTING, Kind.CHURNING):
            continue
        sent = list(requests(host, HOUR_OF_TICKS))
        for index, slot in enumerate(host.slots):
            points = [
                (from_timestamp(one.report.sample.sample_time), one.report.sample.processes[index].close_wait)
                for one in sent
            ]
            if slot.leak is not None:
                assert growth(points) == pytest.approx(slot.leak.per_hour, rel=0.1), (number, slot)
            else:
                assert abs(growth(points)) < 20, (number, slot)


def test_a_leak_says_why() -> None:
    """The evidence adds up: what is settled was read to the end, and peers have all of the sockets."""
    for request in requests(first_of(Kind.LEAKING), range(0, 360, 40)):
        for one in request.report.sample.processes[:2]:
            assert one.cause == 2
            assert one.evidence.settled == one.evidence.eof_read == one.stuck <= one.close_wait
            assert sum(peer.count for peer in one.peers) == one.close_wait
            assert 0 < one.close_wait_age.p50_seconds < one.close_wait_age.max_seconds


def test_each_leaking_app_leaks_on_more_than_one_host() -> None:
    """Twenty apps on twenty hosts, two on each."""
    apps = [slot.app.app for n in PLAN.of_kind(Kind.LEAKING) for slot in SimulatedHost(PLAN, n).slots if slot.leak]
    assert len(apps) == 40
    assert len(set(apps)) == 20
    assert all(apps.count(app) == 2 for app in apps)


def test_a_busy_host_fills_time_wait_and_ports() -> None:
    """Ten thousand sockets and more on some, and more connections than there are ports for on others."""
    busy = [list(requests(SimulatedHost(PLAN, number), range(1))) for number in PLAN.of_kind(Kind.BUSY)]
    samples = [request.report.sample for sent in busy for request in sent]
    assert min(sample.tcp_states.time_wait for sample in samples) > 3_000
    assert max(sample.ports[0].used / sample.ports[0].available for sample in samples) > 0.5
    assert all(sample.processes[0].time_wait > 0 for sample in samples)


def test_descriptors_run_out() -> None:
    """Within eight hours, and not by sockets; then there are no more."""
    host = first_of(Kind.EXHAUSTING)
    first, last, later = (next(requests(host, range(k, k + 1))).report.sample.processes[0] for k in (0, 2_880, 2_890))
    assert first.fd_open < 0.7 * first.fd_limit
    assert last.fd_limit - 3 >= last.fd_open > 0.98 * last.fd_limit
    assert later.fd_open <= later.fd_limit
    assert last.close_wait < 50


def test_a_churning_host_has_other_processes_every_few_minutes() -> None:
    """Another pid and a later start; the others stay."""
    samples = [request.report.sample for request in requests(first_of(Kind.CHURNING), HOUR_OF_TICKS)]
    seen = [len({(s.processes[i].pid, from_timestamp(s.processes[i].start_time)) for s in samples}) for i in range(10)]
    assert seen[:4] == [1, 1, 1, 1]
    assert all(processes >= 9 for processes in seen[4:])
    for sample in samples:
        assert all(from_timestamp(one.start_time) <= from_timestamp(sample.sample_time) for one in sample.processes)


def test_a_restarting_host_restarts_in_three_ways() -> None:
    """A process alone; the agent, which begins an epoch; the host, which is away meanwhile and has another boot id."""
    host = first_of(Kind.RESTARTING)
    sent = [request.report for request in requests(host, range(3_000))]
    starts = [from_timestamp(report.sample.processes[0].start_time) for report in sent]
    epochs, boots = [one.spool_epoch for one in sent], [one.boot_id for one in sent]
    assert len(set(boots)) > 3
    assert len(set(epochs)) > len(set(boots))
    assert epochs == sorted(epochs)
    assert len(set(starts)) > len(set(boots))
    # Each epoch begins with 1 and leaves none out; while the host is down, there is nothing.
    for epoch in set(epochs):
        sequences = [report.sequence for report in sent if report.spool_epoch == epoch]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
        assert sequences[0] == 1
    assert len(sent) < 3_000
    # The clock since boot begins anew, and every process is younger than that.
    for report in sent:
        taken = from_timestamp(report.sample.sample_time)
        booted = taken - from_duration(report.taken_since_boot)
        assert all(booted <= from_timestamp(one.start_time) + 10 <= taken + 10 for one in report.sample.processes)


def test_the_runs_of_a_stretch_are_those_of_its_ticks() -> None:
    """In their order: they are what a hello names."""
    life = first_of(Kind.RESTARTING).life
    runs = {run.number: run for tick in range(3_000) if (run := life.run(tick)) is not None}
    assert list(life.runs(0, 2_999)) == list(runs.values())


def test_a_silent_host_ends() -> None:
    """Within two hours."""
    ends = [SimulatedHost(PLAN, number).life.end for number in PLAN.of_kind(Kind.SILENT)]
    assert all(end is not None and 30 <= end <= 720 for end in ends)
    assert all(SimulatedHost(PLAN, number).life.end is None for number in PLAN.of_kind(Kind.BUSY))


@pytest.mark.parametrize("hosts", [1, 2, 7, 60, 1_000, 100_000])
def test_a_fleet_of_any_size_has_the_kinds_that_were_asked_for(hosts: int) -> None:
    """One of each where there is room; each host has one kind, and each place of a kind is taken once."""
    plan = Plan(hosts=hosts, start=NOW)
    places = [plan.place(number) for number in plan.numbers]
    assert len(set(places)) == hosts
    assert sum(plan.counts.values()) == hosts
    if hosts >= 7:
        assert all(plan.counts.values())
    if hosts == 1_000:
        assert plan.counts[Kind.LEAKING] == 20


@pytest.mark.parametrize("processes", [1, 2, 5, 40])
def test_a_host_reports_as_many_processes_as_were_asked_for(processes: int) -> None:
    """Of every kind."""
    plan = Plan(hosts=20, start=NOW, processes=processes)
    for number in plan.numbers:
        host = SimulatedHost(plan, number)
        for request in requests(host, range(3), plan):
            check_report(request.report, host.host_id)
            assert len(request.report.sample.processes) == processes
