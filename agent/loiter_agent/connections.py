"""Finds connections of the last tick by their 4-tuple, to tell whose a socket was that nobody holds any more."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loiter_agent.inet_diag import Chunk, ports_of


@dataclass(slots=True)
class _Column:
    """The ports of the sockets of one namespace, which are behind one another from a position on."""

    start: int
    ports: array[int] = field(default_factory=lambda: array("I"))


class Connections:
    """The sockets of one tick: the ports of each, 4 bytes, and the place that it has.

    That is not all of a 4-tuple: a place tells the addresses of a connection that this host opened, and of one that it
    accepted, its own. Of two clients that have the same port at different addresses, both are found.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._columns: dict[int, _Column] = {}
        self._length = 0
        self._places: Sequence[int] = ()

    def add(self, namespace: int, chunk: Chunk) -> None:
        """Takes in the sockets of a chunk. Those of one namespace are to come one behind the other."""
        if namespace not in self._columns:
            self._columns[namespace] = _Column(self._length)
        self._columns[namespace].ports.frombytes(chunk.ports())
        self._length += chunk.count

    def settle(self, places: Sequence[int]) -> None:
        """Takes the place of each socket, in the order in which they came."""
        self._places = places

    def find(self, wanted: Iterable[tuple[int, bytes]]) -> Mapping[tuple[int, int], set[int]]:
        """Finds connections by their namespace and ports.

        Args:
            wanted: Namespaces and connections, as `Chunk.connection` gives them.

        Returns:
            By namespace and ports, as `ports_of` gives them, the places of all sockets that have them.
        """
        by_namespace: dict[int, set[int]] = {}
        for namespace, connection in wanted:
            by_namespace.setdefault(namespace, set()).add(ports_of(connection))
        found: dict[tuple[int, int], set[int]] = {}
        for namespace, ports in by_namespace.items():
            column = self._columns.get(namespace)
            if column is None:
                continue
            for index, word in enumerate(column.ports):
                if word in ports:
                    found.setdefault((namespace, word), set()).add(self._places[column.start + index])
        return found
