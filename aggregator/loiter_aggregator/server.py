"""Starts and stops the parts of the aggregator in order, and does nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import grpc
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from loiter import restart_pause, sd_notify
from loiter.logs import fields
from loiter.sd_notify import Notifier
from loiter.v1 import fleet_service_pb2
from loiter.v1.fleet_service_pb2_grpc import add_FleetServiceServicer_to_server
from loiter_aggregator.access.certificates import warn_of_expiry
from loiter_aggregator.access.doors import Door, make_doors, no_ingest_handler, reader_authenticator
from loiter_aggregator.alerts.alerting import Alerting
from loiter_aggregator.alerts.file import AlertFile
from loiter_aggregator.background import keep_running
from loiter_aggregator.clock import Clock, boot_clock, system_clock
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.fleet.reading import Reading
from loiter_aggregator.fleet.sockets import Sockets
from loiter_aggregator.fleet_service import FleetService
from loiter_aggregator.heartbeat import Heartbeat
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.ingest.service import SERVICE as INGEST_SERVICE
from loiter_aggregator.ingest.service import IngestService
from loiter_aggregator.links import Links
from loiter_aggregator.metrics.metrics import Metrics
from loiter_aggregator.metrics.of_aggregator import Inside
from loiter_aggregator.reports.file import ReportFile
from loiter_aggregator.reports.reporting import Reporting
from loiter_aggregator.retention import Retention
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from loiter_aggregator.store.levels import FIVE_MINUTES, HOUR, MINUTE
from loiter_aggregator.turn_taking import give_way_soon
from loiter_aggregator.upkeep import Upkeep

if TYPE_CHECKING:
    from loiter_aggregator.web.server import WebServer

_log = logging.getLogger(__name__)

_FLEET_SERVICE: Final = fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name
_STOP_GRACE_SECONDS: Final = 1.0
_RETENTION_EVERY_MINUTES: Final = 10
_EXPIRY_EVERY_HOURS: Final = 24


async def serve(
    settings: AggregatorSettings, alert_file: AlertFile, report_file: ReportFile, clock: Clock = system_clock
) -> None:
    """Runs the aggregator until SIGTERM, SIGINT or SIGHUP. Then commits and acknowledges what has come in, and returns.

    Raises:
        StoreError: The store can not be opened.
        ListenError: An address is in use, or is none of this machine's.
        SecurityFileError, TokenFileError, RevocationFileError: A file that decides who gets in can not be used.
    """
    stop = _stop_on_signals()
    notifier = sd_notify.from_environment(os.environ)
    notifier.status("opening the store")
    with notifier.extending_timeout():  # it may have a write-ahead log to read, or an older version to migrate
        store = DuckDbStore(settings.data_dir, settings.store.memory_limit)
    try:
        await _serve(store, settings, alert_file, report_file, clock, notifier, stop)
    finally:
        store.close()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _serve(
    store: DuckDbStore,
    settings: AggregatorSettings,
    alert_file: AlertFile,
    report_file: ReportFile,
    clock: Clock,
    notifier: Notifier,
    stop: asyncio.Event,
) -> None:
    batcher = Batcher(store, clock, limits=settings.limits, steady_clock=boot_clock)
    ingest = IngestService(batcher, clock)
    fleet = Fleet(store, clock, batcher.counters, ingest.conflicts, settings.limits.query_seconds)
    links = Links(settings.web.url)
    reports = Reporting(report_file, fleet, links, settings.data_dir, clock, settings.reports.settle)
    alerts = Alerting(alert_file, fleet, links, settings.data_dir, clock)
    reading = Reading(fleet, Sockets(fleet, ingest.socket_queries), reports, alerts)
    upkeep = Upkeep(store, round(settings.store.seal_after * 1_000), clock)
    inside = Inside(lambda: batcher.waiting, lambda: batcher.room.rows, store.file, upkeep)
    metrics = Metrics(fleet, batcher.counters, settings.metrics, reading, inside, clock)
    health_service = health.aio.HealthServicer()
    # Before gRPC's: servers of gRPC that have started can not be let go of by an error.
    web = await _open_page(settings, store, batcher, reading, metrics, clock)
    doors = await _open_doors(settings, batcher.counters, ingest, reading, health_service, metrics)
    heartbeat = Heartbeat(notifier, batcher, store.file)
    batcher.on_round = store.on_wait = heartbeat.beat
    committing = asyncio.create_task(batcher.run())
    guarding = [asyncio.create_task(door.interceptor.run()) for door in doors]
    # The program does not end by these: it goes on storing what comes in.
    guarding += [
        asyncio.create_task(keep_running("what sends reports", reports.run)),
        asyncio.create_task(keep_running("what evaluates alerts", alerts.run)),
        asyncio.create_task(keep_running("what gathers metrics", metrics.run)),
        asyncio.create_task(keep_running("what rolls samples", upkeep.keep_rolling)),
        asyncio.create_task(keep_running("what seals samples", upkeep.keep_sealing)),
    ]
    scheduler = _schedule(store, settings, clock)
    for door in doors:
        _log.info("%s", door, extra=fields(address=door.address))
    _log.info("store in %s", settings.data_dir, extra=fields(data_dir=settings.data_dir))
    give_way_soon()
    notifier.ready()
    restart_pause.forget(os.environ)
    heartbeat.beat()

    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((committing, stopping, *guarding), return_when=asyncio.FIRST_COMPLETED)
    for task in (committing, *guarding):
        if task.done():
            task.result()  # none returns by itself: raise what ended it

    _log.info("stopping")
    notifier.stopping()
    for task in guarding:
        task.cancel()
    scheduler.shutdown(wait=False)
    await health_service.enter_graceful_shutdown()
    if web is not None:
        await web.stop()
    batcher.stop()
    await committing
    await ingest.end_streams()
    await asyncio.gather(*(door.server.stop(_STOP_GRACE_SECONDS) for door in doors))
    with notifier.extending_timeout():  # reports that are being sent are waited for
        await asyncio.gather(*guarding, return_exceptions=True)
    _say_the_end(batcher.counters)


async def _open_doors(
    settings: AggregatorSettings,
    counters: Counters,
    ingest: IngestService,
    reading: Reading,
    health_service: health.aio.HealthServicer,
    metrics: Metrics,
) -> Sequence[Door]:
    doors = make_doors(settings, partial(_count_refused, counters), metrics.observe_call)
    for door in doors:
        _furnish(door.server, ingest.handler() if door.ingest else no_ingest_handler(), reading, health_service)
        await door.server.start()
    for name in ("", INGEST_SERVICE, _FLEET_SERVICE):
        await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
    return doors


async def _open_page(
    settings: AggregatorSettings,
    store: DuckDbStore,
    batcher: Batcher,
    reading: Reading,
    metrics: Metrics,
    clock: Clock,
) -> WebServer | None:
    if settings.http is None:
        return None
    # Late: who serves no page need not wait until all that makes one is imported.
    from loiter_aggregator.web.health import Readiness
    from loiter_aggregator.web.server import WebServer
    from loiter_aggregator.web.site import make_site

    readiness = Readiness(store, lambda: batcher.failure)
    refuse = partial(_count_refused, batcher.counters)
    authenticator = reader_authenticator(settings)
    web = WebServer(make_site(reading, metrics, authenticator, settings, clock, readiness, refuse), settings)
    await web.start()
    return web


def _count_refused(counters: Counters) -> None:
    counters.calls_refused += 1


def _say_the_end(counters: Counters) -> None:
    _log.info(
        "stopped: %d reports stored, %d duplicates, %d rejected",
        counters.stored,
        counters.duplicates,
        counters.rejected,
        extra=fields(stored=counters.stored, duplicates=counters.duplicates, rejected=counters.rejected),
    )


def _furnish(
    server: grpc.aio.Server,
    ingest: grpc.GenericRpcHandler,
    reading: Reading,
    health_service: health.aio.HealthServicer,
) -> None:
    server.add_generic_rpc_handlers((ingest,))
    add_FleetServiceServicer_to_server(FleetService(reading), server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    names = (INGEST_SERVICE, _FLEET_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _schedule(store: DuckDbStore, settings: AggregatorSettings, clock: Clock) -> AsyncIOScheduler:
    kept = settings.store
    rollups = {MINUTE: kept.retention_minutes, FIVE_MINUTES: kept.retention_five_minutes, HOUR: kept.retention_hours}
    retention = Retention(
        store,
        round(kept.retention * 1_000),
        clock,
        rollups={level: round(seconds * 1_000) for level, seconds in rollups.items()},
    )

    async def forget() -> None:
        try:
            await asyncio.to_thread(retention.forget)
        except StoreError as error:
            _log.error("%s", error, extra=fields(reason=error))

    scheduler = AsyncIOScheduler()
    # However late a run is, it is worth doing, and once is enough.
    trigger = IntervalTrigger(minutes=_RETENTION_EVERY_MINUTES)
    scheduler.add_job(forget, trigger, misfire_grace_time=None, coalesce=True)
    # At the start, and then once a day.
    scheduler.add_job(
        lambda: warn_of_expiry(settings.tls),
        IntervalTrigger(hours=_EXPIRY_EVERY_HOURS),
        next_run_time=datetime.now(UTC),
        misfire_grace_time=None,
        coalesce=True,
    )
    scheduler.start()
    return scheduler
