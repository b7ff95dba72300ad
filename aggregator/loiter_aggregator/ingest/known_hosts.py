"""What is stored of the hosts that are connected: up to where their reports are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final

from loiter_aggregator.ingest.answers import Hearer
from loiter_aggregator.store.duckdb_store import DuckDbStore

# From so many on, one question for all hosts takes less time than one for each.
_MANY: Final = 20


@dataclass(slots=True)
class KnownHost:
    """One host: the last sequence of each epoch that is stored or on its way into the store, and who is at it.

    `hostname`, `boot_id` and `interval_ms` are what it said last, `last_seen` is when a report of it came last, in
    milliseconds, and `certificate_name` the name in the certificate that its id belongs to; None where there is none.
    """

    marks: dict[int, int]
    hostname: str | None = None
    boot_id: str | None = None
    interval_ms: int = 0
    last_seen: int | None = None
    certificate_name: str | None = None
    streams: set[Hearer] = field(default_factory=set)

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever heard of it."""
        return self.hostname is None and not self.marks


class KnownHosts:
    """Reads from the store what is stored of a host when it connects, and forgets it when nobody needs it any more.

    The event loop does not wait for that, and a fleet that connects at once is read at once.
    """

    def __init__(self, store: DuckDbStore, executor: Executor) -> None:
        """Takes the store to read from, and the threads to read in."""
        self._store = store
        self._executor = executor
        self._hosts: dict[int, KnownHost] = {}
        self._loads: dict[int, asyncio.Future[None]] = {}
        self._queue: list[int] = []
        self._loading: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many hosts are remembered."""
        return len(self._hosts)

    def get(self, host_key: int) -> KnownHost | None:
        """What is remembered of a host."""
        return self._hosts.get(host_key)

    async def load(self, host_key: int) -> KnownHost:
        """What is known of a host; does not wait where that is remembered.

        Raises:
            StoreError: It can not be read.
        """
        while (host := self._hosts.get(host_key)) is None:
            load = self._loads.get(host_key)
            if load is None:
                load = self._loads[host_key] = asyncio.get_running_loop().create_future()
                self._queue.append(host_key)
                if self._loading is None or self._loading.done():
                    self._loading = asyncio.create_task(self._load_all())
            await asyncio.shield(load)  # others may wait for the same
        return host

    def forget(self, host_key: int) -> None:
        """Lets go of a host."""
        self._hosts.pop(host_key, None)

    def forget_all(self) -> None:
        """Lets go of all hosts."""
        self._hosts.clear()

    def follow_clock(self, step: int) -> None:
        """Has the clock set by `step` milliseconds: when hosts were heard of is as long ago as before."""
        for host in self._hosts.values():
            if host.last_seen is not None:
                host.last_seen += step

    async def _load_all(self) -> None:
        while self._queue:
            keys, self._queue = self._queue, []
            error: Exception | None = None
            known: dict[int, KnownHost] = {}
            try:
                known = await asyncio.get_running_loop().run_in_executor(self._executor, self._read, keys)
            except Exception as caught:  # whatever it is, it is for those who wait
                error = caught
            for key in keys:
                load = self._loads.pop(key)
                if error is None:
                    self._hosts[key] = known[key]
                    load.set_result(None)
                else:
                    load.set_exception(error)
                    load.exception()  # nobody may be waiting any more

    def _read(self, keys: Sequence[int]) -> dict[int, KnownHost]:
        known = {key: KnownHost({}) for key in keys}
        for one in keys if len(keys) < _MANY else (None,):
            for key, stored in self._store.hosts(one).items():
                if key in known:
                    known[key] = KnownHost({}, *stored)
            for (key, epoch), sequence in self._store.high_water(one).items():
                if key in known:
                    known[key].marks[epoch] = sequence
        return known
