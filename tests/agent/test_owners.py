"""Charging sockets to processes from tick to tick: who is charged, and what is read to find out."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter_agent.collectors.processes import ProcessScan, ProcessScanner
from loiter_agent.inet_diag import TCP_BOUND_INACTIVE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_LAST_ACK, TCP_LISTEN
from loiter_agent.owners import Charges, Owners
from loiter_agent.places import ROLE_ACCEPTED, ROLE_OPENED, UNKNOWN, Place
from loiter_agent.sample import ProcessKey
from support.netlink_messages import End, chunks, connection, full_socket
from support.proctree_fake import CountingProcfs, ProcTree

properties = settings(derandomize=True, max_examples=40, deadline=None, database=None)

Socket = tuple[int, int]  # inode, state

HOST = 1  # the namespace
SETTLED = 4  # ticks within which a charge finds its way


class Host:
    """A host with a fake /proc, whose socket table is given at each tick."""

    def __init__(self, folder: Path) -> None:
        self.tree = ProcTree(folder)
        self.procfs = CountingProcfs(self.tree.root)
        self.scanner = ProcessScanner(self.procfs)
        self.owners = Owners(self.procfs)
        self.found: dict[tuple[int, bytes], Place] = {}

    def tick(self, sockets: Sequence[Socket] = (), cgroups: Sequence[int | None] = ()) -> Charges:
        """One tick, in which the kernel lists these sockets."""
        return self.tick_of(messages(sockets, cgroups))

    def tick_of(self, made: Sequence[bytes], wanted: Sequence[bytes] = (), accepted: bool = False) -> Charges:
        """One tick, in which the kernel sends these messages. `found` is then where these connections were before."""
        scan = self.scanner.collect()
        self.procfs.forget()
        self.owners.begin(scan)
        self.feed_of(made, accepted)
        self.found = self.owners.before([(HOST, one) for one in wanted])
        return self.owners.finish()

    def feed(self, sockets: Sequence[Socket], cgroups: Sequence[int | None] = ()) -> None:
        self.feed_of(messages(sockets, cgroups))

    def feed_of(self, made: Sequence[bytes], accepted: bool = False) -> None:
        for chunk in chunks(*made):
            self.owners.feed(HOST, 0, chunk, chunk.states(), lambda *_: accepted)

    def scan(self) -> ProcessScan:
        return self.scanner.collect()

    def by_pid(self, charges: Charges) -> dict[int, int]:
        """How many sockets each pid is charged with."""
        return {pid: states.total() for pid, states in self.states_by_pid(charges).items()}

    def states_by_pid(self, charges: Charges) -> dict[int, Counter[int]]:
        """The states of the sockets that each pid is charged with."""
        found: dict[int, Counter[int]] = {}
        for place, states in charges.places.items():
            key = self.owners.process(place.holder)
            if key is not None:
                found.setdefault(key.pid, Counter()).update(states)
        return found


def messages(sockets: Sequence[Socket], cgroups: Sequence[int | None] = ()) -> list[bytes]:
    """The kernel's messages of sockets, each with a cookie of its own."""
    ids = [*cgroups, *[None] * (len(sockets) - len(cgroups))]
    return [
        full_socket(state, inode, cgroup, cookie=1_000 + number)
        for number, ((inode, state), cgroup) in enumerate(zip(sockets, ids, strict=True))
    ]


def by_state(charges: Charges) -> Counter[int]:
    """How many sockets are in each state."""
    found: Counter[int] = Counter()
    for states in charges.places.values():
        found.update(states)
    return found


