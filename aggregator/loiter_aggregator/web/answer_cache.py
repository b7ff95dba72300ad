"""Remembers answers for a short while, so that many who look at one page cost one question."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar, cast

from google.protobuf.message import Message

from loiter_aggregator.access.principal import who_asks
from loiter_aggregator.clock import Clock
from loiter_aggregator.fleet.errors import InvalidRequest, NotFound, Overloaded, TookTooLong, Unavailable
from loiter_aggregator.store.duckdb_store import StoreError

_log = logging.getLogger(__name__)

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)

_FRESH_SECONDS: Final = 5.0
_STALE_SECONDS: Final = 15.0
# Most first answers take less; who waits longer would rather see the page come.
_WAIT_SECONDS: Final = 0.05
# Where there is an older answer to show, waiting for the new one is worth even less; nothing where it takes longer.
_RENEWAL_WAIT_SECONDS: Final = 0.05
# Such a renewal has the time that a browser takes to draw the page, and no viewer who waits for it.
_RENEWAL_PAUSE_SECONDS: Final = 0.25
_FORGET_SECONDS: Final = 300.0
# However long an answer took, the next is asked for after that.
_LONGEST_REST_SECONDS: Final = 600.0
_MAX_ENTRIES: Final = 500
_MAX_BYTES: Final = 32_000_000
_MAX_UNDER_WAY: Final = 200
# A page asks half a dozen, and a browser opens a dozen pages again as it starts.
_MAX_UNDER_WAY_OF_ONE: Final = 64


class Mistake(Exception):
    """The aggregator made a mistake that nobody expected. What it was is in the log, and nobody else's affair."""


_ANSWERED_WITH: Final = (InvalidRequest, NotFound, Unavailable, Overloaded, TookTooLong, Mistake)


@dataclass(frozen=True, slots=True)
class Seen(Generic[Answer]):
    """What there is to show at present. The answer is shared by all who look: nobody may change it.

    `at` is when the answer was asked for, in milliseconds of the aggregator's clock; `age` the seconds since. `error`
    is what the latest attempt failed with: there may be an answer of before all the same.
    """

    answer: Answer | None
    at: int | None
    age: float | None
    error: Exception | None

    @property
    def loading(self) -> bool:
        """Whether the first answer is still waited for."""
        return self.answer is None and self.error is None

    @property
    def stale(self) -> bool:
        """Whether the answer is so old that whoever sees it has to be told."""
        return self.age is not None and self.age > _STALE_SECONDS

    def need(self) -> Answer:
        """The answer. Raises what it failed with where there is none, and Overloaded where it has not come yet."""
        if self.answer is not None:
            return self.answer
        raise self.error or Overloaded("the answer is not there yet; ask again in a moment")


@dataclass(slots=True)
class _Entry:
    """One question. `tried` and `answered` are seconds of the monotonic clock, None where that has not happened.

    It is not asked anew before `rests_until`. To answer it `took` so many seconds the last time. `asked_by` is who was
    the first to ask.
    """

    asked_by: str
    looked_at: float = 0.0
    tried: float | None = None
    rests_until: float = 0.0
    took: float = 0.0
    task: asyncio.Task[None] | None = None
    answer: Message | None = None
    size: int = 0
    at: int | None = None
    answered: float | None = None
    error: Exception | None = field(default=None)


