"""Charging sockets to processes from tick to tick: who is charged, and what is read to find out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter_agent.collectors.processes import ProcessScan, ProcessScanner
from loiter_agent.inet_diag import (
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
)
from loiter_agent.owners import Charges, Owners
from loiter_agent.sample import ProcessSockets
from support.netlink_messages import chunks, full_socket, mini_socket
from support.proctree_fake import CountingProcfs, ProcTree

properties = settings(derandomize=True, max_examples=40, deadline=None, database=None)

Socket = tuple[int, int]  # inode, state

SETTLED = 4  # ticks within which a charge finds its way


class Host:
    """A host with a fake /proc, whose socket table is given at each tick."""

    def __init__(self, folder: Path) -> None:
        self.tree = ProcTree(folder)
        self.procfs = CountingProcfs(self.tree.root)
        self.scanner = ProcessScanner(self.procfs)
        self.owners = Owners(self.procfs)

    def tick(self, sockets: Sequence[Socket] = (), cgroups: Sequence[int | None] = (), mini: bytes = b"") -> Charges:
        """One tick, in which the kernel lists these sockets."""
        scan = self.scanner.collect()
        self.procfs.forget()
        self.owners.begin(scan)
        self.feed(sockets, cgroups, mini)
        return self.owners.finish()

    def feed(self, sockets: Sequence[Socket], cgroups: Sequence[int | None] = (), mini: bytes = b"") -> None:
        ids = [*cgroups, *[None] * (len(sockets) - len(cgroups))]
        made = [full_socket(state, inode, cgroup) for (inode, state), cgroup in zip(sockets, ids, strict=True)]
        for chunk in chunks(*made, mini):
            self.owners.feed(chunk)

    def scan(self) -> ProcessScan:
        return self.scanner.collect()


def by_pid(charges: Charges) -> dict[int, int]:
    """How many sockets each pid is charged with."""
    return {key.pid: sockets.total for key, sockets in charges.by_process.items()}


def add_up(charges: Charges) -> None:
    """Every socket is counted once by state and once by who has it."""
    total = sum(charges.states.values())
    assert charges.attributed + charges.unattributed + charges.ownerless == total
    assert sum(sockets.total for sockets in charges.by_process.values()) == charges.attributed
    assert min(charges.attributed, charges.unattributed, charges.ownerless, *charges.states.values(), 0) == 0


@pytest.fixture
def machine(tmp_path: Path) -> Host:
    return Host(tmp_path)


class TestCharging:
    def test_sockets_are_charged_at_first_sight(self, machine: Host) -> None:
        """Each to the process with a descriptor for it, by state."""
        machine.tree.add(10, fds={0: "/dev/null", 3: 101, 4: 102, 5: 103})
        machine.tree.add(20, fds={7: 201})
        charges = machine.tick(
            [(101, TCP_ESTABLISHED), (102, TCP_CLOSE_WAIT), (103, TCP_LISTEN), (201, TCP_CLOSE_WAIT)]
        )
        assert {key.pid: sockets for key, sockets in charges.by_process.items()} == {
            10: ProcessSockets(established=1, close_wait=1, total=3),
            20: ProcessSockets(established=0, close_wait=1, total=1),
        }
        assert charges.states == {TCP_ESTABLISHED: 1, TCP_CLOSE_WAIT: 2, TCP_LISTEN: 1}
        assert (charges.attributed, charges.unattributed, charges.ownerless) == (4, 0, 0)

    def test_sockets_without_a_file_have_no_owner(self, machine: Host) -> None:
        """Inode 0: waiting to be accepted, or orphaned. No process is searched for it."""
        machine.tree.add(10, fds={3: 101})
        charges = machine.tick([(0, TCP_ESTABLISHED), (0, TCP_CLOSE_WAIT)])
        assert (charges.attributed, charges.unattributed, charges.ownerless) == (0, 0, 2)
        assert machine.procfs.folders == []

    def test_mini_sockets_have_no_owner(self, machine: Host) -> None:
        """TIME_WAIT sockets and connection requests belong to nobody, but count by state."""
        machine.tree.add(10, fds={3: 101})
        mini = mini_socket(TCP_TIME_WAIT) * 3 + mini_socket(TCP_SYN_RECV)
        charges = machine.tick([(101, TCP_LISTEN)], mini=mini)
        assert charges.states == {TCP_LISTEN: 1, TCP_TIME_WAIT: 3, TCP_NEW_SYN_RECV: 1}
        assert (charges.attributed, charges.unattributed, charges.ownerless) == (1, 0, 4)

    def test_a_tick_without_sockets_yields_nothing(self, machine: Host) -> None:
        """Not even zeros."""
        machine.tree.add(10, fds={3: 101})
        assert machine.tick() == Charges({}, {}, 0, 0, 0)

    def test_a_shared_socket_is_charged_once_to_the_oldest(self, machine: Host) -> None:
        """A child that inherited it started later; pids say nothing about age."""
        machine.tree.add(300, start_ticks=1, fds={3: 101})
        machine.tree.add(200, start_ticks=2, fds={3: 101})
        machine.tree.add(100, start_ticks=3, fds={3: 101})
        assert by_pid(machine.tick([(101, TCP_LISTEN)])) == {300: 1}

    def test_two_descriptors_of_one_socket_are_one_socket(self, machine: Host) -> None:
        """Of dup(2)."""
        machine.tree.add(10, fds={3: 101, 4: 101})
        assert by_pid(machine.tick([(101, TCP_ESTABLISHED)])) == {10: 1}

    def test_a_change_of_state_is_seen_in_the_same_tick(self, machine: Host) -> None:
        """Without any reading."""
        machine.tree.add(10, fds={3: 101})
        machine.tick([(101, TCP_ESTABLISHED)])
        charges = machine.tick([(101, TCP_CLOSE_WAIT)])
        assert list(charges.by_process.values()) == [ProcessSockets(established=0, close_wait=1, total=1)]
        assert machine.procfs.links == 0

    def test_a_socket_that_closes_is_forgotten(self, machine: Host) -> None:
        """Its process keeps the others."""
        machine.tree.add(10, fds={3: 101, 4: 102})
        machine.tick([(101, TCP_ESTABLISHED), (102, TCP_ESTABLISHED)])
        machine.tree.fds(10, {4: 102})
        assert by_pid(machine.tick([(102, TCP_ESTABLISHED)])) == {10: 1}

    def test_counting_may_start_over_within_a_tick(self, machine: Host) -> None:
        """After a torn dump: what was fed before counts no more."""
        machine.tree.add(10, fds={3: 101, 4: 102})
        machine.tick([(101, TCP_ESTABLISHED)])
        scan = machine.scan()
        machine.owners.begin(scan)
        machine.feed([(101, TCP_ESTABLISHED), (102, TCP_ESTABLISHED), (999, TCP_ESTABLISHED)])
        machine.owners.begin(scan)
        machine.feed([(101, TCP_ESTABLISHED), (102, TCP_CLOSE_WAIT)])
        charges = machine.owners.finish()
        assert list(charges.by_process.values()) == [ProcessSockets(established=1, close_wait=1, total=2)]
        assert (charges.attributed, charges.unattributed, charges.ownerless) == (2, 0, 0)

    def test_a_socket_that_a_dump_lists_twice_is_counted_as_listed(self, machine: Host) -> None:
        """A table that changes under the dump can do that: the sums still agree."""
        machine.tree.add(10, fds={3: 101})
        for _ in range(3):
            add_up(machine.tick([(101, TCP_ESTABLISHED), (101, TCP_CLOSE_WAIT)]))


class TestReading:
    def test_a_steady_tick_reads_no_descriptor(self, machine: Host) -> None:
        """Known sockets cost a look-up in memory."""
        machine.tree.add(10, fds={0: "/dev/null", 3: 101, 4: 102})
        machine.tree.add(20, fds={3: 201})
        table = [(101, TCP_ESTABLISHED), (102, TCP_CLOSE_WAIT), (201, TCP_LISTEN), (0, TCP_ESTABLISHED)]
        first = machine.tick(table)
        assert machine.procfs.links == 4
        for _ in range(3):
            assert machine.tick(table) == first
            assert (machine.procfs.folders, machine.procfs.links) == ([], 0)

    def test_a_new_socket_is_read_and_those_known_are_not(self, machine: Host) -> None:
        """Of the process whose descriptors changed, only the new one."""
        machine.tree.add(10, fds={3: 101, 4: 102})
        machine.tree.add(20, fds={3: 201})
        table = [(101, TCP_ESTABLISHED), (102, TCP_ESTABLISHED), (201, TCP_ESTABLISHED)]
        machine.tick(table)
        machine.tree.fds(20, {3: 201, 4: 202})
        assert by_pid(machine.tick([*table, (202, TCP_ESTABLISHED)])) == {10: 2, 20: 2}
        assert machine.procfs.folders == [20]
        assert machine.procfs.links == 1

    def test_processes_of_the_sockets_cgroup_are_read_first(self, machine: Host) -> None:
        """The search ends where the socket is found, and older processes elsewhere are left alone."""
        for pid in range(10, 20):
            machine.tree.add(pid, fds={3: 100 + pid}, cgroup="/system.slice/old.service")
        machine.tree.add(20, fds={3: 500}, cgroup="/system.slice/web.service")
        cgroup = machine.tree.cgroup_id("/system.slice/web.service")
        assert by_pid(machine.tick([(500, TCP_LISTEN)], cgroups=[cgroup])) == {20: 1}
        assert machine.procfs.folders == [20]

    def test_a_socket_outside_its_makers_cgroup_is_found_all_the_same(self, machine: Host) -> None:
        """A descriptor can be passed to any process."""
        machine.tree.add(10, cgroup="/system.slice/maker.service")
        machine.tree.add(20, fds={3: 500}, cgroup="/system.slice/user.service")
        cgroup = machine.tree.cgroup_id("/system.slice/maker.service")
        assert by_pid(machine.tick([(500, TCP_LISTEN)], cgroups=[cgroup])) == {20: 1}

    def test_without_the_unified_hierarchy_sockets_are_found_all_the_same(self, tmp_path: Path) -> None:
        """Cgroups are a hint, no more."""
        machine = Host(tmp_path)
        (machine.tree.root / "self/mountinfo").unlink()
        machine.owners = Owners(machine.procfs)
        machine.tree.add(20, fds={3: 500})
        assert by_pid(machine.tick([(500, TCP_LISTEN)], cgroups=[12345])) == {20: 1}

    def test_an_inode_that_nobody_holds_is_looked_for_at_growing_gaps(self, machine: Host) -> None:
        """After 1, 2, 4, … ticks, and at least every 16."""
        machine.tree.add(10, fds={3: 101})
        tries = []
        for number in range(60):
            charges = machine.tick([(666, TCP_ESTABLISHED)])
            assert charges.unattributed == 1
            if machine.procfs.folders:
                tries.append(number)
        assert [after - before for before, after in pairwise(tries)] == [1, 2, 4, 8, 16, 16]

    def test_a_new_socket_does_not_wait_for_those_that_are_not_found(self, machine: Host) -> None:
        """The gaps are of each inode."""
        machine.tree.add(10, fds={3: 101})
        for _ in range(5):
            machine.tick([(666, TCP_ESTABLISHED)])
        charges = machine.tick([(666, TCP_ESTABLISHED), (101, TCP_ESTABLISHED)])
        assert by_pid(charges) == {10: 1}
        assert charges.unattributed == 1

    def test_a_holder_that_turns_up_late_is_found(self, machine: Host) -> None:
        """Within the longest gap."""
        machine.tree.add(10)
        for _ in range(8):
            machine.tick([(101, TCP_ESTABLISHED)])
        machine.tree.fds(10, {3: 101})
        assert any(machine.tick([(101, TCP_ESTABLISHED)]).attributed for _ in range(16))


class TestProcessesThatEnd:
    def test_the_sockets_of_a_process_that_ended_go_to_its_child(self, machine: Host) -> None:
        """In the tick that does not see the parent any more."""
        machine.tree.add(10, fds={3: 101, 4: 102})
        machine.tree.add(20, fds={3: 101})
        table = [(101, TCP_ESTABLISHED), (102, TCP_ESTABLISHED)]
        assert by_pid(machine.tick(table)) == {10: 2}
        machine.tree.remove(10)
        charges = machine.tick(table[:1])
        assert by_pid(charges) == {20: 1}
        assert charges.unattributed == 0

    def test_a_process_that_ends_between_scan_and_search_leaves_its_sockets_unattributed(self, machine: Host) -> None:
        """Nobody is charged for it, and nothing fails."""
        machine.tree.add(10, fds={3: 101})
        machine.owners.begin(machine.scan())
        machine.tree.remove(10)
        machine.feed([(101, TCP_ESTABLISHED)])
        charges = machine.owners.finish()
        assert (dict(charges.by_process), charges.unattributed) == ({}, 1)

    def test_a_reused_pid_inherits_nothing(self, machine: Host) -> None:
        """The process is its pid and its start time."""
        machine.tree.add(10, start_ticks=1, fds={3: 101})
        machine.tick([(101, TCP_ESTABLISHED)])
        machine.tree.remove(10)
        machine.tree.add(10, start_ticks=2, fds={3: 102})
        charges = machine.tick([(102, TCP_CLOSE_WAIT)])
        assert [(key.start_ticks, sockets.total) for key, sockets in charges.by_process.items()] == [(2, 1)]


class TestSharedSockets:
    def test_the_charge_moves_to_the_child_when_the_parent_closes_its_copy(self, machine: Host) -> None:
        """Within a few ticks, and no socket is lost or counted twice on the way."""
        machine.tree.add(10, fds={0: "/dev/null", 3: 101, 4: 102})
        machine.tree.add(20, fds={3: 101})
        table = [(101, TCP_CLOSE_WAIT), (102, TCP_LISTEN)]
        assert by_pid(machine.tick(table)) == {10: 2}
        machine.tree.fds(10, {0: "/dev/null", 4: 102})
        for _ in range(SETTLED):
            charges = machine.tick(table)
            add_up(charges)
        assert by_pid(charges) == {10: 1, 20: 1}

    def test_a_copy_that_is_closed_while_another_socket_is_opened_is_noticed(self, machine: Host) -> None:
        """Reading the new socket shows that the old one is gone, though the number of descriptors is the same."""
        machine.tree.add(10, fds={3: 101})
        machine.tree.add(20, fds={3: 101})
        assert by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}
        machine.tree.fds(10, {4: 102})
        for _ in range(SETTLED):
            charges = machine.tick([(101, TCP_CLOSE_WAIT), (102, TCP_ESTABLISHED)])
            add_up(charges)
        assert by_pid(charges) == {10: 1, 20: 1}
        assert {key.pid: sockets.close_wait for key, sockets in charges.by_process.items()} == {10: 0, 20: 1}

    def test_a_descriptor_number_that_is_used_again_is_noticed(self, machine: Host) -> None:
        """As in a server that forks for each connection: accept gives the number that was closed just before."""
        machine.tree.add(10, fds={3: 101})
        machine.tree.add(20, fds={3: 101})
        assert by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}
        machine.tree.fds(10, {3: 102})
        for _ in range(SETTLED):
            charges = machine.tick([(101, TCP_CLOSE_WAIT), (102, TCP_ESTABLISHED)])
            add_up(charges)
        assert {key.pid: sockets.close_wait for key, sockets in charges.by_process.items()} == {10: 0, 20: 1}
        assert charges.unattributed == 0

    def test_a_handover_that_leaves_all_numbers_alone_is_noticed_in_time(self, machine: Host) -> None:
        """The parent closes its copy and opens a file in its stead, and nothing new is looked for."""
        machine.tree.add(10, fds={3: 101})
        machine.tree.add(20, fds={3: 101})
        assert by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}
        machine.tree.fds(10, {3: "/dev/null"})
        for _ in range(33):
            charges = machine.tick([(101, TCP_CLOSE_WAIT)])
        assert by_pid(charges) == {20: 1}

    def test_a_descriptor_of_a_huge_number_is_charged_like_any_other(self, machine: Host) -> None:
        """Without room being made for all those below it."""
        machine.tree.add(10, fds={3: 101, 1_000_000_000: 102})
        table = [(101, TCP_ESTABLISHED), (102, TCP_CLOSE_WAIT)]
        for _ in range(3):
            assert by_pid(machine.tick(table)) == {10: 2}
        (holder,) = machine.owners._holders.values()
        assert len(holder.inodes) == 4

    def test_a_parent_that_keeps_its_copy_keeps_the_charge(self, machine: Host) -> None:
        """Its other descriptors may come and go."""
        machine.tree.add(10, fds={3: 101})
        machine.tree.add(20, fds={3: 101})
        for more in range(6):
            machine.tree.fds(10, {3: 101, **{4 + n: "/dev/null" for n in range(more)}})
            assert by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}

    def test_a_doubt_about_many_descriptors_waits_until_they_may_be_read(self, machine: Host) -> None:
        """Reading again is held to a number of descriptors a tick; what is not used up is saved for the next."""
        crowd: dict[int, int | str] = dict.fromkeys(range(10, 3_010), "/dev/null")
        machine.tree.add(10, fds={3: 101, **crowd})
        machine.tree.add(20, fds={3: 101})
        assert by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}
        (machine.tree.root / "10/fd/3").unlink()
        reviewed = []
        for _ in range(4):
            charges = machine.tick([(101, TCP_CLOSE_WAIT)])
            reviewed.append(10 in machine.procfs.folders)
        assert reviewed[:2] == [False, True]
        assert by_pid(charges) == {20: 1}


class TestProperties:
    @properties
    @given(st.data())
    def test_counts_always_add_up(self, data: st.DataObject) -> None:
        """Whatever opens, closes, is shared or ends: each socket is counted once, and charged to a living process."""
        with TemporaryDirectory() as folder:
            one = Host(Path(folder))
            inodes = st.integers(0, 8)
            descriptors = st.dictionaries(st.integers(0, 5), inodes.filter(bool) | st.just("/dev/null"), max_size=5)
            alive: set[int] = set()
            for _ in range(data.draw(st.integers(1, 6))):
                for pid in data.draw(st.sets(st.integers(1, 4))):
                    if pid not in alive:
                        one.tree.add(pid, fds=data.draw(descriptors))
                        alive.add(pid)
                    elif data.draw(st.booleans()):
                        one.tree.fds(pid, data.draw(descriptors))
                    else:
                        one.tree.remove(pid)
                        alive.remove(pid)
                states = st.sampled_from((TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_LISTEN))
                table = data.draw(st.lists(st.tuples(inodes, states), max_size=8))
                mini = mini_socket(TCP_TIME_WAIT) * data.draw(st.integers(0, 2))
                charges = one.tick(table, mini=mini)
                add_up(charges)
                assert sum(charges.states.values()) == len(table) + len(mini) // len(mini_socket(TCP_TIME_WAIT))
                assert by_pid(charges).keys() <= alive

    @properties
    @given(st.lists(st.sets(st.integers(1, 6), max_size=6), min_size=1, max_size=4))
    def test_first_sight_is_exact(self, held: list[set[int]]) -> None:
        """Every socket that is held is charged to its oldest holder, every other one to nobody."""
        with TemporaryDirectory() as folder:
            one = Host(Path(folder))
            for pid, inodes in enumerate(held, start=1):
                one.tree.add(pid, fds=dict(enumerate(sorted(inodes))))
            expected: dict[int, int] = {}
            for inode in range(1, 7):
                holders = [pid for pid, inodes in enumerate(held, start=1) if inode in inodes]
                if holders:
                    expected[holders[0]] = expected.get(holders[0], 0) + 1
            charges = one.tick([(inode, TCP_ESTABLISHED) for inode in range(1, 7)])
            assert by_pid(charges) == expected
            assert charges.unattributed == 6 - sum(expected.values())
