"""What /metrics shows: figures of the fleet and of the aggregator, in formats that scrapers parse."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.v1.fleet_service_pb2_grpc import FleetServiceStub, add_FleetServiceServicer_to_server
from loiter_aggregator.access.doors import make_doors
from loiter_aggregator.access.principal import Right
from loiter_aggregator.access.tokens import add
from loiter_aggregator.config import AggregatorSettings, MetricsSettings
from loiter_aggregator.distribution import Distribution
from loiter_aggregator.fleet.fleet import Fleet
from loiter_aggregator.fleet_service import FleetService
from loiter_aggregator.ingest.batcher import Batcher
from loiter_aggregator.ingest.counters import Counters
from loiter_aggregator.metrics import of_fleet
from loiter_aggregator.metrics.figures import Figures
from loiter_aggregator.metrics.label_values import label_values
from loiter_aggregator.metrics.metrics import Metrics
from loiter_aggregator.metrics.of_aggregator import Inside
from loiter_aggregator.store.duckdb_store import DuckDbStore, StoreError
from support.aggregators import FakeClock, host_key, put_host, read_by, record, store_samples
from support.reports import MINUTE, NOW, SECOND, explained, hello, process, report, sample
from support.streams import until

HOSTILE = '<script>alert(1)</script>\x1b[2J=cmd()"\\\n'
INERT = r'<script>alert(1)</script>\x1b[2J=cmd()"\\n'
# Which of the escapes in a name are written as one: SHA-256 of the two begins with the same 32 bits.
SAME_DIGEST = ("00010011100101000000", "00001010010111110101")
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(eq=False)
class Hearer:
    """Somebody who waits for acknowledgements, and does nothing with them."""

    heard: list[tuple[int, int]] = field(default_factory=list)

    def acknowledge(self, epoch: int, sequence: int) -> None:
        """Notes one."""
        self.heard.append((epoch, sequence))

    def reject(self, rejection: object) -> None:
        """There are none."""
        raise AssertionError(rejection)


class Monotonic:
    """A clock that goes on when it is told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Asked(Fleet):
    """Counts how often the fleet was asked for, and fails when it is to."""

    rounds = 0
    failure: Exception | None = None

    async def get_fleet(self, request: pb.GetFleetRequest) -> pb.GetFleetResponse:
        """Shows the fleet."""
        self.rounds += 1
        if self.failure is not None:
            raise self.failure
        return await super().get_fleet(request)


def values(text: bytes, parse: Callable[[str], Iterable[Metric]] = parse_plain) -> Values:
    """Every sample by its name and labels."""
    found: Values = {}
    for family in parse(text.decode()):
        for one in family.samples:
            key = (one.name, frozenset(one.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = one.value
    return found


def shown(found: Values, name: str, **labels: str) -> float | None:
    """One value; None where it is absent."""
    return found.get((name, frozenset(labels.items())))


def names(found: Values, name: str, label: str) -> set[str]:
    """The values of a label of a metric."""
    return {dict(labels)[label] for key, labels in found if key == name}


def fill(store: DuckDbStore) -> None:
    """A host that leaks, one of which little is known, one whose names are hostile, and one that is silent."""
    ages = [(12 - tick) * 10 * SECOND for tick in range(13)]

    def leaking(age: int, name: str = "api") -> sample_pb2.Sample:
        count = 400 - age // SECOND
        one = explained(process(1, count, name=name, app=name, time_wait=7, fd_open=count + 50, fd_limit=1_000))
        return sample(NOW - age, count, time_wait=9, processes=[one])

    store_samples(store, "web-1", [leaking(age) for age in ages])
    store_samples(store, HOSTILE, [leaking(age, HOSTILE) for age in ages])
    store_samples(store, "bare-1", [sample(NOW - age) for age in ages])
    store_samples(store, "gone-1", [sample(NOW - 5 * MINUTE, 99, time_wait=99)])
    put_host(store, record(hello("gone-2")), NOW - 50 * MINUTE)


def metrics_of(store: DuckDbStore, **more: object) -> Metrics:
    """The metrics of a store, as the server makes them."""
    clock = FakeClock()
    batcher = Batcher(store, clock)
    fleet = Fleet(store, clock, batcher.counters)
    inside = Inside(lambda: batcher.waiting, lambda: batcher.room.rows, store.file)
    return Metrics(fleet, batcher.counters, None, read_by(fleet, clock), inside, clock, **more)  # type: ignore[arg-type]


async def scraped(metrics: Metrics, accept: str = "") -> bytes:
    """Scrapes until the figures of the fleet are there."""
    gathering = asyncio.create_task(metrics.run())
    try:
        text = b""
        async with asyncio.timeout(20):
            while b"loiter_fleet_hosts{" not in text:  # each scrape waits a moment for them
                text, _ = await metrics.exposition(accept)
        return text
    finally:
        gathering.cancel()


def test_the_fleet_is_shown_in_both_formats_and_what_is_unknown_is_absent(store: DuckDbStore) -> None:
    """A gauge without a value has no sample: 0 would be a claim. Names from agents are inert."""
    fill(store)
    metrics = metrics_of(store)

    async def scrape() -> tuple[bytes, bytes]:
        return await scraped(metrics), (await metrics.exposition(OPENMETRICS))[0]

    plain, openmetrics = asyncio.run(scrape())
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "metrics"], input=plain, check=True, capture_output=True)
    assert openmetrics.endswith(b"# EOF\n")
    assert b"\x1b" not in plain
    _check_figures(values(plain))
    _check_figures(values(openmetrics, parse_openmetrics))