def add_up(machine: Host, charges: Charges) -> None:
    """Every socket is counted once by state and once by who has it."""
    states = by_state(charges)
    assert charges.attributed + charges.unattributed + charges.ownerless == states.total()
    assert sum(machine.by_pid(charges).values()) == charges.attributed
    assert min(charges.attributed, charges.unattributed, charges.ownerless, *states.values(), 0) == 0


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
        assert machine.states_by_pid(charges) == {
            10: {TCP_ESTABLISHED: 1, TCP_CLOSE_WAIT: 1, TCP_LISTEN: 1},
            20: {TCP_CLOSE_WAIT: 1},
        }
        assert by_state(charges) == {TCP_ESTABLISHED: 1, TCP_CLOSE_WAIT: 2, TCP_LISTEN: 1}
        assert (charges.attributed, charges.unattributed, charges.ownerless) == (4, 0, 0)

    def test_sockets_without_a_file_have_no_owner(self, machine: Host) -> None:
        """Inode 0: waiting to be accepted, or orphaned. No process is searched for it."""
        machine.tree.add(10, fds={3: 101})
        charges = machine.tick([(0, TCP_ESTABLISHED), (0, TCP_CLOSE_WAIT)])
        assert (charges.attributed, charges.unattributed, charges.ownerless) == (0, 0, 2)
        assert machine.procfs.folders == []

    def test_a_tick_without_sockets_yields_nothing(self, machine: Host) -> None:
        """Not even zeros."""
        machine.tree.add(10, fds={3: 101})
        assert machine.tick() == Charges({}, 0, 0, 0, {})

    def test_a_shared_socket_is_charged_once_to_the_oldest(self, machine: Host) -> None:
        """A child that inherited it started later; pids say nothing about age."""
        machine.tree.add(300, start_ticks=1, fds={3: 101})
        machine.tree.add(200, start_ticks=2, fds={3: 101})
        machine.tree.add(100, start_ticks=3, fds={3: 101})
        assert machine.by_pid(machine.tick([(101, TCP_LISTEN)])) == {300: 1}

    def test_two_descriptors_of_one_socket_are_one_socket(self, machine: Host) -> None:
        """Of dup(2)."""
        machine.tree.add(10, fds={3: 101, 4: 101})
        assert machine.by_pid(machine.tick([(101, TCP_ESTABLISHED)])) == {10: 1}

    def test_a_change_of_state_is_seen_in_the_same_tick(self, machine: Host) -> None:
        """Without any reading."""
        machine.tree.add(10, fds={3: 101})
        machine.tick([(101, TCP_ESTABLISHED)])
        charges = machine.tick([(101, TCP_CLOSE_WAIT)])
        assert machine.states_by_pid(charges) == {10: {TCP_CLOSE_WAIT: 1}}
        assert machine.procfs.links == 0

    def test_a_socket_that_closes_is_forgotten(self, machine: Host) -> None:
        """Its process keeps the others."""
        machine.tree.add(10, fds={3: 101, 4: 102})
        machine.tick([(101, TCP_ESTABLISHED), (102, TCP_ESTABLISHED)])
        machine.tree.fds(10, {4: 102})
        assert machine.by_pid(machine.tick([(102, TCP_ESTABLISHED)])) == {10: 1}

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
        assert machine.states_by_pid(charges) == {10: {TCP_ESTABLISHED: 1, TCP_CLOSE_WAIT: 1}}
        assert (charges.attributed, charges.unattributed, charges.ownerless) == (2, 0, 0)

    def test_a_socket_that_a_dump_lists_twice_is_counted_as_listed(self, machine: Host) -> None:
        """A table that changes under the dump can do that: the sums still agree."""
        machine.tree.add(10, fds={3: 101})
        for _ in range(3):
            add_up(machine, machine.tick([(101, TCP_ESTABLISHED), (101, TCP_CLOSE_WAIT)]))


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
        assert machine.by_pid(machine.tick([*table, (202, TCP_ESTABLISHED)])) == {10: 2, 20: 2}
        assert machine.procfs.folders == [20]
        assert machine.procfs.links == 1

    def test_processes_of_the_sockets_cgroup_are_read_first(self, machine: Host) -> None:
        """The search ends where the socket is found, and older processes elsewhere are left alone."""
        for pid in range(10, 20):
            machine.tree.add(pid, fds={3: 100 + pid}, cgroup="/system.slice/old.service")
        machine.tree.add(20, fds={3: 500}, cgroup="/system.slice/web.service")
        cgroup = machine.tree.cgroup_id("/system.slice/web.service")
        assert machine.by_pid(machine.tick([(500, TCP_LISTEN)], cgroups=[cgroup])) == {20: 1}
        assert machine.procfs.folders == [20]

    def test_a_socket_outside_its_makers_cgroup_is_found_all_the_same(self, machine: Host) -> None:
        """A descriptor can be passed to any process."""
        machine.tree.add(10, cgroup="/system.slice/maker.service")
        machine.tree.add(20, fds={3: 500}, cgroup="/system.slice/user.service")
        cgroup = machine.tree.cgroup_id("/system.slice/maker.service")
        assert machine.by_pid(machine.tick([(500, TCP_LISTEN)], cgroups=[cgroup])) == {20: 1}

    def test_without_the_unified_hierarchy_sockets_are_found_all_the_same(self, tmp_path: Path) -> None:
        """Cgroups are a hint, no more."""
        machine = Host(tmp_path)
        (machine.tree.root / "self/mountinfo").unlink()
        machine.owners = Owners(machine.procfs)
        machine.tree.add(20, fds={3: 500})
        assert machine.by_pid(machine.tick([(500, TCP_LISTEN)], cgroups=[12345])) == {20: 1}

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
        assert machine.by_pid(charges) == {10: 1}
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
        assert machine.by_pid(machine.tick(table)) == {10: 2}
        machine.tree.remove(10)
        charges = machine.tick(table[:1])
        assert machine.by_pid(charges) == {20: 1}
        assert charges.unattributed == 0

    def test_a_process_that_ends_between_scan_and_search_leaves_its_sockets_unattributed(self, machine: Host) -> None:
        """Nobody is charged for it, and nothing fails."""
        machine.tree.add(10, fds={3: 101})
        machine.owners.begin(machine.scan())
        machine.tree.remove(10)
        machine.feed([(101, TCP_ESTABLISHED)])
        charges = machine.owners.finish()
        assert (machine.by_pid(charges), charges.unattributed) == ({}, 1)

    def test_a_reused_pid_inherits_nothing(self, machine: Host) -> None:
        """The process is its pid and its start time."""
        machine.tree.add(10, start_ticks=1, fds={3: 101})
        machine.tick([(101, TCP_ESTABLISHED)])
        machine.tree.remove(10)
        machine.tree.add(10, start_ticks=2, fds={3: 102})
        charges = machine.tick([(102, TCP_CLOSE_WAIT)])
        (place,) = charges.places
        assert machine.owners.process(place.holder) == ProcessKey(10, 2)


