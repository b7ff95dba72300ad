"""Starts and stops the parts of the aggregator in order, and does nothing else."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Final

import grpc
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from loiter.limits import MAX_MESSAGE_BYTES
from loiter.v1 import fleet_service_pb2
from loiter.v1.fleet_service_pb2_grpc import add_FleetServiceServicer_to_server
from loiter_aggregator.clock import Clock, system_clock
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.fleet_service import FleetService
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.service import SERVICE as INGEST_SERVICE
from loiter_aggregator.ingest.service import IngestService
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError

_log = logging.getLogger(__name__)

_FLEET_SERVICE: Final = fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name
_STOP_GRACE_SECONDS: Final = 1.0
_RETENTION_EVERY_MINUTES: Final = 10

_SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Two aggregators on one port would each get some of the agents, and neither would say a word.
    ("grpc.so_reuseport", 0),
    # A whole fleet connects at once when the aggregator was away: by default, gRPC turns down what exceeds a thousand.
    ("grpc.server.max_pending_requests", 200_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    # Agents ping every 30 s, also when they have nothing to send.
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class ListenError(OSError):
    """The address can not be listened on."""


async def serve(settings: AggregatorSettings, clock: Clock = system_clock) -> None:
    """Runs the aggregator until SIGTERM or SIGINT. Then commits and acknowledges what has come in, and returns.

    Raises:
        StoreError: The store can not be opened.
        ListenError: The address is in use, or is none of this machine's.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    store = DuckDbStore(settings.data_dir, settings.store.memory_limit)
    try:
        batcher = Batcher(store, clock)
        ingest = IngestService(batcher, clock)
        server, health_service = _server(store, batcher, ingest, clock)
        try:
            server.add_insecure_port(settings.listen)
        except RuntimeError:
            raise ListenError(
                f"cannot listen on {settings.listen}: the port is in use, or the address is not of this machine"
            ) from None
        await server.start()
        for name in ("", INGEST_SERVICE, _FLEET_SERVICE):
            await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
        committing = asyncio.create_task(batcher.run())
        retention = _schedule_retention(store, settings, clock)
        _log.info("listening on %s, store in %s", settings.listen, settings.data_dir)

        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((committing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if committing.done():
            committing.result()  # it does not return by itself: raise what ended it

        _log.info("stopping")
        retention.shutdown(wait=False)
        await health_service.enter_graceful_shutdown()
        batcher.stop()
        await committing
        await ingest.end_streams()
        await server.stop(_STOP_GRACE_SECONDS)
        counters = batcher.counters
        _log.info(
            "stopped: %d reports stored, %d duplicates, %d rejected",
            counters.stored,
            counters.duplicates,
            counters.rejected,
        )
    finally:
        store.close()


def _server(
    store: DuckDbStore, batcher: Batcher, ingest: IngestService, clock: Clock
) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    server.add_generic_rpc_handlers((ingest.handler(),))
    add_FleetServiceServicer_to_server(FleetService(store, clock, batcher.counters), server)
    health_service = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    names = (INGEST_SERVICE, _FLEET_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server, health_service


def _schedule_retention(store: DuckDbStore, settings: AggregatorSettings, clock: Clock) -> AsyncIOScheduler:
    async def forget() -> None:
        try:
            await asyncio.to_thread(store.forget_before, clock() - round(settings.store.retention * 1_000))
        except StoreError as error:
            _log.error("%s", error)

    scheduler = AsyncIOScheduler()
    # However late a run is, it is worth doing, and once is enough.
    trigger = IntervalTrigger(minutes=_RETENTION_EVERY_MINUTES)
    scheduler.add_job(forget, trigger, misfire_grace_time=None, coalesce=True)
    scheduler.start()
    return scheduler
