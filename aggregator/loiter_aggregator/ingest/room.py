"""How much may be on its way into the store: over all hosts, and of one of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final


@dataclass(slots=True)
class Amount:
    """Rows, and the bytes of the messages that they came in."""

    rows: int = 0
    size: int = 0

    def add(self, rows: int, size: int) -> None:
        """Makes it more, or less."""
        self.rows += rows
        self.size += size

    def has_room(self, rows: int, size: int, bound: Amount) -> bool:
        """Whether that much more fits. Whatever it is, it fits where there is nothing."""
        return not self.rows or (self.rows + rows <= bound.rows and self.size + size <= bound.size)


# A row takes some 400 bytes of memory. A fleet of 10,000 hosts sends 30,000 a second.
ALL: Final = Amount(rows=300_000, size=64_000_000)
# The largest report has 2,000 rows and a mebibyte.
ONE_HOST: Final = Amount(rows=20_000, size=4_000_000)


class Room:
    """Bounded room. Who finds none waits; a host that has used up its share waits alone."""

    def __init__(
        self, bound: Amount = ALL, share: Amount = ONE_HOST, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes how much there is, and how much of it one host may have."""
        self._bound, self._share = bound, share
        self._monotonic = monotonic
        self._used = Amount()
        self._by_host: dict[int, Amount] = {}
        self._left = asyncio.Condition()
        # When those who wait began to, the longest first; those apart who wait for the room of their own host.
        self._waiting: dict[object, float] = {}
        # When one began to wait that went away in vain, if no room was given back since.
        self._in_vain: float | None = None

    @property
    def rows(self) -> int:
        """How many rows are in it."""
        return self._used.rows

    def holds(self, host_key: int) -> bool:
        """Whether anything of a host is in it."""
        return host_key in self._by_host

    def longest_wait(self) -> float:
        """For how many seconds there has been too much of all hosts together for somebody who waits, or gave up."""
        since = [*islice(self._waiting.values(), 1), *(() if self._in_vain is None else (self._in_vain,))]
        return self._monotonic() - min(since) if since else 0.0

    def enter_now(self, host_key: int, rows: int, size: int) -> bool:
        """Takes room if there is some, and nobody waits for it."""
        if (
            self._waiting
            or not self._used.has_room(rows, size, self._bound)
            or not self._share_is_left(host_key, rows, size)
        ):
            return False
        self._take(host_key, rows, size)
        return True

    async def enter(self, host_key: int, rows: int, size: int) -> None:
        """Takes room, once there is."""
        if not self._share_is_left(host_key, rows, size):
            async with self._left:
                await self._left.wait_for(lambda: self._share_is_left(host_key, rows, size))
        if self._waiting or not self._used.has_room(rows, size, self._bound):
            me, began = object(), self._monotonic()
            self._waiting[me] = began
            try:
                async with self._left:
                    await self._left.wait_for(lambda: self._used.has_room(rows, size, self._bound))
            except asyncio.CancelledError:
                if self._used.rows and self._in_vain is None:
                    self._in_vain = began
                raise
            finally:
                del self._waiting[me]
        self._take(host_key, rows, size)

    def _take(self, host_key: int, rows: int, size: int) -> None:
        self._used.add(rows, size)
        held = self._by_host.get(host_key)
        if held is None:
            held = self._by_host[host_key] = Amount()
        held.add(rows, size)

    def leave(self, host_key: int, rows: int, size: int) -> None:
        """Gives room back. `announce` has those who wait look again."""
        self._in_vain = None
        self._used.add(-rows, -size)
        held = self._by_host[host_key]
        held.add(-rows, -size)
        if not held.rows:
            del self._by_host[host_key]

    async def announce(self) -> None:
        """Has those who wait look whether there is room for them."""
        async with self._left:
            self._left.notify_all()

    def _share_is_left(self, host_key: int, rows: int, size: int) -> bool:
        held = self._by_host.get(host_key)
        return held is None or held.has_room(rows, size, self._share)