class TestSharedSockets:
    def test_the_charge_moves_to_the_child_when_the_parent_closes_its_copy(self, machine: Host) -> None:
        """Within a few ticks, and no socket is lost or counted twice on the way."""
        machine.tree.add(10, fds={0: "/dev/null", 3: 101, 4: 102})
        machine.tree.add(20, fds={3: 101})
        table = [(101, TCP_CLOSE_WAIT), (102, TCP_LISTEN)]
        assert machine.by_pid(machine.tick(table)) == {10: 2}
        machine.tree.fds(10, {0: "/dev/null", 4: 102})
        for _ in range(SETTLED):
            charges = machine.tick(table)
            add_up(machine, charges)
        assert machine.by_pid(charges) == {10: 1, 20: 1}

    def test_a_copy_that_is_closed_while_another_socket_is_opened_is_noticed(self, machine: Host) -> None:
        """Reading the new socket shows that the old one is gone, though the number of descriptors is the same."""
        machine.tree.add(10, fds={3: 101})
        machine.tree.add(20, fds={3: 101})
        assert machine.by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}
        machine.tree.fds(10, {4: 102})
        for _ in range(SETTLED):
            charges = machine.tick([(101, TCP_CLOSE_WAIT), (102, TCP_ESTABLISHED)])
            add_up(machine, charges)
        assert machine.by_pid(charges) == {10: 1, 20: 1}
        assert machine.states_by_pid(charges) == {10: {TCP_ESTABLISHED: 1}, 20: {TCP_CLOSE_WAIT: 1}}

    def test_a_descriptor_number_that_is_used_again_is_noticed(self, machine: Host) -> None:
        """As in a server that forks for each connection: accept gives the number that was closed just before."""
        machine.tree.add(10, fds={3: 101})
        machine.tree.add(20, fds={3: 101})
        assert machine.by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}
        machine.tree.fds(10, {3: 102})
        for _ in range(SETTLED):
            charges = machine.tick([(101, TCP_CLOSE_WAIT), (102, TCP_ESTABLISHED)])
            add_up(machine, charges)
        assert machine.states_by_pid(charges) == {10: {TCP_ESTABLISHED: 1}, 20: {TCP_CLOSE_WAIT: 1}}
        assert charges.unattributed == 0

    def test_a_handover_that_leaves_all_numbers_alone_is_noticed_in_time(self, machine: Host) -> None:
        """The parent closes its copy and opens a file in its stead, and nothing new is looked for."""
        machine.tree.add(10, fds={3: 101})
        machine.tree.add(20, fds={3: 101})
        assert machine.by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}
        machine.tree.fds(10, {3: "/dev/null"})
        for _ in range(33):
            charges = machine.tick([(101, TCP_CLOSE_WAIT)])
        assert machine.by_pid(charges) == {20: 1}

    def test_a_descriptor_of_a_huge_number_is_charged_like_any_other(self, machine: Host) -> None:
        """Without room being made for all those below it."""
        machine.tree.add(10, fds={3: 101, 1_000_000_000: 102})
        table = [(101, TCP_ESTABLISHED), (102, TCP_CLOSE_WAIT)]
        for _ in range(3):
            assert machine.by_pid(machine.tick(table)) == {10: 2}
        (holder,) = machine.owners._holders.values()
        assert len(holder.inodes) == 4

    def test_a_parent_that_keeps_its_copy_keeps_the_charge(self, machine: Host) -> None:
        """Its other descriptors may come and go."""
        machine.tree.add(10, fds={3: 101})
        machine.tree.add(20, fds={3: 101})
        for more in range(6):
            machine.tree.fds(10, {3: 101, **{4 + n: "/dev/null" for n in range(more)}})
            assert machine.by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}

    def test_a_doubt_about_many_descriptors_waits_until_they_may_be_read(self, machine: Host) -> None:
        """Reading again is held to a number of descriptors a tick; what is not used up is saved for the next."""
        crowd: dict[int, int | str] = dict.fromkeys(range(10, 3_010), "/dev/null")
        machine.tree.add(10, fds={3: 101, **crowd})
        machine.tree.add(20, fds={3: 101})
        assert machine.by_pid(machine.tick([(101, TCP_CLOSE_WAIT)])) == {10: 1}
        (machine.tree.root / "10/fd/3").unlink()
        reviewed = []
        for _ in range(4):
            charges = machine.tick([(101, TCP_CLOSE_WAIT)])
            reviewed.append(10 in machine.procfs.folders)
        assert reviewed[:2] == [False, True]
        assert machine.by_pid(charges) == {20: 1}


