"""Whose TIME_WAIT sockets were: how it is found, and that nobody is blamed for what is another's."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pytest

from loiter_agent import time_waits as time_waits_module
from loiter_agent.inet_diag import TCP_FIN_WAIT2, TCP_SYN_RECV, TCP_TIME_WAIT
from loiter_agent.places import OWNERLESS, ROLE_OPENED, UNKNOWN, Place, place_of
from loiter_agent.sample import ProcessKey, TimeWaitOwner
from loiter_agent.time_waits import UNATTRIBUTED, Clues, Group, Shares, TimeWaits, WaitingSockets
from support.netlink_messages import End, chunks, connection, family_of, mini_socket

HOST = 1
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
LOADER, SERVER, WORKER, OTHER = (ProcessKey(pid, pid) for pid in (10, 20, 21, 30))
HERE: End = ("10.0.0.1", 40_000)
THERE: End = ("10.0.0.2", 443)


@dataclass
class Known:
    """What the rest of the agent knows."""

    before: dict[tuple[int, bytes], Place] = field(default_factory=dict)
    holders: dict[int, ProcessKey] = field(default_factory=dict)
    listeners: tuple[ProcessKey, ...] = ()
    members: dict[int, tuple[ProcessKey, ...]] = field(default_factory=dict)
    ended: set[ProcessKey] = field(default_factory=set)
    accepted_ports: Collection[int] = (8080,)
    shares: Shares = field(default_factory=Shares)
    traced: dict[bytes, ProcessKey] | None = None
    now: float = 1_000.0

    def closing_processes(self, namespace: int, connections: Sequence[bytes]) -> list[ProcessKey | None]:
        assert namespace == HOST
        assert self.traced is not None
        return [self.traced.get(one) for one in connections]

    def close(self) -> None:
        """Holds nothing."""

    def accepted(self, _: int, one: bytes) -> bool:
        return int.from_bytes(one[:2], "big") in self.accepted_ports

    def held(self, local: End, remote: End, holder: int, former: int = UNKNOWN, cgroup: int | None = None) -> None:
        """The connection was seen in the last tick."""
        one = connection(local, remote)
        place = place_of(HOST, holder, family_of(local), one, self.accepted(HOST, one))
        self.before[HOST, one] = place._replace(former=former, cgroup=cgroup)

    def clues(self) -> Clues:
        return Clues(
            before=self.before,
            process=self.holders.get,
            listeners=lambda *_: self.listeners,
            in_cgroup=lambda cgroup: self.members.get(cgroup, ()),
            alive=lambda key: key not in self.ended,
            accepted=self.accepted,
            shares=self.shares,
            tracer=self if self.traced is not None else None,
            now=self.now,
        )


class Host:
    """TIME_WAIT sockets from tick to tick."""

    def __init__(self) -> None:
        self.time_waits = TimeWaits()
        self.known = Known()

    @classmethod
    def of(cls, known: Known) -> Host:
        """Another that knows the same."""
        host = cls()
        host.known = known
        return host

    def tick(self, *made: bytes) -> dict[Group, WaitingSockets]:
        self.time_waits.begin()
        self.feed(*made)
        return self.time_waits.finish(self.known.clues())

    def feed(self, *made: bytes, offset: int = 0) -> None:
        for chunk in chunks(*made):
            self.time_waits.feed(HOST, offset, chunk, chunk.states())

    def owner(self, *made: bytes) -> TimeWaitOwner:
        """The one owner of all of these sockets."""
        (group,) = self.tick(*made)
        return group.owner


def closed(
    cookie: int = 1, local: End = HERE, remote: End = THERE, left: int = 59_000, state: int = TCP_TIME_WAIT
) -> bytes:
    return mini_socket(state, local=local, remote=remote, cookie=cookie, expires=left)


def served(cookie: int = 1, port: int = 50_000) -> bytes:
    """A connection that was accepted."""
    return closed(cookie, ("10.0.0.1", 8080), ("10.0.0.9", port))


def served_at(left: int) -> bytes:
    """A connection that was accepted, and has so many milliseconds left in TIME_WAIT."""
    return closed(1, ("10.0.0.1", 8080), ("10.0.0.9", 50_000), left)


@pytest.fixture
def host() -> Host:
    return Host()


class TestExact:
    def test_a_clients_socket_is_its_own_by_the_last_tick(self, host: Host) -> None:
        """The 4-tuple was seen while it held it."""
        host.known.holders = {0: LOADER}
        host.known.held(HERE, THERE, 0)
        assert host.owner(closed()) == TimeWaitOwner(LOADER, "exact")

    def test_a_servers_socket_is_the_workers_and_not_the_listeners(self, host: Host) -> None:
        """Of pre-forked workers, which share a listener that their parent made."""
        host.known.holders = {0: SERVER, 1: WORKER}
        host.known.listeners = (SERVER,)
        host.known.held(("10.0.0.1", 8080), ("10.0.0.9", 50_000), 1)
        assert host.owner(served()) == TimeWaitOwner(WORKER, "exact")

    def test_who_let_go_of_it_is_its_owner(self, host: Host) -> None:
        """Seen in FIN_WAIT1, say, and before that with its process."""
        host.known.holders = {0: LOADER}
        host.known.held(HERE, THERE, OWNERLESS, former=0, cgroup=77)
        assert host.owner(closed()) == TimeWaitOwner(LOADER, "exact")

    def test_the_tracer_comes_first(self, host: Host) -> None:
        """It saw the process close; whoever held it in the last tick may have passed it on."""
        host.known.holders = {0: LOADER}
        host.known.held(HERE, THERE, 0)
        host.known.traced = {connection(HERE, THERE): OTHER}
        assert host.owner(closed()) == TimeWaitOwner(OTHER, "exact")

    def test_what_the_tracer_does_not_know_is_found_otherwise(self, host: Host) -> None:
        """Its memory is bounded."""
        host.known.traced = {}
        host.known.holders = {0: LOADER}
        host.known.held(HERE, THERE, 0)
        assert host.owner(closed()) == TimeWaitOwner(LOADER, "exact")

    def test_an_owner_is_found_once_and_kept(self, host: Host) -> None:
        """The connection is not in the next last tick."""
        host.known.holders = {0: LOADER}
        host.known.held(HERE, THERE, 0)
        host.tick(closed())
        host.known = Known()
        for _ in range(3):
            assert host.owner(closed()) == TimeWaitOwner(LOADER, "exact")
        assert host.time_waits.new_connections() == set()


class TestListener:
    def test_an_accepted_connection_is_the_listeners(self, host: Host) -> None:
        """Where the last tick did not see it; an opened one is not."""
        host.known.listeners = (SERVER,)
        assert host.owner(served()) == TimeWaitOwner(SERVER, "listener", (SERVER,))
        assert Host().owner(closed()) == UNATTRIBUTED

    def test_of_several_that_listen_on_one_port_none_is_picked(self, host: Host) -> None:
        """SO_REUSEPORT: one of them it was, which may be one application all the same."""
        host.known.listeners = (SERVER, WORKER)
        assert host.owner(served()) == TimeWaitOwner(None, "listener", (SERVER, WORKER))

    def test_who_started_after_a_socket_was_closed_is_not_its_owner(self, host: Host) -> None:
        """A server that took over the port of another, which closed this socket 50 s ago."""
        old, new = (ProcessKey(40, int(seconds * CLOCK_TICKS)) for seconds in (949.0, 951.0))
        host.known.listeners = (new,)
        assert host.owner(served_at(10_000)) == UNATTRIBUTED
        host.known.listeners = (old, new)
        assert Host.of(host.known).owner(served_at(10_000)) == TimeWaitOwner(old, "listener", (old,))
        host.known.listeners = (new,)
        assert Host.of(host.known).owner(served_at(58_000)) == TimeWaitOwner(new, "listener", (new,))


class TestCgroup:
    def test_the_only_process_of_its_cgroup_is_the_owner(self, host: Host) -> None:
        """The connection was seen there after its process had let go of it."""
        host.known.members = {77: (LOADER,)}
        host.known.held(HERE, THERE, OWNERLESS, cgroup=77)
        assert host.owner(closed()) == TimeWaitOwner(LOADER, "cgroup", (LOADER,))

    def test_of_several_none_is_picked(self, host: Host) -> None:
        """They may be one application."""
        host.known.members = {77: (LOADER, OTHER)}
        host.known.held(HERE, THERE, OWNERLESS, cgroup=77)
        assert host.owner(closed()) == TimeWaitOwner(None, "cgroup", (LOADER, OTHER))

    def test_an_empty_cgroup_tells_nothing(self, host: Host) -> None:
        """Its processes have ended."""
        host.known.held(HERE, THERE, OWNERLESS, cgroup=77)
        assert host.owner(closed()) == UNATTRIBUTED


def talk(shares: Shares, *counts: tuple[ProcessKey | None, int], ticks: int = 1) -> None:
    """So many live connections to one destination in so many samples."""
    far = connection(HERE, THERE)[20:36]
    for _ in range(ticks):
        shares.update([((HOST, 2, far, THERE[1]), key, count) for key, count in counts])


class TestDestination:
    def test_who_has_nearly_all_live_connections_is_the_owner(self, host: Host) -> None:
        """98 of 100."""
        talk(host.known.shares, (LOADER, 98), (OTHER, 2))
        assert host.owner(closed()) == TimeWaitOwner(LOADER, "destination")

    @pytest.mark.parametrize("others", [[(OTHER, 5)], [(None, 5)]], ids=["of another", "of nobody that was found"])
    def test_who_has_most_of_them_is_not(self, host: Host, others: list[tuple[ProcessKey | None, int]]) -> None:
        """One in twenty would be charged to the wrong one."""
        talk(host.known.shares, (LOADER, 95), *others)
        assert host.owner(closed()) == UNATTRIBUTED

    def test_a_few_sightings_are_not_enough(self, host: Host) -> None:
        """Another one may not have been looked at when it was there."""
        talk(host.known.shares, (LOADER, 1), ticks=3)
        assert host.owner(closed()) == UNATTRIBUTED
        talk(host.known.shares, (LOADER, 1), ticks=20)
        assert host.owner(closed()) == TimeWaitOwner(LOADER, "destination")

    def test_what_was_long_ago_counts_less(self, host: Host) -> None:
        """Who talked to it first is forgotten; who talks to it now takes over."""
        talk(host.known.shares, (OTHER, 100))
        talk(host.known.shares, (LOADER, 20), ticks=3)
        assert host.owner(closed(1)) == UNATTRIBUTED
        talk(host.known.shares, (LOADER, 20), ticks=100)
        assert host.owner(closed(2)) == TimeWaitOwner(LOADER, "destination")
        talk(host.known.shares, ticks=200)
        assert host.known.shares._weights == {}

    def test_another_destination_is_another_matter(self, host: Host) -> None:
        """Another port, another address; and what is not told apart by its destination is nobody's."""
        talk(host.known.shares, (LOADER, 100))
        assert host.owner(closed(1, remote=("10.0.0.2", 80))) == UNATTRIBUTED
        assert Host().owner(closed(1, remote=("10.0.0.3", 443))) == UNATTRIBUTED
        host.known.shares.update([((HOST, 2, b"", 0), OTHER, 1_000)])
        folded = Group(Place(HOST, 0, ROLE_OPENED, 2), UNATTRIBUTED)
        assert host.time_waits._by_destination(folded.place, host.known.clues()) is None

    def test_accepted_connections_are_not_asked_about(self, host: Host) -> None:
        """Their destination is a client."""
        talk(host.known.shares, (LOADER, 100))
        host.known.accepted_ports = (HERE[1],)
        assert host.owner(closed()) == UNATTRIBUTED

    def test_the_unattributed_are_asked_about_again(self, host: Host) -> None:
        """They are 60 s there, and their process may have more connections to show meanwhile."""
        assert host.owner(closed(1), closed(2)) == UNATTRIBUTED
        talk(host.known.shares, (LOADER, 50))
        assert host.owner(closed(1), closed(2)) == TimeWaitOwner(LOADER, "destination")

    def test_those_found_late_and_those_found_at_once_are_one_group(self, host: Host) -> None:
        """None is lost on the way."""
        host.tick(closed(1), closed(2))
        talk(host.known.shares, (LOADER, 50))
        (waiting,) = host.tick(closed(1), closed(2), closed(3, left=58_000)).values()
        assert sorted(waiting.time_wait) == [58_000, 59_000, 59_000]
        (waiting,) = host.tick(closed(1), closed(3, left=58_000)).values()
        assert sorted(waiting.time_wait) == [58_000, 59_000]


