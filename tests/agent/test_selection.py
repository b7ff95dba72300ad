"""Which processes are reported one by one, and the sum of the others."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loiter_agent.sample import OtherProcesses, ProcessFds, ProcessKey, ProcessSockets
from loiter_agent.selection import Candidate, remainder, select

properties = settings(derandomize=True, max_examples=100, deadline=None, database=None)


def candidate(
    pid: int, close_wait: int = 0, sockets: int = 0, fd_open: int | None = 0, fd_limit: int | None = 1_000
) -> Candidate:
    charged = ProcessSockets(established=sockets - close_wait, close_wait=close_wait, total=sockets)
    return Candidate(ProcessFds(ProcessKey(pid, pid), "worker", fd_open, fd_limit), charged)


def pids(chosen: list[Candidate]) -> list[int]:
    return [one.key.pid for one in chosen]


def test_every_close_wait_holder_is_chosen() -> None:
    """Even where nothing is to be chosen for its size; the most comes first."""
    candidates = [candidate(1, 1, 1), candidate(2, 0, 500), candidate(3, 7, 7), candidate(4, 2, 2)]
    assert pids(select(candidates, top=0, limit=10)) == [3, 4, 1]


def test_the_largest_are_chosen_by_each_measure() -> None:
    """By sockets, by descriptors, and by the share of the limit."""
    candidates = [
        candidate(1, sockets=50, fd_open=60),
        candidate(2, sockets=1, fd_open=900, fd_limit=1_000_000),
        candidate(3, sockets=1, fd_open=10, fd_limit=10),
        candidate(4, sockets=2, fd_open=20),
    ]
    assert pids(select(candidates, top=1, limit=10)) == [1, 2, 3]


def test_those_with_the_most_time_wait_are_chosen() -> None:
    """The sockets are not theirs any more: they count neither as sockets nor as descriptors."""
    closer = Candidate(candidate(1).process, ProcessSockets(time_wait=500))
    slower = Candidate(candidate(2).process, ProcessSockets(time_wait=499))
    unknown = Candidate(candidate(3).process, ProcessSockets(time_wait=None))
    assert pids(select([slower, closer, unknown], top=1, limit=10)) == [1]


def test_whoever_runs_out_of_ports_is_chosen() -> None:
    """From half of them on, however small it is otherwise."""
    half, less, unknown = (
        Candidate(candidate(pid).process, ProcessSockets(ports_share=share))
        for pid, share in ((1, 0.5), (2, 0.49), (3, None))
    )
    assert pids(select([half, less, unknown], top=0, limit=10)) == [1]


def test_processes_without_anything_are_not_chosen() -> None:
    """There may be fewer than `top` that are worth a row."""
    assert select([candidate(1), candidate(2, fd_open=None, fd_limit=None)], top=10, limit=10) == []


def test_the_limit_cuts_the_least_close_wait() -> None:
    """It beats every other measure."""
    candidates = [candidate(1, 1, 900, 900), candidate(2, 2, 2, 2), candidate(3, 0, 5_000, 5_000)]
    assert pids(select(candidates, top=10, limit=2)) == [2, 1]


def test_ties_are_ordered_by_sockets_then_descriptors_then_pid() -> None:
    """The order does not depend on that of the scan."""
    candidates = [
        candidate(5, 1, 1, 10),
        candidate(4, 1, 1, 20),
        candidate(3, 1, 9, 1),
        candidate(2, 1, 1, 10),
    ]
    assert pids(select(candidates, top=0, limit=10)) == [3, 4, 2, 5]


def test_an_unlimited_process_has_no_share() -> None:
    """Nor has one whose descriptors could not be counted."""
    assert candidate(1, fd_open=10, fd_limit=None).fd_share == 0
    assert candidate(1, fd_open=None).fd_share == 0
    assert candidate(1, fd_open=10, fd_limit=40).fd_share == 0.25


def test_the_others_are_added_up() -> None:
    """Sockets and descriptors; those that could not be counted add nothing."""
    candidates = [candidate(1, 1, 3, 10), candidate(2, 2, 5, 20), candidate(3, 0, 0, None)]
    assert remainder(candidates, candidates[:1]) == OtherProcesses(2, 3, 2, 5, 20)


def test_without_sockets_read_the_others_sockets_are_unknown() -> None:
    """Unknown is None, never 0; descriptors are known all the same."""
    unread = [Candidate(candidate(pid, fd_open=pid).process, None) for pid in (1, 2, 3)]
    assert pids(select(unread, top=1, limit=10)) == [3]
    assert remainder(unread, unread[2:]) == OtherProcesses(2, None, None, None, 3)


def test_no_processes_are_zero_others() -> None:
    """All of nothing is known."""
    assert remainder([], []) == OtherProcesses(0, 0, 0, 0, 0)


made = st.lists(
    st.builds(
        lambda close_wait, more, fd_open, fd_limit: (close_wait, close_wait + more, fd_open, fd_limit),
        st.integers(0, 3),
        st.integers(0, 5),
        st.none() | st.integers(0, 50),
        st.none() | st.integers(1, 100),
    ),
    max_size=20,
).map(lambda rows: [candidate(pid, *row) for pid, row in enumerate(rows, start=1)])


@properties
@given(made, st.integers(0, 5), st.integers(1, 10))
def test_chosen_and_others_are_the_whole(candidates: list[Candidate], top: int, limit: int) -> None:
    """No process is lost or counted twice, and no CLOSE_WAIT holder gives way to one without."""
    chosen = select(candidates, top, limit)
    others = remainder(candidates, chosen)
    assert len(chosen) <= limit
    assert len(set(pids(chosen))) == len(chosen)
    assert len(chosen) + others.processes == len(candidates)
    assert sum(one.close_wait for one in chosen) + (others.close_wait or 0) == sum(one.close_wait for one in candidates)
    if others.close_wait:
        assert len(chosen) == limit
        assert all(one.close_wait for one in chosen)
