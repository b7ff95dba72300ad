"""Remembers which processes accept connections on which port: not always those that a listener is charged to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from loiter_agent.places import ROLE_ACCEPTED, Place
from loiter_agent.sample import ProcessKey

_REMEMBERED_SECONDS: Final = 600.0


class Acceptors:
    """The processes that were seen with accepted connections within the last ten minutes."""

    def __init__(self) -> None:
        """Starts without any."""
        self._seen: dict[tuple[int, int], dict[ProcessKey, float]] = {}

    def update(self, now: float, places: Iterable[Place], process: Callable[[int], ProcessKey | None]) -> None:
        """Takes in the places of a tick."""
        for place in places:
            if place.role == ROLE_ACCEPTED:
                key = process(place.holder)
                if key is not None:
                    self._seen.setdefault((place.namespace, place.port), {})[key] = now
        for port, processes in list(self._seen.items()):
            self._seen[port] = {key: seen for key, seen in processes.items() if now - seen < _REMEMBERED_SECONDS}
            if not self._seen[port]:
                del self._seen[port]

    def of(self, namespace: int, port: int) -> set[ProcessKey | None]:
        """Those of one port."""
        return set(self._seen.get((namespace, port), ()))