def _check_figures(found: Values) -> None:
    assert shown(found, "loiter_fleet_sockets", state="close_wait") == 800
    assert shown(found, "loiter_fleet_sockets", state="syn_sent") is None
    assert shown(found, "loiter_fleet_hosts", status="reporting") == 3
    assert shown(found, "loiter_fleet_hosts", status="silent") == 2
    assert shown(found, "loiter_fleet_namespaces_unread") is None
    assert shown(found, "loiter_cause_close_wait_sockets", cause="leak") == 800
    assert shown(found, "loiter_cause_processes", cause="leak") == 2
    assert shown(found, "loiter_host_close_wait_growth_per_hour", host="web-1") == pytest.approx(3_600)
    assert shown(found, "loiter_host_stuck_sockets", host="web-1") == 400
    assert shown(found, "loiter_host_cause", host="web-1", cause="leak") == 1
    assert shown(found, "loiter_host_fd_exhaustion_seconds", host="web-1") == pytest.approx(550, rel=0.01)
    assert shown(found, "loiter_host_ports_used_ratio", host="web-1") is None
    assert shown(found, "loiter_app_fd_used_ratio", app="api") == pytest.approx(0.45)
    assert shown(found, "loiter_app_time_wait_sockets", app="api") == 7
    assert shown(found, "loiter_host_close_wait_sockets", host="bare-1") is None
    assert shown(found, "loiter_app_cause", app=INERT, cause="leak") == 1
    # What a silent host said last is not how it is.
    assert names(found, "loiter_host_time_wait_sockets", "host") == {"web-1", INERT}
    assert shown(found, "loiter_host_silent_seconds", host="gone-1") == 300
    assert shown(found, "loiter_host_silent_seconds", host="gone-2") == 3_000


def test_how_many_are_named_is_bounded(store: DuckDbStore) -> None:
    """Of each measure the worst, and of the silent ones as many."""
    for number in range(6):
        store_samples(store, f"web-{number}", [sample(NOW - 10 * SECOND, number), sample(NOW, number)])
        put_host(store, record(hello(f"gone-{number}")), NOW - (number + 1) * MINUTE)
    metrics = metrics_of(store)
    metrics._settings = MetricsSettings(top=2)
    found = values(asyncio.run(scraped(metrics)))
    assert len(names(found, "loiter_host_close_wait_sockets", "host")) == 2
    assert names(found, "loiter_host_silent_seconds", "host") == {"gone-0", "gone-1"}


def test_hostile_names_are_printable_short_and_told_apart() -> None:
    """A series that is there twice would have the whole scrape refused."""
    found = label_values({"a": HOSTILE, "b": "x" * 300, "c": "x" * 301, "d": "twin", "e": "twin", "f": "one"})
    assert all(value.isprintable() and len(value) < 120 for value in found.values())
    assert len(set(found.values())) == len(found)
    assert found["f"] == "one"
    assert found["d"].startswith("twin~")


