"""Stores with something in them, and aggregators to ask, all in the process of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.v1.fleet_service_pb2_grpc import add_FleetServiceServicer_to_server
from loiter_aggregator.alerts.alerting import Alerting
from loiter_aggregator.alerts.file import load_alerts
from loiter_aggregator.clock import Clock, from_duration, from_timestamp
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.fleet.reading import Reading
from loiter_aggregator.fleet.sockets import Sockets
from loiter_aggregator.fleet_service import FleetService
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.registry import Conflict
from loiter_aggregator.ingest.service import IngestService
from loiter_aggregator.ingest.socket_queries import SocketQueries
from loiter_aggregator.links import Links
from loiter_aggregator.ranking.query import By, Ranking
from loiter_aggregator.reports.file import load_reports
from loiter_aggregator.reports.reporting import Reporting
from loiter_aggregator.store.batch import Batch, HostRecord, key_of
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.reports import EPOCH, HOUR, NOW, SECOND, hello, host_id, report


@dataclass
class FakeClock:
    """A clock that stands until it is moved."""

    now: int = NOW

    def __call__(self) -> int:
        """Reads it."""
        return self.now


def open_store(folder: Path) -> DuckDbStore:
    """Opens the store of a folder."""
    return DuckDbStore(folder, "256MB")


def host_key(hostname: str) -> int:
    """The key that a host has in the store."""
    return key_of(host_id(hostname))


def record(said: pb.Hello) -> HostRecord:
    """What the store is told of a host that said hello."""
    return HostRecord(
        host_key=key_of(said.host.host_id),
        host_id=said.host.host_id,
        hostname=said.host.hostname,
        boot_id=said.host.boot_id,
        agent_version=said.host.agent_version,
        kernel_release=said.host.kernel_release,
        interval_ms=from_duration(said.interval),
        labels=dict(said.host.labels),
    )


def batch_of(*reports: pb.Report, received: int = NOW) -> Batch:
    """A batch of reports that came in at one time."""
    batch = Batch()
    for one in reports:
        batch.add(key_of(one.host_id), one, received)
    return batch


def store_samples(
    store: DuckDbStore,
    hostname: str,
    samples: Iterable[sample_pb2.Sample],
    *,
    labels: Mapping[str, str] | None = None,
    interval_ms: int = 10 * SECOND,
    late_ms: int = 0,
) -> None:
    """Stores a host and its samples, each received `late_ms` after it was taken."""
    batch = Batch()
    batch.hosts[host_key(hostname)] = record(hello(hostname, interval_ms=interval_ms, labels=labels))
    for sequence, taken in enumerate(samples, start=1):
        received = from_timestamp(taken.sample_time) + late_ms
        batch.add(host_key(hostname), report(hostname, sequence, taken, epoch=EPOCH), received)
    store.write(batch)


def ranking(
    by: By = "close_wait_growth",
    *,
    window_ms: int = HOUR,
    now: int = NOW,
    limit: int = 1_000,
    labels: Mapping[str, str] | None = None,
) -> Ranking:
    """A question about the time before NOW."""
    return Ranking(by=by, since=now - window_ms, now=now, limit=limit, labels=labels or {})


def put_host(store: DuckDbStore, said: HostRecord, seen: int) -> None:
    """Stores a host that was heard of at a time, but of which no sample is kept (any more)."""
    batch = Batch()
    batch.hosts[said.host_key] = said
    batch.last_seen[said.host_key] = seen
    store.write(batch)


def read_by(fleet: Fleet, clock: Clock, queries: SocketQueries | None = None) -> Reading:
    """What answers readers, with neither rules nor schedules of anybody's making.

    `queries` asks the agents that are connected; without, none is.
    """
    nowhere = Path("/nonexistent")
    return Reading(
        fleet,
        Sockets(fleet, queries or SocketQueries(Counters(clock()))),
        Reporting(load_reports(None), fleet, Links(), nowhere, clock),
        Alerting(load_alerts(None), fleet, Links(), nowhere, clock),
    )


@asynccontextmanager
async def serving(
    store: DuckDbStore,
    batcher: Batcher,
    clock: FakeClock,
    conflicts: Sequence[Conflict] = (),
    query_seconds: float = 30.0,
) -> AsyncIterator[str]:
    """Serves both services on a free port of the loopback address, and yields the address."""
    server = grpc.aio.server()
    ingest = IngestService(batcher, clock)
    server.add_generic_rpc_handlers((ingest.handler(),))
    fleet = Fleet(store, clock, batcher.counters, lambda: conflicts, query_seconds)
    add_FleetServiceServicer_to_server(FleetService(read_by(fleet, clock, ingest.socket_queries)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextmanager
def serving_in_background(
    store: DuckDbStore, clock: FakeClock, conflicts: Sequence[Conflict] = (), query_seconds: float = 30.0
) -> Iterator[str]:
    """Serves from a thread of its own, for clients that block, and yields the address."""
    address = ""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal address
        async with serving(store, Batcher(store, clock), clock, conflicts, query_seconds) as address:
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        assert address, "the server did not start"
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