class TestOwnersThatEnded:
    """A process that is known to have ended is never replaced by another one."""

    def talking_other(self, host: Host) -> None:
        """Everything else points to another process."""
        talk(host.known.shares, (OTHER, 1_000))
        host.known.listeners = (OTHER,)
        host.known.members = {77: (OTHER,)}

    @pytest.mark.parametrize(("holder", "former"), [(0, UNKNOWN), (OWNERLESS, 0)])
    @pytest.mark.parametrize("accepted", [False, True])
    def test_who_held_it_in_the_last_tick(self, host: Host, holder: int, former: int, accepted: bool) -> None:
        """Not now, and not when asked again."""
        self.talking_other(host)
        local, remote = (("10.0.0.1", 8080), THERE) if accepted else (HERE, THERE)
        host.known.held(local, remote, holder, former, cgroup=77)
        one = closed(1, local, remote)
        for _ in range(3):
            assert host.owner(one) == UNATTRIBUTED
            host.known.before = {}

    def test_who_was_seen_to_close_it(self, host: Host) -> None:
        """By the tracer."""
        self.talking_other(host)
        host.known.traced = {connection(HERE, THERE): LOADER}
        host.known.ended = {LOADER}
        for _ in range(3):
            assert host.owner(closed()) == UNATTRIBUTED

    def test_the_sockets_of_others_to_the_same_destination_are_told_apart(self, host: Host) -> None:
        """Those of the one that ended stay unattributed beside them."""
        host.known.held(HERE, THERE, 0)
        found = host.tick(closed(1))
        talk(host.known.shares, (OTHER, 1_000))
        found = host.tick(closed(1), closed(2, local=("10.0.0.1", 40_001)))
        assert {group.owner: len(sockets.time_wait) for group, sockets in found.items()} == {
            UNATTRIBUTED: 1,
            TimeWaitOwner(OTHER, "destination"): 1,
        }

    def test_who_had_all_live_connections_and_ended_is_not_named(self, host: Host) -> None:
        """Another one may have come and gone since."""
        talk(host.known.shares, (LOADER, 100))
        host.known.ended = {LOADER}
        assert host.owner(closed()) == UNATTRIBUTED


