"""Answers the aggregator when it asks for single sockets: between two ticks, one question at a time.

No tick waits for an answer: a reading is broken off when one is due, and begins anew after it. Answers take no more of
a processor than the budget of the ticks once again: the dearer one was, the later the next. An aggregator asks again
only when nobody waits for the last answer any more: so a new question takes the place of one that waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from loiter.durations import format_duration
from loiter.logs import fields
from loiter.v1 import socket_pb2 as pb

if TYPE_CHECKING:
    from loiter_agent.socket_rows import Listing, Wanted

_log = logging.getLogger(__name__)

_LEAST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
# A question that would wait longer is refused: the aggregator waits for ten seconds.
_LONGEST_WAIT_SECONDS: Final = 5.0
# So often is a reading begun anew for one question.
_ATTEMPTS: Final = 5

# Lists what is wanted, and raises GaveWay once the second argument says that a tick is due. See `Sampler.list_sockets`.
ListSockets = Callable[["Wanted", Callable[[], bool]], "Listing"]


class SocketAnswers:
    """Answers questions by what lists the sockets: in a thread, with the lock of the ticks held meanwhile."""

    def __init__(
        self,
        list_sockets: ListSockets,
        ticking: asyncio.Lock,
        on_used: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Takes what lists the sockets, the lock that every tick holds, and whom to tell of processor time used."""
        self.cpu_share = 1.0
        # Set while a tick waits for the lock.
        self.tick_is_due = False
        self._list = list_sockets
        self._ticking = ticking
        self._on_used = on_used
        self._clock = clock
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._newest: pb.SocketQuery | None = None
        self._next = clock()
        self._running: set[asyncio.Task[pb.SocketAnswer]] = set()

    async def answer(self, query: pb.SocketQuery) -> pb.SocketAnswer:
        """Answers a question, or says in the answer why not. Raises nothing.

        Where nobody waits for it any more, a reading goes on to its end all the same: until then no tick may begin.
        """
        self._newest = query
        task = asyncio.create_task(self._answer(query))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _answer(self, query: pb.SocketQuery) -> pb.SocketAnswer:
        from loiter_agent.socket_rows import NothingListed, read_query, refusal, write_answer  # late: hardly ever asked

        async with self._turn:
            pause = max(0.0, self._next - self._clock())
            if pause > _LONGEST_WAIT_SECONDS:
                return refusal(
                    query.query_id, f"it has just answered, and does so again in {format_duration(round(pause))}"
                )
            if query is self._newest:
                await self._sleep(pause)
            if query is not self._newest:
                return refusal(query.query_id, "a newer question took its place")
            _log.info("the aggregator asks for sockets", extra=fields(pid=query.pid or None, limit=query.limit))
            try:
                return write_answer(query.query_id, await self._read(read_query(query)))
            except (NothingListed, OSError) as error:
                return refusal(query.query_id, str(error))
            except Exception:  # a mistake of ours: reports are not to suffer from it
                _log.exception("a question for sockets could not be answered")
                return refusal(query.query_id, "the agent failed to read them; its log says more")

    async def _read(self, wanted: Wanted) -> Listing:
        """Lists between two ticks. Raises NothingListed and OSError."""
        from loiter_agent.socket_rows import GaveWay, NothingListed

        for _ in range(_ATTEMPTS):
            async with self._ticking:
                try:
                    return await asyncio.to_thread(self._timed, wanted)
                except GaveWay:
                    continue
        raise NothingListed("there is not enough time between two ticks to read them; a longer interval would help")

    def _timed(self, wanted: Wanted) -> Listing:
        """Lists, and puts the next answer off by as much as this one takes."""
        before = time.thread_time()
        try:
            return self._list(wanted, lambda: self.tick_is_due)
        finally:
            used = time.thread_time() - before
            self._on_used(used)
            pause = min(max(used / self.cpu_share, _LEAST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            self._next = self._clock() + pause
