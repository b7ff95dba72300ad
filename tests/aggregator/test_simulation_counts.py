"""What the workers of a simulation count, and what it comes to."""

from __future__ import annotations

import pytest

from loiter_aggregator.simulation.counts import Boards, Count


def test_the_counts_of_workers_are_added_up() -> None:
    """What was sent and not answered waits."""
    boards = Boards(2, 3)
    for worker, sent in enumerate((5, 7)):
        board = boards.board(worker)
        board.add(Count.SENT, sent)
        board.add(Count.ACKNOWLEDGED, 4)
        board.add(Count.REJECTED)
    totals = boards.totals()
    assert totals.counts[Count.SENT] == 12
    assert totals.waiting == 2
    assert totals.latency_p50 is None
    assert totals.size_p99 is None


def test_percentiles_are_right_to_a_twentieth() -> None:
    """Over what all workers saw; the longest exactly."""
    boards = Boards(2, 1)
    for number in range(1, 1_001):
        boards.board(number % 2).add_latency(number / 100)
        boards.board(number % 2).add_size(number)
    totals = boards.totals()
    assert totals.latency_p50 == pytest.approx(5.0, rel=0.05)
    assert totals.latency_p99 == pytest.approx(9.9, rel=0.05)
    assert totals.latency_max == 10.0
    assert totals.size_p50 == pytest.approx(500, abs=16)
    assert totals.size_p99 == pytest.approx(990, abs=16)


def test_a_simulation_is_as_far_as_its_hosts() -> None:
    """One that has ended has delivered all there was."""
    boards = Boards(1, 4)
    board = boards.board(0)
    assert boards.through(0) == 1.0
    assert boards.through(100) == 0.0
    board.settled[0], board.settled[1], board.settled[2] = 100, 250, 50
    assert boards.through(100) == 0.625
    board.end(3)
    board.settled[2] = 99
    assert boards.through(100) < 1.0
    board.settled[2] = 100
    assert boards.through(100) == 1.0


def test_the_streams_of_a_worker_that_is_gone_are_gone() -> None:
    """What it has delivered stays."""
    boards = Boards(1, 1)
    boards.board(0).add(Count.STREAMS, 9)
    boards.board(0).add(Count.ACKNOWLEDGED, 9)
    boards.closed(0)
    assert boards.totals().counts[Count.STREAMS] == 0
    assert boards.totals().counts[Count.ACKNOWLEDGED] == 9


def test_a_complaint_is_what_was_said_last() -> None:
    """In so many bytes."""
    boards = Boards(2, 1)
    assert boards.complaint() is None
    boards.complain(1, "no")
    boards.complain(1, "never" * 1_000)
    assert boards.complaint() is not None
    assert len(boards.complaint() or "") < 400
