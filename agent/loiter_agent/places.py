"""Where a socket belongs: its namespace, its holder, and which listener or destination it is a connection of.

Places are few where sockets are many. Sockets are kept as numbers of places, so that a socket that was seen before
costs a dictionary look-up, and everything that is counted by process, listener or destination is counted by place.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, NamedTuple

from loiter_agent.inet_diag import TCP_LISTEN, Chunk

# Values of `holder` that are no holders.
UNKNOWN: Final = -1
OWNERLESS: Final = -2

# More than there are TCP states.
STATES: Final = 16

# Roles: a socket that is no connection, one that this host opened, one that it accepted.
ROLE_NONE: Final = 0
ROLE_OPENED: Final = 1
ROLE_ACCEPTED: Final = 2

MOST_PLACES: Final = 50_000
# A port that nobody listens on any more still tells the connections that were accepted on it.
_REMEMBERED_SECONDS: Final = 180.0
_LISTENING: Final = bytes(state == TCP_LISTEN for state in range(256))
_PORTS: Final = struct.Struct("!HH")
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class Place(NamedTuple):
    """Where sockets belong.

    An opened connection has its local address as `source`, and the address and port of the other end as `destination`
    and `port`. An accepted one has the local address and port. `former` is who held a socket that is ownerless now, and
    `cgroup` its cgroup.
    """

    namespace: int
    holder: int
    role: int = ROLE_NONE
    family: int = 0
    source: bytes = b""
    destination: bytes = b""
    port: int = 0
    former: int = UNKNOWN
    cgroup: int | None = None


class Places:
    """Numbers places. A number stands for the same place until `keep_only` drops it.

    Numbers are multiples of STATES, so that a place and a TCP state add up to one number, which is what is counted.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._number_of: dict[Place, int] = {}
        self._places: dict[int, Place] = {}
        self._next = 0

    def __getitem__(self, number: int) -> Place:
        """The place with a number."""
        return self._places[number]

    def get(self, number: int) -> Place | None:
        """The place with a number, None where that was dropped."""
        return self._places.get(number)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[int, Place]]:
        """Yields numbers and places."""
        return iter(self._places.items())

    def number(self, place: Place) -> int:
        """The number of a place.

        A host may talk to more destinations than are worth remembering: what comes late is not told apart by them.
        """
        if len(self._places) >= MOST_PLACES and place not in self._number_of:
            place = place._replace(source=b"", destination=b"", port=0)
        number = self._number_of.get(place)
        if number is None:
            number = self._number_of[place] = self._next
            self._places[number] = place
            self._next += STATES
        return number

    def with_holder(self, number: int, holder: int) -> int:
        """The number of the same place with another holder."""
        return self.number(self._places[number]._replace(holder=holder))

    def keep_only(self, used: Iterable[int]) -> None:
        """Drops all other places."""
        kept = set(used)
        self._places = {number: place for number, place in self._places.items() if number in kept}
        self._number_of = {place: number for number, place in self._places.items()}


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, and its accept queue. `limit` is 0 where it was read from procfs, which does not tell."""

    family: int
    address: bytes
    inode: int
    depth: int
    limit: int


class Listeners:
    """The listening sockets of a tick, by namespace and port."""

    def __init__(self) -> None:
        """Starts empty."""
        self._now: dict[tuple[int, int], list[Listener]] = {}
        self._seen: dict[tuple[int, int], float] = {}

    def begin(self) -> None:
        """Starts a tick."""
        self._now = {}

    def feed(self, namespace: int, chunk: Chunk, states: bytes) -> None:
        """Takes in the listening sockets of a chunk."""
        columns = zip(range(chunk.count), chunk.inodes(), chunk.receive_queues(), chunk.write_queues(), strict=True)
        for index, inode, depth, limit in compress(columns, states.translate(_LISTENING)):
            connection = chunk.connection(index)
            port, _ = _PORTS.unpack_from(connection)
            listener = Listener(chunk.family(index), connection[4:20], inode, depth, limit)
            self._now.setdefault((namespace, port), []).append(listener)

    def finish(self, now: float) -> None:
        """Ends a tick: remembers the ports for a while."""
        self._seen = {port: seen for port, seen in self._seen.items() if now - seen < _REMEMBERED_SECONDS}
        self._seen.update(dict.fromkeys(self._now, now))

    def accepted(self, namespace: int, connection: bytes, port_range: tuple[int, int] | None) -> bool:
        """Tells whether a connection was accepted here rather than opened.

        It was if its local port is or was listened on. Where no listener was seen, an ephemeral port at the other end
        and none here tell the same.
        """
        local, remote = _PORTS.unpack_from(connection)
        if (namespace, local) in self._now or (namespace, local) in self._seen:
            return True
        if port_range is None:
            return False
        first, last = port_range
        return first <= remote <= last and not first <= local <= last

    def of(self, namespace: int, connection: bytes) -> Listener | None:
        """Finds the listener that a connection was made to.

        Of several on one address (SO_REUSEPORT), the kernel does not say which: the one with the fullest queue is
        taken.
        """
        return max(self.all_of(namespace, connection), key=lambda listener: listener.depth, default=None)

    def all_of(self, namespace: int, connection: bytes) -> Sequence[Listener]:
        """Finds the listeners that a connection may have been made to: more than one with SO_REUSEPORT alone."""
        port, _ = _PORTS.unpack_from(connection)
        listeners = self._now.get((namespace, port), ())
        address = connection[4:20]
        # An IPv4 address takes the first four of sixteen bytes; no IPv6 address has so many zeros at both ends.
        family = socket.AF_INET if not any(address[4:]) and not any(connection[24:36]) else socket.AF_INET6
        exact = [listener for listener in listeners if listener.family == family and listener.address == address]
        wildcard = [listener for listener in listeners if not any(listener.address)]
        same_family = [listener for listener in wildcard if listener.family == family]
        return exact or same_family or wildcard or listeners


def place_of(
    namespace: int, holder: int, family: int, connection: bytes, accepted: bool, cgroup: int | None = None
) -> Place:
    """Makes the place of a connection."""
    local, remote = _PORTS.unpack_from(connection)
    family, source, destination = _plain(family, connection[4:20], connection[20:36])
    if accepted:
        return Place(namespace, holder, ROLE_ACCEPTED, family, source, b"", local, UNKNOWN, cgroup)
    return Place(namespace, holder, ROLE_OPENED, family, source, destination, remote, UNKNOWN, cgroup)


def same_connection(place: Place, connection: bytes) -> bool:
    """Tells whether a connection may be at a place, as far as a place tells: the ports are known to be the same."""
    if place.role == ROLE_NONE:
        return False
    mapped = connection[20:32] == _V4_MAPPED
    family = socket.AF_INET6 if mapped else place.family
    _, source, destination = _plain(family, connection[4:20], connection[20:36])
    return place.source == source and place.destination in (destination, b"")


def _plain(family: int, source: bytes, destination: bytes) -> tuple[int, bytes, bytes]:
    """Turns an IPv4 connection of an IPv6 socket into the IPv4 connection that it is."""
    if family == socket.AF_INET6 and destination[:12] == _V4_MAPPED:
        return socket.AF_INET, source[12:] + bytes(12), destination[12:] + bytes(12)
    return family, source, destination


def peer_of(connection: bytes) -> tuple[bytes, int]:
    """The address and port of the other end."""
    return connection[20:36], _PORTS.unpack_from(connection)[1]


def local_port(connection: bytes) -> int:
    """The port of this end."""
    port: int = _PORTS.unpack_from(connection)[0]
    return port


def is_loopback(family: int, address: bytes) -> bool:
    """Tells whether an address of a place is of the loopback network, 127.0.0.0/8 or ::1."""
    return address[0] == 127 if family == socket.AF_INET else address == bytes(15) + b"\x01"


def address_text(family: int, address: bytes) -> str:
    """Writes an address; one of IPv4 in an IPv6 socket as the IPv4 address that it is."""
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[:4])
    if address[:12] == _V4_MAPPED:
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def destination_text(place: Place) -> str:
    """Writes the address and port of a place."""
    address = place.destination if place.role == ROLE_OPENED else place.source
    return endpoint_text(place.family, address, place.port)


def endpoint_text(family: int, address: bytes, port: int) -> str:
    """Writes an address and a port, an IPv6 address in brackets."""
    text = address_text(family, address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
