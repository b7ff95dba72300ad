"""Where sockets belong: places, and the listeners that tell accepted connections from opened ones."""

from __future__ import annotations

import socket

import pytest

from loiter_agent import places as places_module
from loiter_agent.inet_diag import TCP_ESTABLISHED, TCP_LISTEN
from loiter_agent.places import (
    ROLE_ACCEPTED,
    ROLE_NONE,
    ROLE_OPENED,
    STATES,
    Listeners,
    Place,
    Places,
    address_text,
    destination_text,
    endpoint_text,
    is_loopback,
    place_of,
    same_connection,
)
from support.netlink_messages import End, chunks, connection, full_socket

RANGE = (32_768, 60_999)


def listening(*messages: bytes, namespace: int = 1) -> Listeners:
    """The listeners of a tick, with connections among them."""
    listeners = Listeners()
    feed(listeners, *messages, namespace=namespace)
    return listeners


def feed(listeners: Listeners, *messages: bytes, namespace: int = 1) -> None:
    for chunk in chunks(*messages):
        listeners.feed(namespace, chunk, chunk.states())


def listener(inode: int, port: int, address: str = "0.0.0.0", depth: int = 0, limit: int = 128) -> bytes:
    any_address = "::" if ":" in address else "0.0.0.0"
    return full_socket(
        TCP_LISTEN,
        inode,
        local=(address, port),
        remote=(any_address, 0),
        receive_queue=depth,
        write_queue=limit,
    )


class TestPlaces:
    def test_a_place_has_one_number_and_a_state_fits_beside_it(self) -> None:
        """Their sum tells both."""
        places = Places()
        numbers = [places.number(Place(1, holder)) for holder in (0, 1, 0)]
        assert numbers[0] == numbers[2] != numbers[1]
        assert all(number % STATES == 0 for number in numbers)
        assert places[numbers[1]] == Place(1, 1)
        assert (places.get(999), len(places)) == (None, 2)

    def test_another_holder_is_another_place(self) -> None:
        """In all else the same."""
        places = Places()
        number = places.number(Place(1, 0, ROLE_OPENED, socket.AF_INET, b"a", b"b", 443))
        moved = places.with_holder(number, 7)
        assert places[moved] == places[number]._replace(holder=7)

    def test_numbers_stay_until_they_are_dropped_and_are_not_used_again(self) -> None:
        """What was counted under one is not taken for another."""
        places = Places()
        first, second = places.number(Place(1, 0)), places.number(Place(1, 1))
        places.keep_only([second])
        assert places.get(first) is None
        assert dict(places) == {second: Place(1, 1)}
        assert places.number(Place(1, 0)) not in (first, second)

    def test_too_many_destinations_are_not_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The holder still is, and so is what was known before."""
        monkeypatch.setattr(places_module, "MOST_PLACES", 2)
        places = Places()
        known = [Place(1, 0, ROLE_OPENED, socket.AF_INET, b"a", b"b", port) for port in (1, 2)]
        numbers = [places.number(place) for place in known]
        late = [places.number(known[0]._replace(port=port)) for port in (3, 4)]
        assert late[0] == late[1]
        assert places[late[0]] == Place(1, 0, ROLE_OPENED, socket.AF_INET)
        assert [places.number(place) for place in known] == numbers


class TestPlaceOf:
    def test_an_opened_connection_has_source_and_destination(self) -> None:
        """Not its own port."""
        place = place_of(1, 5, socket.AF_INET, connection(("10.0.0.1", 40_000), ("10.0.0.2", 443)), accepted=False)
        assert (place.role, place.port, destination_text(place)) == (ROLE_OPENED, 443, "10.0.0.2:443")
        assert address_text(place.family, place.source) == "10.0.0.1"

    def test_an_accepted_connection_has_its_own_end(self) -> None:
        """Not the client's."""
        place = place_of(1, 5, socket.AF_INET, connection(("10.0.0.1", 443), ("10.0.0.2", 40_000)), accepted=True)
        assert (place.role, place.port, destination_text(place)) == (ROLE_ACCEPTED, 443, "10.0.0.1:443")
        assert place.destination == b""

    @pytest.mark.parametrize("accepted", [False, True])
    def test_ipv4_of_an_ipv6_socket_is_ipv4(self, accepted: bool) -> None:
        """The same ends make the same place, and either is recognized by it."""
        plain: tuple[End, End] = (("10.0.0.1", 443), ("10.0.0.2", 40_000))
        mapped: tuple[End, End] = (("::ffff:10.0.0.1", 443), ("::ffff:10.0.0.2", 40_000))
        one = place_of(1, 0, socket.AF_INET, connection(*plain), accepted)
        assert place_of(1, 0, socket.AF_INET6, connection(*mapped), accepted) == one
        assert same_connection(one, connection(*plain))
        assert same_connection(one, connection(*mapped))

    def test_another_address_is_another_connection(self) -> None:
        """Of an accepted one, the place does not tell the other end's."""
        ends = (("10.0.0.1", 443), ("10.0.0.2", 40_000))
        opened = place_of(1, 0, socket.AF_INET, connection(*ends), accepted=False)
        accepted = place_of(1, 0, socket.AF_INET, connection(*ends), accepted=True)
        other_peer = connection(ends[0], ("10.0.0.3", 40_000))
        other_self = connection(("10.0.0.9", 443), ends[1])
        assert (same_connection(opened, other_peer), same_connection(accepted, other_peer)) == (False, True)
        assert (same_connection(opened, other_self), same_connection(accepted, other_self)) == (False, False)
        assert not same_connection(Place(1, 0, ROLE_NONE), connection(*ends))

    def test_ipv6_is_not_taken_for_ipv4(self) -> None:
        """Whose address is the first bytes of it."""
        four = place_of(1, 0, socket.AF_INET, connection(("32.1.13.184", 1), ("32.1.13.185", 2)), accepted=False)
        assert not same_connection(four, connection(("2001:db8::1", 1), ("2001:db9::1", 2)))


