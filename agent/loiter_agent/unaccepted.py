"""Charges CLOSE_WAIT sockets that nobody accepted to those who should, without following them as `close_waits` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from loiter_agent.inet_diag import TCP_CLOSE_WAIT, Chunk
from loiter_agent.places import Listener


class Unaccepted:
    """The connections of a tick that wait to be accepted while their peers have closed: those without inode."""

    def __init__(self) -> None:
        """Starts a tick."""
        self._connections: list[tuple[int, bytes]] = []

    def feed(self, namespace: int, chunk: Chunk, states: bytes) -> None:
        """Takes in the sockets of a chunk."""
        for index, inode in enumerate(chunk.inodes()):
            if not inode and states[index] == TCP_CLOSE_WAIT:
                self._connections.append((namespace, chunk.connection(index)))

    def charge(
        self,
        holders_of: Callable[[Iterable[int]], list[int]],
        listener_of: Callable[[int, bytes], Listener | None],
    ) -> Counter[int]:
        """Counts them by the holder of their listener."""
        listeners = [listener_of(namespace, connection) for namespace, connection in self._connections]
        return Counter(holders_of(listener.inode for listener in listeners if listener is not None))
