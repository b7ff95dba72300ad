"""The leak lab: its programs misbehave as they say, and its scores are what the samples deserve."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from leaklab.catalogue import CATALOGUE, PROGRAMS, Entry
from leaklab.report import goals, markdown
from leaklab.score import measure
from leaklab.scoring import Observation, Score, score
from leaklab.truth import Close, Fault, FullPorts, Truth, parse_truth, read_truth
from loiter_agent.sample import Cause, OwnerRow, OwnerSource, PortRow, TimeWaitRow
from support.proctree_samples import EMPTY, ROW

LEAK = Entry("a leak", "leak", "leak")
HEALTHY = Entry("healthy", None, "healthy")
PORTS = Entry("ports", "ports", "ports")
WARM = Entry("there before", None, "healthy", warm_up=15.0)

STARTED = datetime(2026, 3, 1, tzinfo=UTC)
NS = "4026532000"


def _observe(
    at: float,
    causes: Mapping[int, Cause | None] | None = None,
    time_wait: tuple[TimeWaitRow, ...] = (),
    ports: tuple[PortRow, ...] = (),
    alive: frozenset[int] = frozenset((1, 2)),
) -> Observation:
    rows = tuple(dataclasses.replace(ROW, pid=pid, cause=cause) for pid, cause in (causes or {}).items())
    sample = dataclasses.replace(EMPTY, processes=rows, time_wait=time_wait, ports=ports)
    return Observation(at, at + 0.01, sample, alive)


def _time_wait(
    count: int, pid: int | None, how: OwnerSource, listener: str | None = None, destination: str | None = None
) -> TimeWaitRow:
    owner = OwnerRow(pid, STARTED if pid else None, "python" if pid else None, "x.py" if pid else None, how)
    return TimeWaitRow(NS, destination, listener, count, 1.0, owner)


def _port_row(used: int, namespace: str = NS, destination: str = "127.0.0.1:9000") -> PortRow:
    return PortRow(namespace, "127.0.0.1", destination, used, 200, 0, 0, None, None, None, None)


def _leak_score(*causes: Cause | None) -> Score:
    """The score of a process that leaks from second 10 on, by its cause at 11, 13, 15 and so on."""
    truth = Truth(NS, frozenset({1}), (Fault(1, "leak", 10.0),))
    return score([(LEAK, truth)], [_observe(11.0 + 2 * number, {1: cause}) for number, cause in enumerate(causes)])


def test_a_fault_that_is_told_in_time_and_stays_told_scores_full() -> None:
    """The first two samples after the onset are not due yet."""
    result = _leak_score(None, None, "leak", "leak")
    assert (result.precision, result.recall, result.false_alarms) == (1.0, 1.0, 0)
    (program,) = result.programs
    assert (program.due, program.right, program.samples_until_right, program.told_in_time) == (2, 2, 3, True)


def test_a_fault_that_is_told_late_costs_recall_and_the_goal() -> None:
    """One sample late is late; nothing was said that is wrong."""
    result = _leak_score(None, None, None, "leak")
    assert (result.precision, result.recall) == (1.0, 0.5)
    assert not result.programs[0].told_in_time
    assert "| right verdict, samples after onset | late: a leak | ≤ 3 | **no** |" in markdown(result, tracer=True)


def test_another_cause_costs_precision_and_recall() -> None:
    """`unknown` is another cause, too."""
    result = _leak_score(None, None, "leak", "unknown")
    assert (result.precision, result.recall) == (0.5, 0.5)
    assert result.programs[0].verdicts == {"leak": 1, "unknown": 1}


def test_a_process_that_is_not_reported_is_not_told() -> None:
    """Silence is no success."""
    truth = Truth(NS, frozenset({1}), (Fault(1, "leak", 10.0),))
    result = score([(LEAK, truth)], [_observe(at) for at in (11.0, 13.0, 15.0)])
    assert (result.precision, result.recall) == (0.0, 0.0)


def test_a_program_that_never_said_that_it_misbehaves_is_a_miss() -> None:
    """A lab whose programs do not work must not pass."""
    result = score([(LEAK, Truth(NS, frozenset({1})))], [_observe(11.0, {1: None})])
    assert result.recall == 0.0
    assert not result.programs[0].told_in_time


def test_a_skipped_program_is_named_and_not_held_against_anybody() -> None:
    """What can not be had here can not be scored here."""
    result = score([(LEAK, parse_truth(['{"skipped": "no cpu controller"}']))], [_observe(11.0)])
    assert result.programs[0].told_in_time
    assert "skipped: no cpu controller" in markdown(result, tracer=True)


@pytest.mark.parametrize("pid", [1, 2])
def test_a_cause_for_a_process_that_does_nothing_wrong_is_a_false_alarm(pid: int) -> None:
    """Before its onset, too, and of the other end of a leak."""
    truth = Truth(NS, frozenset({1, 2}), (Fault(1, "leak", 10.0),))
    result = score([(LEAK, truth)], [_observe(9.0, {pid: "leak"})])
    assert (result.false_alarms, result.precision) == (1, 0.0)


def test_what_was_there_before_is_judged_from_the_third_sample_on() -> None:
    """One sample can not tell whether a population turns over."""
    truth = Truth(NS, frozenset({1}))
    observations = [_observe(at, {1: "leak"}) for at in (1.0, 3.0)] + [_observe(5.0, {1: None})]
    assert score([(WARM, truth)], observations).false_alarms == 0
    assert score([(WARM, truth)], [*observations, _observe(7.0, {1: "unknown"})]).false_alarms == 1
    assert score([(HEALTHY, truth)], observations).false_alarms == 2


def test_descriptors_of_a_healthy_program_that_are_said_to_run_out_are_a_false_warning() -> None:
    """Of one that leaks, they do."""
    sample = dataclasses.replace(EMPTY, processes=(dataclasses.replace(ROW, pid=1, fd_eta_seconds=3_600.0),))
    observations = [Observation(11.0, 11.1, sample, frozenset({1}))]
    truth = Truth(NS, frozenset({1}), (Fault(1, "leak", 10.0),))
    result = score([(HEALTHY, Truth(NS, frozenset({1})))], observations)
    assert (result.false_warnings, result.programs[0].verdicts) == (1, {"false fd-eta": 1})
    assert "| descriptors or ports said to run out that do not | 1 | 0 | **no** |" in markdown(result, tracer=True)
    assert score([(LEAK, truth)], observations).false_warnings == 0


def test_ports_of_a_healthy_program_that_are_said_to_be_nearly_used_up_are_a_false_warning() -> None:
    """In its own namespace, towards whatever destination."""
    truth = Truth(NS, frozenset({1}))
    full = [_observe(11.0, ports=(_port_row(161),))]
    fine = [_observe(11.0, ports=(_port_row(160), _port_row(200, namespace="1")))]
    assert score([(HEALTHY, truth)], full).false_warnings == 1
    assert score([(HEALTHY, truth)], fine).false_warnings == 0


def test_processes_of_others_are_not_scored() -> None:
    """The machine may have leaks of its own."""
    result = score([(HEALTHY, Truth(NS, frozenset({1})))], [_observe(9.0, {1: None, 4711: "leak"})])
    assert result.false_alarms == 0


def test_ports_are_told_by_the_budget_towards_the_destination_in_the_namespace() -> None:
    """A full budget elsewhere is not that one."""
    truth = Truth(NS, frozenset({1}), ports=FullPorts(9000, 0.8, 10.0))
    told = [_observe(11.0 + 2 * number, ports=(_port_row(165),)) for number in range(4)]
    elsewhere = (_port_row(165, namespace="1"), _port_row(165, destination="127.0.0.1:80"), _port_row(100))
    assert score([(PORTS, truth)], told).recall == 1.0
    assert score([(PORTS, truth)], [_observe(15.0 + at, ports=elsewhere) for at in range(3)]).recall == 0.0


def _closes(pid: int, count: int, local_port: int = 40_000, remote_port: int = 80) -> tuple[Close, ...]:
    return tuple(Close(100.0, pid, local_port, remote_port) for _ in range(count))


def test_owners_are_scored_socket_by_socket() -> None:
    """Of 100 sockets: 60 rightly charged for certain, 20 by the destination, 5 to the wrong process, 15 to nobody."""
    truth = Truth(NS, frozenset({1}), closes=_closes(1, 100))
    to = "127.0.0.1:80"
    rows = (
        _time_wait(60, 1, "exact", destination=to),
        _time_wait(20, 1, "destination", destination=to),
        _time_wait(5, 9, "destination", destination=to),
        _time_wait(15, None, "unattributed", destination=to),
    )
    owners = score([(HEALTHY, truth)], [_observe(101.0, time_wait=rows)]).owners
    assert (owners.right, owners.wrong, owners.unattributed) == (
        {"exact": 60, "destination": 20},
        {"exact": 0, "destination": 5},
        15,
    )
    assert owners.wrong_share == pytest.approx(0.05)
    assert owners.certain_share == pytest.approx(0.6)


def test_more_sockets_than_a_process_closed_are_not_its_own() -> None:
    """Two processes share a destination, and one is charged with everything."""
    truth = Truth(NS, frozenset({1, 2}), closes=_closes(1, 30) + _closes(2, 10))
    rows = (_time_wait(40, 1, "exact", destination="127.0.0.1:80"),)
    owners = score([(HEALTHY, truth)], [_observe(101.0, time_wait=rows)]).owners
    assert (owners.right["exact"], owners.wrong["exact"]) == (30, 10)


def test_owners_that_were_taken_for_each_other_are_wrong() -> None:
    """Their rates differ, so their numbers do."""
    truth = Truth(NS, frozenset({1, 2}), closes=_closes(1, 10) + _closes(2, 60))
    rows = tuple(_time_wait(count, pid, "exact", destination="127.0.0.1:80") for count, pid in ((60, 1), (10, 2)))
    owners = score([(HEALTHY, truth)], [_observe(101.0, time_wait=rows)]).owners
    assert (owners.right["exact"], owners.wrong["exact"]) == (20, 50)


def test_sockets_of_who_closes_nothing_are_counted_by_themselves() -> None:
    """They are few among those of the whole lab, and yet none may be."""
    truth = parse_truth(
        [f'{{"namespace": "{NS}"}}', '{"pid": 1}', '{"pid": 2}', '{"pid": 2, "closes": 0}'],
        ["100.0 1 40000 80", "100.0 1 40001 80"],
    )
    rows = tuple(_time_wait(1, pid, "destination", destination="127.0.0.1:80") for pid in (1, 2))
    result = score([(HEALTHY, truth)], [_observe(101.0, time_wait=rows)])
    assert (result.owners.of_bystanders, result.owners.wrong["destination"]) == (1, 1)
    assert "| TIME_WAIT, charged to one who closes nothing | 1 | 0 | **no** |" in markdown(result, tracer=False)


def test_owners_that_are_dead_do_not_count_towards_certainty() -> None:
    """Nobody can be asked for more than the processes that live."""
    truth = Truth(NS, frozenset({1, 2}), closes=_closes(1, 30, 80, 5_000) + _closes(2, 10, 80, 5_001))
    rows = (
        _time_wait(30, 1, "listener", listener="127.0.0.1:80"),
        _time_wait(10, None, "unattributed", "127.0.0.1:80"),
    )
    owners = score([(HEALTHY, truth)], [_observe(101.0, time_wait=rows, alive=frozenset({1}))]).owners
    assert owners.certain_share == pytest.approx(1.0)


def test_sockets_of_which_nobody_keeps_notes_are_not_scored() -> None:
    """Nor is the row that stands for the rest, nor another namespace."""
    truth = Truth("1", closes=_closes(1, 30))
    rows = (_time_wait(30, 9, "exact", destination="127.0.0.1:80"), _time_wait(5, None, "unattributed"))
    assert score([(HEALTHY, truth)], [_observe(101.0, time_wait=rows)]).owners.total == 0


def test_sockets_that_the_sample_does_not_show_are_missing() -> None:
    """Those that may have left TIME_WAIT already are not."""
    truth = Truth(NS, frozenset({1}), closes=_closes(1, 30))
    shown = _observe(101.0, time_wait=(_time_wait(20, None, "unattributed", destination="127.0.0.1:80"),))
    owners = score([(HEALTHY, truth)], [shown, _observe(102.0), _observe(160.0)]).owners
    assert (owners.closed, owners.missing) == (60, 10 + 30)
    assert "| TIME_WAIT, sockets in no row | 0.6667 | ≤ 0.01 | **no** |" in markdown(
        score([(HEALTHY, truth)], [shown, _observe(102.0), _observe(160.0)]), tracer=True
    )


def test_a_pair_of_ports_that_was_used_again_is_in_time_wait_once() -> None:
    """The kernel lets a new connection take the place of the TIME_WAIT socket of the old one."""
    notes = ["100.0 1 40000 80", "103.0 2 40000 80", "100.0 1 40001 80"]
    truth = parse_truth([f'{{"namespace": "{NS}"}}'], notes)
    assert {(close.at, close.local_port): close.again for close in truth.closes} == {
        (100.0, 40000): 103.0,
        (100.0, 40001): float("inf"),
        (103.0, 40000): float("inf"),
    }
    rows = (_time_wait(2, 1, "exact", destination="127.0.0.1:80"),)
    owners = score([(HEALTHY, truth)], [_observe(105.0, time_wait=rows)]).owners
    assert (owners.right["exact"], owners.wrong["exact"], owners.closed, owners.missing) == (1, 1, 2, 0)


def test_certainty_is_no_goal_without_the_tracer() -> None:
    """It is shown all the same."""
    result = _leak_score(None, None, "leak")
    assert goals(result, tracer=True)[-1].met is False
    assert goals(result, tracer=False)[-1].met is None


def test_truth_is_read_back_without_the_line_that_was_cut_off(tmp_path: Path) -> None:
    """A program is ended in the middle of whatever it does."""
    (tmp_path / "truth").write_text('{"namespace": "7"}\n{"pid": 3}\n{"pid": 3, "cause": "leak", "since": 1.5}\n{"pi')
    (tmp_path / "3.closes").write_text("2.5 3 40000 80\n2.6 3 4")
    assert read_truth(tmp_path) == Truth(
        "7", frozenset({3}), (Fault(3, "leak", 1.5),), None, (Close(2.5, 3, 40000, 80),)
    )


def test_every_program_is_scored() -> None:
    """The folder and the list hold the same."""
    assert {entry.script for entry in CATALOGUE} == {file.stem for file in PROGRAMS.glob("*.py")}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_small_part_of_the_lab_scores_right() -> None:
    """Real programs, real sockets, the real sampler."""
    scripts = ("forgets_to_close", "idle_pool", "quiet_pool", "busy_churn")
    entries = [entry for entry in CATALOGUE if entry.script in scripts and not entry.arguments]
    began = time.monotonic()
    result = measure(entries, samples=6, interval=2.0, tracer=False)
    assert time.monotonic() - began < 60
    assert result.false_alarms == 0, markdown(result, tracer=False)
    assert all(program.told_in_time for program in result.programs), markdown(result, tracer=False)
    assert (result.precision, result.recall) == (1.0, 1.0), markdown(result, tracer=False)
    assert result.owners.wrong_share <= 0.02, markdown(result, tracer=False)
    assert result.owners.missing_share <= 0.01, markdown(result, tracer=False)
    assert result.owners.total > 0
