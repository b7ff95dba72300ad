"""Where questions wait for their turn: a few at a time have one, and nobody's many keep the others' few waiting."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from loiter_aggregator.access.principal import OURSELVES

# Questions are answered in threads beside the writer; more at a time would only take its processor from it.
TURNS: Final = 4
# Alerts, reports and metrics come even while people ask for more than there is time for.
_FOR_CALLERS: Final = 3
_FOR_ONE: Final = 2


class FairQueue:
    """Gives turns to those who ask: to who has the fewest at present, or has waited longest since. Of one event loop.

    Nobody has more than two turns at a time, and all callers together three: one is for the aggregator's own questions.
    """

    def __init__(self) -> None:
        """Begins with nobody in it."""
        self._having: Counter[str] = Counter()
        # Of those who wait, who was not called for longest comes first.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def waiting(self, asker: str) -> int:
        """How many questions of one asker wait."""
        return len(self._waiting.get(asker, ()))

    @asynccontextmanager
    async def turn(self, asker: str) -> AsyncIterator[None]:
        """Waits for a turn, and has it until the end."""
        if asker not in self._waiting and self._may(asker):
            self._having[asker] += 1
        else:
            await self._wait(asker)
        try:
            yield
        finally:
            self._end(asker)

    async def _wait(self, asker: str) -> None:
        called = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(asker, deque()).append(called)
        try:
            await asyncio.shield(called)
        except asyncio.CancelledError:
            if called.done():  # in the same moment
                self._end(asker)
            else:
                self._remove(asker, called)
            raise

    def _end(self, asker: str) -> None:
        self._having[asker] -= 1
        if not self._having[asker]:
            del self._having[asker]
        while ready := [one for one in self._waiting if self._may(one)]:
            self._call(min(ready, key=self._having.__getitem__))

    def _call(self, asker: str) -> None:
        called = self._waiting[asker][0]
        self._remove(asker, called)
        if asker in self._waiting:  # behind the others
            self._waiting[asker] = self._waiting.pop(asker)
        self._having[asker] += 1
        called.set_result(None)

    def _remove(self, asker: str, called: asyncio.Future[None]) -> None:
        self._waiting[asker].remove(called)
        if not self._waiting[asker]:
            del self._waiting[asker]

    def _may(self, asker: str) -> bool:
        having = self._having.total()
        if having == TURNS or self._having[asker] == _FOR_ONE:
            return False
        return asker == OURSELVES or having - self._having[OURSELVES] < _FOR_CALLERS