class TestCounting:
    def test_timers_are_kept_by_group_and_state(self, host: Host) -> None:
        """FIN_WAIT2 is no TIME_WAIT, but takes a port; requests are counted and nothing else."""
        found = host.tick(
            closed(1, left=100),
            closed(2, left=60_000, state=TCP_FIN_WAIT2),
            closed(3, left=50, state=TCP_SYN_RECV),
            closed(4, left=200, remote=("10.0.0.3", 80)),
        )
        assert sorted((group.place.port, list(one.time_wait), list(one.fin_wait2)) for group, one in found.items()) == [
            (80, [200], []),
            (443, [100], [60_000]),
        ]
        assert host.time_waits.states == {TCP_TIME_WAIT: 2, TCP_FIN_WAIT2: 1, 12: 1}

    def test_a_socket_that_expires_is_forgotten(self, host: Host) -> None:
        """With its group."""
        host.tick(closed(1), closed(2, remote=("10.0.0.3", 80)), closed(3, remote=("10.0.0.4", 80)))
        (group,) = host.tick(closed(2, remote=("10.0.0.3", 80)))
        assert group.place.port == 80
        assert len(host.time_waits._groups) == 1
        assert host.tick() == {}
        assert host.time_waits._groups == []
        assert host.time_waits._group_of == {}

    def test_a_torn_dump_that_is_read_again_counts_once(self, host: Host) -> None:
        """What was fed before the second beginning does not count, nor is it asked about."""
        host.tick(closed(1))
        host.time_waits.begin()
        host.feed(closed(1), closed(2), closed(9, local=("10.0.0.1", 49_999)))
        host.time_waits.begin()
        host.feed(closed(1), closed(2))
        assert host.time_waits.new_connections() == {(HOST, connection(HERE, THERE))}
        (waiting,) = host.time_waits.finish(host.known.clues()).values()
        assert len(waiting.time_wait) == 2
        assert host.time_waits.states == {TCP_TIME_WAIT: 2}

    def test_the_same_cookie_in_two_namespaces_is_two_sockets(self, host: Host) -> None:
        """They are kept apart by what is added to them."""
        host.feed(closed(1))
        host.feed(closed(1), offset=1 << 32)
        (waiting,) = host.time_waits.finish(host.known.clues()).values()
        assert len(waiting.time_wait) == 2

    def test_ipv4_of_an_ipv6_socket_is_in_the_group_of_ipv4(self, host: Host) -> None:
        """It has the same destination."""
        mapped = closed(2, ("::ffff:10.0.0.1", 40_001), ("::ffff:10.0.0.2", 443))
        (waiting,) = host.tick(closed(1), mapped).values()
        assert len(waiting.time_wait) == 2

    def test_groups_over_the_limit_are_not_told_apart_but_none_is_dropped(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A crawler closes connections to any number of destinations. Those that are known stay themselves."""
        monkeypatch.setattr(time_waits_module, "_MOST_GROUPS", 3)
        crowd = [closed(cookie, remote=("10.0.0.2", cookie)) for cookie in range(1, 11)]
        found = host.tick(*crowd)
        assert sum(len(one.time_wait) for one in found.values()) == 10
        assert {group.place.port: len(one.time_wait) for group, one in found.items()} == {1: 1, 2: 1, 3: 1, 0: 7}
        found = host.tick(*crowd, closed(11, ("10.0.0.1", 40_001), remote=("10.0.0.2", 2)))
        assert {group.place.port: len(one.time_wait) for group, one in found.items()} == {1: 1, 2: 2, 3: 1, 0: 7}

    def test_a_place_does_not_depend_on_who_held_it(self, host: Host) -> None:
        """The owner is beside it: all sockets of one owner to one destination are one group."""
        host.known.holders = {5: LOADER}
        host.known.held(HERE, THERE, 5)
        other = ("10.0.0.1", 40_001)
        host.known.held(other, THERE, OWNERLESS, former=5, cgroup=3)
        (group,) = host.tick(closed(1), closed(2, other))
        assert group == Group(replace_holder(group.place), TimeWaitOwner(LOADER, "exact"))


def replace_holder(place: Place) -> Place:
    return place._replace(holder=0, former=UNKNOWN, cgroup=None)


def test_the_shares_of_too_many_destinations_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come late are left out, those that are known go on."""
    monkeypatch.setattr(time_waits_module, "_MOST_DESTINATIONS", 2)
    shares = Shares()
    far = [(HOST, 2, bytes([number]) * 16, 443) for number in range(3)]
    shares.update([(one, LOADER, 100) for one in far])
    assert [shares.owner(one) for one in far] == [LOADER, LOADER, None]
    shares.update([(far[0], OTHER, 100)])
    assert shares.owner(far[0]) is None