class AnswerCache:
    """Answers of late, by question. Belongs to one event loop."""

    def __init__(self, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Takes the aggregator's clock, and one in seconds that never steps."""
        self._clock = clock
        self._monotonic = monotonic
        # The question that nobody has looked at for longest comes first.
        self._entries: OrderedDict[tuple[str, str, bytes], _Entry] = OrderedDict()
        # Whom each question under way was begun for.
        self._under_way: dict[asyncio.Task[None], str] = {}

    def __len__(self) -> int:
        """How many answers are kept, or waited for."""
        return len(self._entries)

    async def ask(
        self,
        method: Callable[[Request], Awaitable[Answer]],
        request: Request,
        *,
        wait: float | None = _WAIT_SECONDS,
        fresh: float = _FRESH_SECONDS,
        rest: float = 0.0,
        who: str = "",
    ) -> Seen[Answer]:
        """Asks, or shows what was answered before.

        An answer younger than `fresh` seconds is shown as it is. An older one is asked for anew, once for all who look,
        and shown meanwhile. The first answer is waited for, up to `wait` seconds. Where `wait` is None, a fresh answer
        is waited for as long as it takes: for a download, which has nobody to fill it in later. A failure is fresh for
        5 seconds at most.

        Where asking costs much, `rest` times as long as it took has to pass until it is asked for anew. An answer that
        is not for everyone is asked for by `who`.

        Never raises what a question fails with: that is in what is returned.
        """
        key = (f"{method.__module__}.{method.__qualname__}", who, request.SerializeToString(deterministic=True))
        entry = self._entries.get(key) or _Entry(who_asks())
        if self._is_due(entry, fresh):
            if full := self._full():
                return replace(self._seen(entry), error=Overloaded(f"{full} wait for an answer; ask again later"))
            self._start(entry, method, request, rest)
        self._keep(key, entry)
        if entry.task is not None:
            seconds = wait
            if wait is not None and (entry.answer is not None or entry.error is not None):
                seconds = 0.0 if entry.took > _RENEWAL_WAIT_SECONDS else min(wait, _RENEWAL_WAIT_SECONDS)
            await asyncio.wait({entry.task}, timeout=seconds)
        return self._seen(entry)

    async def close(self) -> None:
        """Lets go of the questions under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _is_due(self, entry: _Entry, fresh: float) -> bool:
        if entry.task is not None or entry.tried is None:
            return entry.task is None
        now = self._monotonic()
        if entry.error is not None:
            fresh = min(fresh, _FRESH_SECONDS)
        return now - entry.tried >= fresh and now >= entry.rests_until

    def _keep(self, key: tuple[str, str, bytes], entry: _Entry) -> None:
        """Keeps what is looked at now, and drops what nobody has looked at for long, and what is too much."""
        now = entry.looked_at = self._monotonic()
        self._entries[key] = entry
        self._entries.move_to_end(key)
        # Whoever waits for an answer finds it, and who comes back while a costly one rests.
        idle = {key: one for key, one in self._entries.items() if one is not entry and one.task is None}
        for old, one in idle.items():
            if now - one.looked_at >= _FORGET_SECONDS and now >= one.rests_until:
                del self._entries[old]
        while self._is_too_much():
            # Nobody's many take the place of others' few: who had the most asked has room made.
            often = Counter(one.asked_by for one in self._entries.values())
            droppable = [old for old in idle if old in self._entries]
            if not droppable:
                return
            del self._entries[max(droppable, key=lambda old: often[self._entries[old].asked_by])]

    def _is_too_much(self) -> bool:
        size = sum(entry.size for entry in self._entries.values())
        return len(self._entries) > _MAX_ENTRIES or size > _MAX_BYTES

    def _full(self) -> str:
        """What keeps one more question from being asked; empty where nothing does."""
        if Counter(self._under_way.values())[who_asks()] >= _MAX_UNDER_WAY_OF_ONE:
            return f"{_MAX_UNDER_WAY_OF_ONE} of your questions"
        return f"{_MAX_UNDER_WAY} questions" if len(self._under_way) >= _MAX_UNDER_WAY else ""

    def _start(
        self, entry: _Entry, method: Callable[[Request], Awaitable[Answer]], request: Request, rest: float
    ) -> None:
        entry.tried = self._monotonic()
        task = entry.task = asyncio.create_task(self._answer(entry, method, request, rest))
        self._under_way[task] = who_asks()
        task.add_done_callback(self._under_way.pop)

    async def _answer(
        self, entry: _Entry, method: Callable[[Request], Awaitable[Answer]], request: Request, rest: float
    ) -> None:
        if entry.answer is not None and entry.took > _RENEWAL_WAIT_SECONDS:
            # The page goes out with the older answer: a browser on the same machine has the processor to draw it.
            await asyncio.sleep(_RENEWAL_PAUSE_SECONDS)
        asked, asked_at = self._monotonic(), self._clock()
        try:
            answer = await method(request)
        except _ANSWERED_WITH as error:
            entry.error = error
        except StoreError as error:
            _log.error("%s", error)
            entry.error = StoreError("the store can not be read; see the aggregator's log")
        except Exception:
            _log.exception("a question was not answered by a mistake in the program")
            entry.error = Mistake("the aggregator made a mistake; its log says which")
        else:
            entry.answer, entry.size, entry.error = answer, answer.ByteSize(), None
            entry.at, entry.answered = asked_at, asked
        finally:
            entry.task = None
            ended = self._monotonic()
            entry.took = ended - asked
            entry.rests_until = ended + min(_LONGEST_REST_SECONDS, rest * entry.took)

    def _seen(self, entry: _Entry) -> Seen[Any]:
        age = None if entry.answered is None else max(0.0, self._monotonic() - entry.answered)
        return Seen(cast("Any", entry.answer), entry.at, age, entry.error)