class TestText:
    def test_ipv6_is_in_brackets_and_a_mapped_address_is_ipv4(self) -> None:
        """As ss(8) writes them."""
        mapped = connection(("::ffff:1.2.3.4", 1), ("::1", 1))
        assert endpoint_text(socket.AF_INET6, mapped[4:20], 80) == "1.2.3.4:80"
        assert endpoint_text(socket.AF_INET6, mapped[20:36], 80) == "[::1]:80"

    @pytest.mark.parametrize(
        ("family", "address", "expected"),
        [
            (socket.AF_INET, "127.3.2.1", True),
            (socket.AF_INET, "128.0.0.1", False),
            (socket.AF_INET6, "::1", True),
            (socket.AF_INET6, "::2", False),
        ],
    )
    def test_loopback_is_127_and_1(self, family: int, address: str, expected: bool) -> None:
        """127.0.0.0/8 and ::1."""
        assert is_loopback(family, socket.inet_pton(family, address).ljust(16, b"\0")) is expected


class TestListeners:
    def test_a_connection_to_a_port_that_is_listened_on_was_accepted(self) -> None:
        """In that namespace alone; connections among the listeners change nothing."""
        listeners = listening(listener(1, 40_000), full_socket(TCP_ESTABLISHED, 2, local=("10.0.0.1", 9_999)))
        accepted = connection(("10.0.0.1", 40_000), ("10.0.0.2", 41_000))
        assert listeners.accepted(1, accepted, RANGE)
        assert not listeners.accepted(2, accepted, RANGE)
        assert not listeners.accepted(1, connection(("10.0.0.1", 9_999), ("10.0.0.2", 80)), RANGE)

    def test_a_port_is_remembered_for_a_while_after_its_listener(self) -> None:
        """For as long as TIME_WAIT sockets may last, and a few ticks."""
        listeners = listening(listener(1, 40_000))
        one = connection(("10.0.0.1", 40_000), ("10.0.0.2", 41_000))
        for now, expected in ((1_000.0, True), (1_010.0, True), (1_170.0, True), (1_200.0, False)):
            listeners.finish(now)
            listeners.begin()
            assert listeners.accepted(1, one, RANGE) is expected
            assert listeners.of(1, one) is None

    @pytest.mark.parametrize(
        ("local", "remote", "port_range", "expected"),
        [
            (8_080, 40_000, RANGE, True),
            (40_000, 8_080, RANGE, False),
            (40_000, 41_000, RANGE, False),
            (8_080, 9_090, RANGE, False),
            (8_080, 40_000, None, False),
        ],
    )
    def test_without_a_listener_ephemeral_ports_tell_who_connected(
        self, local: int, remote: int, port_range: tuple[int, int] | None, expected: bool
    ) -> None:
        """Where the other end alone has one."""
        one = connection(("10.0.0.1", local), ("10.0.0.2", remote))
        assert Listeners().accepted(1, one, port_range) is expected

    def test_the_listener_of_the_address_comes_before_that_of_all_addresses(self) -> None:
        """As in the kernel's look-up."""
        listeners = listening(listener(1, 80), listener(2, 80, "10.0.0.1"), listener(3, 80, "10.0.0.9"))
        peer: End = ("10.0.0.2", 40_000)
        assert [one.inode for one in listeners.all_of(1, connection(("10.0.0.1", 80), peer))] == [2]
        assert [one.inode for one in listeners.all_of(1, connection(("10.0.0.5", 80), peer))] == [1]
        assert listeners.all_of(1, connection(("10.0.0.1", 81), peer)) == ()
        assert listeners.of(1, connection(("10.0.0.1", 81), peer)) is None

    def test_an_ipv6_listener_of_all_addresses_takes_ipv4(self) -> None:
        """Connections to it have mapped addresses."""
        listeners = listening(listener(1, 80, "::"))
        found = listeners.of(1, connection(("::ffff:10.0.0.1", 80), ("::ffff:10.0.0.2", 40_000)))
        assert found is not None
        assert (found.inode, found.family) == (1, socket.AF_INET6)

    def test_of_several_on_one_address_the_one_with_the_fullest_queue_is_taken(self) -> None:
        """SO_REUSEPORT: the kernel does not say which. All of them may be it."""
        listeners = listening(*(listener(inode, 80, depth=depth) for inode, depth in ((1, 3), (2, 9), (3, 0))))
        one = connection(("10.0.0.1", 80), ("10.0.0.2", 40_000))
        found = listeners.of(1, one)
        assert found is not None
        assert (found.inode, found.depth, found.limit) == (2, 9, 128)
        assert {one.inode for one in listeners.all_of(1, one)} == {1, 2, 3}