OURS, PEER, OTHER = ("10.0.0.1", 8080), ("10.0.0.2", 40_000), ("10.0.0.3", 40_000)


def place(holder: int, role: int, source: str, destination: str = "", port: int = 0) -> Place:
    """A place of IPv4."""
    far = connection((source, 1), (destination, 1))[20:36] if destination else b""
    return Place(HOST, holder, role, socket.AF_INET, connection((source, 1), PEER)[4:20], far, port)


class TestPlaces:
    def test_an_opened_connection_is_at_its_destination(self, machine: Host) -> None:
        """Those to one destination are at one place, whatever their local ports."""
        machine.tree.add(10, fds={3: 101, 4: 102})
        charges = machine.tick_of(
            [
                full_socket(TCP_ESTABLISHED, inode, local=("10.0.0.1", port), remote=("10.0.0.2", 443))
                for inode, port in ((101, 40_001), (102, 40_002))
            ]
        )
        assert charges.places == {place(0, ROLE_OPENED, "10.0.0.1", "10.0.0.2", 443): {TCP_ESTABLISHED: 2}}

    def test_an_accepted_connection_is_at_its_own_port(self, machine: Host) -> None:
        """Whoever its peers are."""
        machine.tree.add(10, fds={3: 101, 4: 102})
        pair = ((101, PEER), (102, OTHER))
        made = [full_socket(TCP_ESTABLISHED, inode, local=OURS, remote=peer) for inode, peer in pair]
        charges = machine.tick_of(made, accepted=True)
        assert charges.places == {place(0, ROLE_ACCEPTED, "10.0.0.1", port=8080): {TCP_ESTABLISHED: 2}}

    def test_the_same_cookie_in_two_namespaces_is_two_sockets(self, machine: Host) -> None:
        """Before Linux 5.11, each namespace counts its own."""
        machine.owners.begin(machine.scan())
        for namespace, offset in ((1, 0), (2, 1 << 32)):
            for chunk in chunks(full_socket(TCP_ESTABLISHED, 0, cookie=7)):
                machine.owners.feed(namespace, offset, chunk, chunk.states(), lambda *_: False)
        charges = machine.owners.finish()
        assert charges.ownerless == 2
        assert {one.namespace for one in charges.places} == {1, 2}

    def test_a_socket_that_its_process_let_go_of_keeps_who_held_it(self, machine: Host) -> None:
        """The kernel finishes the connection on its own, and the process may live on or not."""
        machine.tree.add(10, fds={3: 101})
        machine.tick_of([full_socket(TCP_CLOSE_WAIT, 101, local=OURS, remote=PEER, cookie=5)])
        for _ in range(3):
            charges = machine.tick_of([full_socket(TCP_LAST_ACK, 0, cgroup_id=77, local=OURS, remote=PEER, cookie=5)])
            (found,) = charges.places
            assert (found.former, found.cgroup) == (0, 77)
            assert machine.owners.process(found.former) == ProcessKey(10, 10)
        machine.tree.remove(10)
        (found,) = machine.tick_of([full_socket(TCP_LAST_ACK, 0, 77, local=OURS, remote=PEER, cookie=5)]).places
        assert machine.owners.process(found.former) is None


