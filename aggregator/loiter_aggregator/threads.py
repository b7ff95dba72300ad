"""Threads for what blocks, which do not keep the program from ending, as those of asyncio do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")
Told = TypeVar("Told")


async def in_thread(work: Callable[[], Result], name: str) -> Result:
    """Does what blocks in a thread of its own, of a name, and raises what it raises.

    Where nobody waits any more, the thread goes on to its end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def succeed(result: Result) -> None:
        if not done.done():
            done.set_result(result)

    def fail(error: BaseException) -> None:
        if not done.done():
            done.set_exception(error)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # whoever waits is told
            _tell(loop, fail, error)
        else:
            _tell(loop, succeed, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[Told], None], told: Told) -> None:
    with suppress(RuntimeError):  # the loop is closed: the program has ended meanwhile
        loop.call_soon_threadsafe(what, told)