def test_names_that_are_made_to_look_like_others_are_told_apart() -> None:
    """One that has the part of a digest in it, and two of which that part is the same."""
    twins = ("a\x1b", r"a\x1b")
    first = label_values({name: name for name in twins})
    forged = [*twins, *first.values()]
    assert len(set(label_values({name: name for name in forged}).values())) == 4
    same = ["".join("\x1b" if bit == "1" else r"\x1b" for bit in bits) for bits in SAME_DIGEST]
    parts = {hashlib.sha256(name.encode()).hexdigest()[:8] for name in same}
    assert len(parts) == 1, "or this shows nothing"
    assert len(set(label_values({name: name for name in same}).values())) == 2
    assert label_values({"x": "plain"}) == {"x": "plain"}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (
            "application/openmetrics-text; version=nonsense",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_a_scraper_gets_the_format_that_it_accepts(store: DuckDbStore, accept: str, kind: str) -> None:
    """What else it says of the format is not repeated to it."""
    assert asyncio.run(metrics_of(store).exposition(accept))[1] == kind


def test_scrapes_are_answered_from_figures_that_are_gathered_in_the_background(
    store: DuckDbStore,
) -> None:
    """Many scrapes cause one round; figures that could not be renewed are shown with their age, and then no more."""
    monotonic, fleet = Monotonic(), Asked(store, FakeClock(), Counters(NOW))
    pauses: list[float] = []
    woken = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await woken.wait()
        woken.clear()

    metrics = Metrics(fleet, Counters(NOW), monotonic=monotonic, sleep=pause)

    async def scenario() -> None:
        gathering = asyncio.create_task(metrics.run())
        try:
            await asyncio.gather(*(metrics.exposition("") for _ in range(20)))
            await until(lambda: pauses == [10.0])
            assert fleet.rounds == 1
            monotonic.now += 15
            found = values((await metrics.exposition(""))[0])
            assert shown(found, "loiter_fleet_figures_age_seconds") == 15
            assert shown(found, "loiter_fleet_figures_failures_total") == 0
            fleet.failure = StoreError("the disk is gone")
            woken.set()
            await until(lambda: fleet.rounds == 2 and len(pauses) == 2)
            monotonic.now += 30
            found = values((await metrics.exposition(""))[0])
            assert shown(found, "loiter_fleet_figures_age_seconds") == 45
            assert shown(found, "loiter_fleet_hosts", status="silent") == 0
            assert shown(found, "loiter_fleet_figures_failures_total") == 1
            monotonic.now += 30
            found = values((await metrics.exposition(""))[0])
            assert shown(found, "loiter_fleet_figures_age_seconds") is None
            assert shown(found, "loiter_fleet_hosts", status="silent") is None
            monotonic.now += 301
            woken.set()
            await until(lambda: not woken.is_set())
            assert fleet.rounds == 2, "nobody has scraped for five minutes"
            fleet.failure = None
            await metrics.exposition("")
            await until(lambda: len(pauses) == 3)
            assert shown(values((await metrics.exposition(""))[0]), "loiter_fleet_hosts", status="silent") == 0
        finally:
            gathering.cancel()

    asyncio.run(scenario())


def test_what_is_taken_in_and_stored_is_counted(store: DuckDbStore) -> None:
    """Reports by outcome, the time and rows of commits, the age of samples, what waits, and the size of the files."""
    clock = FakeClock(NOW + 8 * SECOND)
    batcher = Batcher(store, clock)
    metrics = Metrics(
        Fleet(store, clock, batcher.counters),
        batcher.counters,
        inside=Inside(lambda: batcher.waiting, lambda: batcher.room.rows, store.file),
    )

    async def scenario() -> tuple[Values, Values]:
        hearer = Hearer()
        await batcher.join(host_key("web-1"), hearer)
        for sequence in (1, 2, 2):
            await batcher.put(host_key("web-1"), report(sequence=sequence), hearer)
        before = values((await metrics.exposition(""))[0])
        await batcher.commit()
        return before, values((await metrics.exposition(""))[0])

    before, after = asyncio.run(scenario())
    assert shown(before, "loiter_ingest_waiting_reports") == 2
    assert shown(before, "loiter_ingest_waiting_rows") == 2
    assert shown(after, "loiter_ingest_waiting_rows") == 0
    assert shown(after, "loiter_ingest_reports_total", outcome="stored") == 2
    assert shown(after, "loiter_ingest_reports_total", outcome="duplicate") == 1
    assert shown(after, "loiter_ingest_commit_rows_sum") == 2
    assert shown(after, "loiter_ingest_commit_duration_seconds_count") == 1
    assert shown(after, "loiter_ingest_lag_seconds_sum") == 7 + 6
    assert shown(after, "loiter_ingest_lag_seconds_bucket", le="5.0") == 0
    assert shown(after, "loiter_ingest_lag_seconds_bucket", le="10.0") == 2
    assert (shown(after, "loiter_store_size_bytes", part="write_ahead_log") or 0) > 0
    assert (shown(after, "process_resident_memory_bytes") or 0) > 1e6


def test_alerts_and_deliveries_are_counted() -> None:
    """Of reports, what became of the latest run of each: what failed a month ago is not what is the matter now."""
    alert, delivery = pb.Alert(rule="ports", state=pb.ALERT_STATE_FIRING), pb.ReportDelivery
    failed, delivered = delivery(state=pb.DELIVERY_STATE_FAILED), delivery(state=pb.DELIVERY_STATE_DELIVERED)
    figures = Figures(
        fleet=pb.GetFleetResponse(),
        hosts=(),
        apps=(),
        causes=(),
        alerts=pb.ListAlertsResponse(
            rules=[pb.AlertRule(name="ports", left_out=7), pb.AlertRule(name="fd-eta")],
            alerts=[alert, alert, pb.Alert(rule="ports", state=pb.ALERT_STATE_RESOLVED)],
            receivers=[pb.AlertReceiver(url="http://one", error="refused"), pb.AlertReceiver(url="http://two")],
        ),
        reports=pb.ListReportsResponse(
            schedules=[pb.ReportSchedule(name="daily"), pb.ReportSchedule(name="weekly")],
            runs=[
                pb.ReportRun(schedule="daily", deliveries=[delivered, delivered]),
                pb.ReportRun(schedule="weekly", error="the store can not be read"),
                pb.ReportRun(schedule="daily", deliveries=[failed], error="once"),
            ],
        ),
    )
    found = {
        (one.name, frozenset(one.labels.items())): one.value
        for family in of_fleet.families(figures, 20, NOW)
        for one in family.samples
    }
    assert shown(found, "loiter_alerts", rule="ports", state="firing") == 2
    assert shown(found, "loiter_alerts", rule="fd-eta", state="firing") == 0
    assert shown(found, "loiter_alerts_left_out", rule="ports") == 7
    assert shown(found, "loiter_alerts_evaluated_timestamp_seconds") is None
    assert shown(found, "loiter_alerts_receiver_failing", receiver="http://one") == 1
    assert shown(found, "loiter_alerts_receiver_failing", receiver="http://two") == 0
    assert shown(found, "loiter_report_deliveries", state="delivered") == 2
    assert shown(found, "loiter_report_deliveries", state="failed") == 0
    assert shown(found, "loiter_report_builds_failed") == 1


def test_calls_are_noted_by_method_and_how_they_ended(store: DuckDbStore, tmp_path: Path) -> None:
    """So are those that are refused; what is no method of ours is not, or anybody could make up series."""
    shown_by = (
        ("authorization", f"Bearer {add(tmp_path / 'tokens.json', 'me', Right.READ, None, datetime.now(UTC))}"),
    )
    settings = AggregatorSettings(listen="127.0.0.1:0", data_dir=tmp_path)
    noted: list[tuple[str, str]] = []
    clock = FakeClock()

    async def scenario() -> None:
        (door,) = make_doors(settings, lambda: None, lambda method, code, _: noted.append((method, code)))
        fleet = Fleet(store, clock, Counters(NOW))
        add_FleetServiceServicer_to_server(FleetService(read_by(fleet, clock)), door.server)
        # The port that the door chose is not known.
        port = door.server.add_insecure_port("127.0.0.1:0")
        await door.server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = FleetServiceStub(channel)
            made_up: Any = channel.unary_unary("/loiter.v1.FleetService/MadeUp")
            await stub.RankHosts(pb.RankHostsRequest(), metadata=shown_by)
            for call in (
                stub.GetHost(pb.GetHostRequest(name="nobody"), metadata=shown_by),
                made_up(b"", metadata=shown_by),
            ):
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.RankApps(pb.RankAppsRequest())
        await door.server.stop(0)

    asyncio.run(scenario())
    assert noted == [("RankHosts", "OK"), ("GetHost", "NOT_FOUND"), ("RankApps", "UNAUTHENTICATED")]


def test_streams_are_apart_from_calls(store: DuckDbStore) -> None:
    """One that lasted for hours would have every call look slow."""
    metrics = metrics_of(store)
    metrics.observe_call("StreamReports", "CANCELLED", 7_200)
    metrics.observe_call("GetHost", "OK", 0.004)
    metrics.observe_request("/top/hosts", 200, 0.02)
    found = values(asyncio.run(metrics.exposition(""))[0])
    assert shown(found, "loiter_grpc_stream_duration_seconds_sum", method="StreamReports", code="CANCELLED") == 7_200
    assert shown(found, "loiter_grpc_call_duration_seconds_bucket", method="GetHost", code="OK", le="0.005") == 1
    assert shown(found, "loiter_http_request_duration_seconds_count", page="/top/hosts", code="200") == 1
    assert not {key for key in found if key[0].startswith("loiter_grpc_call") and ("method", "StreamReports") in key[1]}


def test_a_distribution_counts_a_value_at_each_bound_that_it_does_not_exceed() -> None:
    """A value that is a bound belongs to it, as Prometheus has it."""
    found = Distribution((1.0, 2.0))
    found.observe_all([0.5, 1.0, 1.5, 3.0])
    assert found.cumulative() == [(1.0, 2), (2.0, 3), (float("inf"), 4)]
    assert (found.count, found.total) == (4, 6.0)
