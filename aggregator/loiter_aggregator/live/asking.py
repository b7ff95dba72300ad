"""Asks in a thread, one question at a time, so that keys are never kept waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


async def in_thread(ask: Callable[[], Answer]) -> Answer:
    """Runs what blocks in a thread of its own, and raises what it raises.

    Unlike one of asyncio's, the thread does not keep the program from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Answer] = loop.create_future()

    def settle(answer: Answer | None, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)  # type: ignore[arg-type] # without an error there is an answer

    def run() -> None:
        answer: Answer | None = None
        failure: BaseException | None = None
        try:
            answer = ask()
        except BaseException as error:
            failure = error
        if not loop.is_closed():
            try:
                loop.call_soon_threadsafe(settle, answer, failure)
            except RuntimeError:  # closed since
                return

    threading.Thread(target=run, name="asking", daemon=True).start()
    return await future
