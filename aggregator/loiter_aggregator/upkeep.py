"""Keeps the levels of the store up while the program runs: rolls what has settled, seals what is old.

Both run in threads of their own, beside what is written and asked. Where the store can not, as its disk is full, that
is logged, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from loiter.logs import fields
from loiter_aggregator.clock import Clock
from loiter_aggregator.store.duckdb_store import DuckDbStore, LevelFigures, StoreError

_log = logging.getLogger(__name__)

_ROLL_EVERY_SECONDS: Final = 10.0
_SEAL_EVERY_SECONDS: Final = 60.0


class Upkeep:
    """Does it, and knows how far it has come: what metrics say of it need not be read from the store."""

    def __init__(self, store: DuckDbStore, hot: int, clock: Clock) -> None:
        """Takes the store, how many milliseconds rows stay in the database, and the clock."""
        self._store, self._hot, self._clock = store, hot, clock
        self.figures: Mapping[str, LevelFigures] = {}
        self.failures = 0

    async def keep_rolling(self) -> None:
        """Rolls what has settled, every ten seconds, until it is cancelled."""
        await self._keep(self.roll, _ROLL_EVERY_SECONDS)

    async def keep_sealing(self) -> None:
        """Seals what is old, every minute, until it is cancelled."""
        await self._keep(self.seal, _SEAL_EVERY_SECONDS)

    def roll(self) -> None:
        """Rolls all that has settled by now. Raises StoreError."""
        while self._store.roll(self._clock()):
            pass
        self.figures = self._store.figures()

    def seal(self) -> None:
        """Seals all that is old by now. Raises StoreError."""
        if self._store.seal(self._clock(), self._hot):
            self.figures = self._store.figures()

    @property
    def missing_files(self) -> int:
        """How many sealed files are gone, or not as they were."""
        return len(self._store.sealed.missing)

    async def _keep(self, work: Callable[[], None], seconds: float) -> None:
        while True:
            try:
                await asyncio.to_thread(work)
            except StoreError as error:
                self.failures += 1
                _log.error("%s", error, extra=fields(reason=error))
            await asyncio.sleep(seconds)
