"""`/healthz` and `/readyz`: what load balancers and orchestrators ask. They tell nothing that is not for everyone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError

PATHS: Final = frozenset({"/healthz", "/readyz"})
_PROBE_SECONDS: Final = 2.0
# However often it is asked, the store is looked at this often at most.
_PROBE_EVERY_SECONDS: Final = 1.0


class Readiness:
    """Knows whether the aggregator does its work: takes reports in and answers questions."""

    def __init__(
        self,
        store: DuckDbStore,
        write_failure: Callable[[], str | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the store, and what says why nothing can be written to it, None where it can."""
        self._store = store
        self._write_failure = write_failure
        self._monotonic = monotonic
        self._stopping = False
        # Of its own, so that questions of others in hand do not make the store look out of reach.
        self._thread = ThreadPoolExecutor(1, "readiness")
        self._probe: asyncio.Future[str | None] | None = None
        self._probed: float | None = None

    async def reasons(self) -> list[str]:
        """What keeps it from its work; nothing where it is ready. The log has the particulars."""
        if self._stopping:
            return ["the aggregator stops"]
        reasons = []
        if self._write_failure() is not None:
            reasons.append("reports can not be stored")
        if (unread := await self._unread()) is not None:
            reasons.append(unread)
        return reasons

    def stop(self) -> None:
        """Says from now on that the aggregator stops."""
        self._stopping = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _unread(self) -> str | None:
        now = self._monotonic()
        done = self._probe is None or self._probe.done()
        if self._probe is None or (done and (self._probed is None or now - self._probed >= _PROBE_EVERY_SECONDS)):
            self._probe = asyncio.get_running_loop().run_in_executor(self._thread, self._look)
            self._probed = now
        try:
            return await asyncio.wait_for(asyncio.shield(self._probe), _PROBE_SECONDS)
        except TimeoutError:
            return f"the store has not answered within {_PROBE_SECONDS:g} s"

    def _look(self) -> str | None:
        try:
            self._store.question().read("SELECT 1")
        except StoreError:
            return "the store can not be read"
        return None


async def healthz(_: Request) -> Response:
    """Answers as long as the event loop runs."""
    return PlainTextResponse("alive\n")


async def readyz(request: Request) -> Response:
    """Answers 200 while the aggregator does its work, and otherwise 503 with what keeps it."""
    reasons = await request.app.state.readiness.reasons()
    if not reasons:
        return PlainTextResponse("ready\n")
    return PlainTextResponse("not ready: " + "; ".join(reasons) + "\n", 503, {"retry-after": "5"})
