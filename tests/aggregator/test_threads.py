"""Threads for what blocks, beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from loiter_aggregator.threads import in_thread


def test_the_loop_goes_on_while_a_thread_waits() -> None:
    """What the work returns or raises comes back to who asked; the thread keeps nobody from ending."""

    async def scenario() -> None:
        begun, go = threading.Event(), threading.Event()
        seen: list[threading.Thread] = []

        def work() -> int:
            seen.append(threading.current_thread())
            begun.set()
            assert go.wait(10)
            return 7

        asked = asyncio.create_task(in_thread(work, "asking"))
        assert await asyncio.to_thread(begun.wait, 10)
        go.set()
        assert await asked == 7
        assert (seen[0].name, seen[0].daemon) == ("asking", True)
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 / 0, "asking")

    asyncio.run(scenario())


def test_work_that_nobody_waits_for_any_more_ends_quietly() -> None:
    """Whether who asked gave up, or the loop is closed by then."""
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        try:
            assert go.wait(10)
            raise ZeroDivisionError
        finally:
            ended.set()

    async def gives_up() -> None:
        asked = asyncio.create_task(in_thread(work, "asking"))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    async def in_time() -> None:
        await gives_up()
        go.set()
        await asyncio.to_thread(ended.wait, 10)
        await asyncio.sleep(0)

    failures: list[object] = []
    before = threading.excepthook
    threading.excepthook = failures.append
    try:
        asyncio.run(in_time())
        go.clear()
        ended.clear()
        asyncio.run(gives_up())
        go.set()
        assert ended.wait(10)
        for thread in threading.enumerate():
            if thread.name == "asking":
                thread.join(10)
    finally:
        threading.excepthook = before
    assert failures == []