class TestBefore:
    def test_a_connection_of_the_last_tick_is_found_at_its_place(self, machine: Host) -> None:
        """By both its ports and its addresses."""
        machine.tree.add(10, fds={3: 101})
        machine.tick_of([full_socket(TCP_ESTABLISHED, 101, local=OURS, remote=PEER)])
        wanted = connection(OURS, PEER)
        machine.tick_of([], [wanted, connection(OURS, OTHER), connection(PEER, OURS)])
        assert set(machine.found) == {(HOST, wanted)}
        assert machine.owners.process(machine.found[HOST, wanted].holder) == ProcessKey(10, 10)
        machine.tick_of([], [wanted])
        assert machine.found == {}, "that was two ticks ago"

    def test_a_mapped_connection_is_the_ipv4_connection_that_it_is(self, machine: Host) -> None:
        """Of an IPv6 socket that accepts IPv4: both ends have the same place, however they are written."""
        machine.tree.add(10, fds={3: 101, 4: 102})
        mapped: tuple[End, End] = (("::ffff:10.0.0.1", 8080), ("::ffff:10.0.0.2", 40_000))
        charges = machine.tick_of(
            [
                full_socket(TCP_ESTABLISHED, 101, local=mapped[0], remote=mapped[1]),
                full_socket(TCP_ESTABLISHED, 102, local=OURS, remote=("10.0.0.2", 40_000)),
            ]
        )
        assert charges.places == {place(0, ROLE_OPENED, "10.0.0.1", "10.0.0.2", 40_000): {TCP_ESTABLISHED: 2}}
        wanted = [connection(*mapped), connection(OURS, PEER)]
        machine.tick_of([], wanted)
        assert set(machine.found) == {(HOST, one) for one in wanted}

    def test_two_clients_on_one_port_are_told_apart(self, machine: Host) -> None:
        """By their addresses: another's connection is no evidence."""
        machine.tree.add(10, fds={3: 101})
        machine.tree.add(20, fds={3: 102})
        peers = ((101, PEER), (102, OTHER))
        pair = [full_socket(TCP_ESTABLISHED, inode, local=OURS, remote=peer) for inode, peer in peers]
        wanted = [connection(OURS, PEER), connection(OURS, OTHER)]
        machine.tick_of(pair, accepted=True)
        machine.tick_of([], wanted, accepted=True)
        assert [machine.owners.process(machine.found[HOST, one].holder) for one in wanted] == [
            ProcessKey(10, 10),
            ProcessKey(20, 20),
        ]
        machine.tick_of(pair[:1], accepted=True)
        machine.tick_of([], wanted[1:], accepted=True)
        assert machine.found == {}

    def test_the_same_ports_in_another_namespace_are_another_connection(self, machine: Host) -> None:
        """Addresses repeat from container to container."""
        machine.tree.add(10, fds={3: 101})
        machine.tick_of([full_socket(TCP_ESTABLISHED, 101, local=OURS, remote=PEER)])
        machine.owners.begin(machine.scan())
        assert machine.owners.before([(HOST + 1, connection(OURS, PEER))]) == {}


