"""Turns of questions: nobody's many keep the others' few waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from loiter_aggregator.access.principal import OURSELVES
from loiter_aggregator.fleet.fair_queue import FairQueue


class Askers:
    """Has questions wait in a line, and notes whose got a turn, in order."""

    def __init__(self) -> None:
        self.queue = FairQueue()
        self.had: list[str] = []
        self._ends: list[tuple[str, asyncio.Event]] = []

    def ask(self, asker: str) -> asyncio.Task[None]:
        return asyncio.ensure_future(self._ask(asker))

    async def _ask(self, asker: str) -> None:
        async with self.queue.turn(asker):
            end = asyncio.Event()
            self.had.append(asker)
            self._ends.append((asker, end))
            try:
                await end.wait()
            finally:
                self._ends.remove((asker, end))

    async def end(self, asker: str) -> None:
        next(end for one, end in self._ends if one == asker).set()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 10))


def test_who_asks_much_has_two_turns_and_the_others_come_next() -> None:
    """The last turn of all is kept for the aggregator itself."""

    async def scenario() -> None:
        askers = Askers()
        many = [askers.ask("alice") for _ in range(20)]
        await settle()
        assert (askers.had, askers.queue.waiting("alice")) == (["alice"] * 2, 18)
        few = [askers.ask(name) for name in ("bob", "carol", OURSELVES)]
        await settle()
        assert askers.had[2:] == ["bob", OURSELVES]
        await askers.end("alice")
        assert askers.had[4:] == ["carol"], "alice has had her turn, and waits for more of them"
        for task in (*many, *few):
            task.cancel()
        await settle()
        assert askers.queue.waiting("alice") == 0

    run(scenario())


def test_turns_go_round() -> None:
    """To who has the fewest; among those, in the order in which they were not called for longest."""

    async def scenario() -> None:
        askers = Askers()
        tasks = [askers.ask(name) for name in ("x", "y", "z") for _ in range(2)]
        tasks += [askers.ask(name) for name in ("alice", "alice", "bob", "alice")]
        await settle()
        assert askers.had == ["x", "x", "y"]
        for at in range(6):
            await askers.end(askers.had[at])
        assert askers.had[3:] == ["z", "alice", "y", "bob", "z", "alice"]
        for task in tasks:
            task.cancel()
        await settle()

    run(scenario())


def test_the_aggregator_leaves_turns_to_callers() -> None:
    """However much it asks itself."""

    async def scenario() -> None:
        askers = Askers()
        tasks = [askers.ask(OURSELVES) for _ in range(9)]
        tasks.append(askers.ask("alice"))
        await settle()
        assert askers.had == [OURSELVES, OURSELVES, "alice"]
        for task in tasks:
            task.cancel()
        await settle()

    run(scenario())


def test_who_leaves_takes_no_turn_along() -> None:
    """Neither before it was called, nor in the moment that it is, nor while it has one."""

    async def scenario() -> None:
        askers = Askers()
        first = [askers.ask("alice") for _ in range(4)]
        await settle()
        first[2].cancel()
        await settle()
        assert askers.queue.waiting("alice") == 1
        first[0].cancel()
        # One step: what it had goes to the last, which leaves before it can begin.
        await asyncio.sleep(0)
        first[3].cancel()
        with suppress(asyncio.CancelledError):
            await first[3]
        first[1].cancel()
        await settle()
        tasks = [askers.ask("bob") for _ in range(2)] + [askers.ask("carol"), askers.ask(OURSELVES)]
        await settle()
        assert askers.had == ["alice", "alice", "bob", "bob", "carol", OURSELVES]
        for task in tasks:
            task.cancel()
        await settle()

    run(scenario())
