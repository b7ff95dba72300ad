"""Gathers reports from all streams and commits them together, once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.clock import Clock
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.store.batch import Batch, HostRecord
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError

_log = logging.getLogger(__name__)

# Rows on their way into the store, some hundred bytes each: streams wait while there are more.
_MAX_PENDING_ROWS: Final = 500_000

Acknowledge = Callable[[int, int], None]


class Batcher:
    """Takes reports and calls back once they are durable."""

    def __init__(self, store: DuckDbStore, clock: Clock, commit_seconds: float = 1.0) -> None:
        """Takes the store to write to. Reads from it what was stored before."""
        self.counters = Counters(started=clock())
        # Called when all that is not durable was given up.
        self.on_reset: Callable[[], None] = lambda: None
        self._store = store
        self._clock = clock
        self._commit_seconds = commit_seconds
        # The last sequence of each spool that is stored or on its way into the store.
        self._taken = store.high_water()
        self._batch = Batch()
        self._waiting: dict[tuple[int, int, Acknowledge], int] = {}
        self._room = asyncio.Condition()
        self._stop = asyncio.Event()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")

    def put_host(self, record: HostRecord) -> None:
        """Takes what a host says of itself, to be stored before any report that comes after it."""
        self._batch.hosts[record.host_key] = record

    async def put(self, host_key: int, report: pb.Report, acknowledge: Acknowledge, skew: int = 0) -> None:
        """Takes a report; `acknowledge(epoch, sequence)` is called when it and all before it are durable.

        A report that was taken before is not stored again, but acknowledged like the others. Waits while too much is
        on its way, which makes the stream it came by wait. `skew` is how far the host's clock is behind ours.
        """
        async with self._room:
            await self._room.wait_for(lambda: self._batch.rows < _MAX_PENDING_ROWS)
        spool = (host_key, report.spool_epoch)
        if report.sequence <= self._taken.get(spool, 0):
            self.counters.duplicates += 1
        else:
            self._taken[spool] = report.sequence
            self._batch.add(host_key, report, self._clock(), skew)
        waiting = (*spool, acknowledge)
        self._waiting[waiting] = max(report.sequence, self._waiting.get(waiting, 0))

    async def run(self) -> None:
        """Commits once a second until `stop` is called, and then once more."""
        failing = False
        while True:
            stopping = await self._stopped_within(self._commit_seconds)
            try:
                await self.commit()
                failing = False
            except StoreError as error:
                if not failing:
                    _log.error("%s; reports are not acknowledged until this is mended, agents keep them", error)
                failing = True
            except Exception:  # a mistake of ours, in which one batch must not take the others down
                _log.exception("a batch could not be stored; its reports are not acknowledged, agents send them again")
            if stopping:
                return

    def stop(self) -> None:
        """Has `run` commit what has come in, and return."""
        self._stop.set()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def commit(self) -> None:
        """Commits what has come in, and acknowledges it. Raises StoreError, in which case it is kept for the next."""
        batch, waiting = self._batch, self._waiting
        self._batch, self._waiting = Batch(), {}
        if batch.rows:
            try:
                # In a thread of its own: readers can keep those of the pool busy.
                await asyncio.get_running_loop().run_in_executor(self._writer, self._store.write, batch)
            except StoreError:
                self.counters.failed_commits += 1
                self._put_back(batch, waiting)
                raise
            except Exception:
                # The batch itself is at fault, and is given up. An acknowledgement covers all reports before it, so
                # every stream has to begin anew from what is durable.
                self.counters.failed_commits += 1
                self._batch, self._waiting = Batch(), {}
                self._taken = self._store.high_water()
                self.on_reset()
                raise
            self.counters.stored += len(batch)
        async with self._room:
            self._room.notify_all()
        for (_, epoch, acknowledge), sequence in waiting.items():
            acknowledge(epoch, sequence)

    def _put_back(self, batch: Batch, waiting: dict[tuple[int, int, Acknowledge], int]) -> None:
        batch.extend(self._batch)
        self._batch = batch
        for key, sequence in waiting.items():
            self._waiting[key] = max(sequence, self._waiting.get(key, 0))