class TestHolders:
    def test_holders_are_told_one_by_one_and_together(self, machine: Host) -> None:
        """Of a socket that is not there, or that nobody holds, it is not known."""
        machine.tree.add(10, fds={3: 101})
        machine.tick([(101, TCP_LISTEN), (666, TCP_ESTABLISHED)])
        inodes = (101, 666, 999, 0)
        assert machine.owners.holders_of(inodes) == [0, UNKNOWN, UNKNOWN, UNKNOWN]
        assert [machine.owners.holder_of(inode) for inode in inodes] == [0, UNKNOWN, UNKNOWN, UNKNOWN]

    def test_the_members_of_a_cgroup_are_those_in_it(self, machine: Host) -> None:
        """Not those of the cgroups below it."""
        for pid, cgroup in ((10, "/a"), (20, "/a"), (30, "/a/b")):
            machine.tree.add(pid, cgroup=cgroup)
        machine.tick()
        members = machine.owners.in_cgroup(machine.tree.cgroup_id("/a"))
        assert {key.pid for key in members} == {10, 20}
        assert machine.owners.in_cgroup(1) == ()

    def test_a_cgroup_above_what_the_agent_sees_is_not_taken_for_a_folder_outside(self, machine: Host) -> None:
        """An agent in a container sees the host's cgroups by paths such as /../system.slice, which lead nowhere."""
        machine.tree.add(10, cgroup="/../..")
        machine.tick()
        assert machine.owners.in_cgroup(machine.tree.cgroups.parents[1].stat().st_ino) == ()

    def test_twenty_thousand_sockets_of_one_process_are_read_once(self, machine: Host) -> None:
        """And those that come later by themselves."""
        inodes = range(100_000, 120_000)
        machine.tree.add(10, fds=dict(enumerate(inodes)))
        descriptors = machine.tree.root / "10/fd"
        table = [(inode, TCP_CLOSE_WAIT) for inode in inodes]
        assert machine.by_pid(machine.tick(table)) == {10: 20_000}
        assert machine.procfs.links == 20_000
        assert machine.by_pid(machine.tick(table)) == {10: 20_000}
        assert machine.procfs.links == 0
        (descriptors / "20000").symlink_to("socket:[120000]")
        assert machine.by_pid(machine.tick([*table, (120_000, TCP_ESTABLISHED)])) == {10: 20_001}
        assert machine.procfs.links == 1
        (descriptors / "7").unlink()
        assert machine.by_pid(machine.tick([*table[:7], *table[8:]])) == {10: 19_999}


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
                charges = one.tick(table)
                add_up(one, charges)
                assert by_state(charges).total() == len(table)
                assert one.by_pid(charges).keys() <= alive

    @properties
    @given(st.lists(st.sets(st.integers(1, 6), max_size=6), min_size=1, max_size=4))
    def test_first_sight_is_exact(self, held: list[set[int]]) -> None:
        """Every socket that is held is charged to its oldest holder, every other one to nobody."""
        with TemporaryDirectory() as folder:
            one = Host(Path(folder))
            for pid, inodes in enumerate(held, start=2):
                one.tree.add(pid, fds=dict(enumerate(sorted(inodes))))
            expected: dict[int, int] = {}
            for inode in range(1, 7):
                holders = [pid for pid, inodes in enumerate(held, start=2) if inode in inodes]
                if holders:
                    expected[holders[0]] = expected.get(holders[0], 0) + 1
            charges = one.tick([(inode, TCP_ESTABLISHED) for inode in range(1, 7)])
            assert one.by_pid(charges) == expected
            assert charges.unattributed == 6 - sum(expected.values())


def test_a_socket_that_was_bound_first_is_a_connection_once_it_is_connected(machine: Host) -> None:
    """It keeps its inode: what it was at first sight is not what it stays."""
    machine.tree.add(10, fds={3: 100})
    bound, connected = (full_socket(state, 100) for state in (TCP_BOUND_INACTIVE, TCP_ESTABLISHED))
    machine.tick_of([bound])
    machine.tick_of([connected])
    charges = machine.tick_of([connected])
    assert [(place.role, machine.owners.process(place.holder)) for place in charges.places] == [
        (ROLE_OPENED, ProcessKey(10, 10))
    ]


def test_the_first_process_is_charged_only_with_what_nobody_else_holds(machine: Host) -> None:
    """It keeps the listeners of services that are started on demand."""
    machine.tree.add(1, start_ticks=1, fds={3: 100, 4: 101})
    machine.tree.add(20, start_ticks=900, fds={3: 100})
    charges = machine.tick([(100, TCP_LISTEN), (101, TCP_LISTEN)])
    assert machine.by_pid(charges) == {1: 1, 20: 1}


def test_sockets_that_were_not_there_before_are_fresh(machine: Host) -> None:
    """Not those of the first tick: since when they are there is not known."""
    machine.tree.add(10, fds={3: 100, 4: 101})
    assert machine.tick([(100, TCP_ESTABLISHED)]).fresh == {}
    charges = machine.tick([(100, TCP_ESTABLISHED), (101, TCP_ESTABLISHED)])
    assert sum(charges.fresh.values()) == 1
    assert machine.tick([(100, TCP_ESTABLISHED), (101, TCP_ESTABLISHED)]).fresh == {}
