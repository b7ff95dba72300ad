"""Lets questions have their turns: a few at a time, each in a thread, none for longer than it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from loiter.durations import format_duration
from loiter_aggregator.access.principal import OURSELVES, who_asks
from loiter_aggregator.fleet.errors import Overloaded, TookTooLong
from loiter_aggregator.fleet.fair_queue import TURNS, FairQueue
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from loiter_aggregator.store.question import CalledOff, Question

Answer = TypeVar("Answer")

_WAITING: Final = 200
# A browser that opens a dozen pages again asks as many at once.
_WAITING_OF_ONE: Final = 64
# An interrupt that comes just before a query begins is lost.
_INTERRUPT_AGAIN_SECONDS: Final = 0.05


@dataclass(slots=True)
class QuestionCounts:
    """What became of the questions so far, and how many are answered or wait for that now."""

    in_hand: int = 0
    answered: int = 0
    failed: int = 0
    timed_out: int = 0
    turned_away: int = 0


class Turns:
    """Answers questions from the store."""

    def __init__(self, store: DuckDbStore, seconds: float) -> None:
        """Takes the store to read from, and how long a question may take, from when it comes in."""
        self._store = store
        self._seconds = seconds
        self._queue = FairQueue()
        self.counts = QuestionCounts()

    async def answer(self, work: Callable[[Question], Answer]) -> Answer:
        """Does the work when its turn comes, in a thread. Whose question it is says the call that is being served.

        Raises:
            Overloaded: Too many questions wait, or too many of the same caller.
            TookTooLong: It was not answered in time.
            StoreError: The store can not be read.
            InvalidRequest, NotFound: As the work has it.
        """
        asker = who_asks()
        if asker != OURSELVES and (full := self._full(asker)):
            self.counts.turned_away += 1
            raise Overloaded(f"{full} wait for an answer; ask again later")
        self.counts.in_hand += 1
        try:
            async with asyncio.timeout(self._seconds):
                async with self._queue.turn(asker):
                    answer = await self._work(work)
            self.counts.answered += 1
            return answer
        except TimeoutError:
            self.counts.timed_out += 1
            raise TookTooLong(
                f"no answer within {format_duration(self._seconds)} (limits.query_seconds of the aggregator); "
                "ask for a shorter window, or for fewer hosts by a label"
            ) from None
        except Exception:
            self.counts.failed += 1
            raise
        finally:
            self.counts.in_hand -= 1

    def _full(self, asker: str) -> str:
        """What keeps one more question from waiting; empty where nothing does."""
        if self._queue.waiting(asker) >= _WAITING_OF_ONE:
            return f"{_WAITING_OF_ONE} of your questions"
        return f"{_WAITING} questions" if self.counts.in_hand >= TURNS + _WAITING else ""

    async def _work(self, work: Callable[[Question], Answer]) -> Answer:
        """Does the work in a thread. Where nobody waits for it any more, its query is interrupted."""
        question = self._store.question()
        working = asyncio.ensure_future(asyncio.to_thread(work, question))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            while not working.done():
                question.call_off()
                # Cancelled again where both the time is up and the asker has left: its turn ends with its query.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait((working,), timeout=_INTERRUPT_AGAIN_SECONDS)
            with suppress(CalledOff, StoreError):
                working.result()
            raise
