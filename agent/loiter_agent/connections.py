"""Finds connections of the last tick by their 4-tuple, to tell whose a socket was that nobody holds any more."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loiter_agent.inet_diag import Chunk, identifying_words


@dataclass(slots=True)
class _Columns:
    """The sockets of one namespace, which are behind one another from a position on, in columns of `identifying`."""

    start: int
    words: tuple[array[int], ...] = field(default_factory=lambda: (array("I"), array("I"), array("I")))


class Connections:
    """The sockets of one tick: 12 bytes of each that tell it from others, and the place that it has."""

    def __init__(self) -> None:
        """Starts empty."""
        self._namespaces: dict[int, _Columns] = {}
        self._length = 0
        self._places: Sequence[int] = ()

    def __contains__(self, namespace: int) -> bool:
        """Whether a namespace was read in this tick, and had sockets."""
        return namespace in self._namespaces

    def add(self, namespace: int, chunk: Chunk) -> None:
        """Takes in the sockets of a chunk. Those of one namespace are to come one behind the other."""
        if namespace not in self._namespaces:
            self._namespaces[namespace] = _Columns(self._length)
        for column, words in zip(self._namespaces[namespace].words, chunk.identifying(), strict=True):
            column.frombytes(words)
        self._length += chunk.count

    def settle(self, places: Sequence[int]) -> None:
        """Takes the place of each socket, in the order in which they came."""
        self._places = places

    def find(self, wanted: Iterable[tuple[int, bytes]]) -> Mapping[tuple[int, bytes], set[int]]:
        """Finds connections: namespaces and what `Chunk.connection` gives.

        Returns the places of the sockets that have the same ports and the same peer; the local address is for the
        place to tell.
        """
        by_namespace: dict[int, dict[tuple[int, ...], list[bytes]]] = {}
        for namespace, connection in wanted:
            same = by_namespace.setdefault(namespace, {})
            same.setdefault(identifying_words(connection), []).append(connection)
        found: dict[tuple[int, bytes], set[int]] = {}
        for namespace, connections in by_namespace.items():
            columns = self._namespaces.get(namespace)
            if columns is None:
                continue
            ports = {words[0] for words in connections}
            for index in [index for index, word in enumerate(columns.words[0]) if word in ports]:
                for connection in connections.get(tuple(column[index] for column in columns.words), ()):
                    found.setdefault((namespace, connection), set()).add(self._places[columns.start + index])
        return found
