"""Hosts that there are not, with a past and names nobody should have, for tests that look at a fleet.

As a program: synthetic_fleet SERVER [TOKEN_FILE CA_FILE]. It reports for the hosts, a sample a second each, until its
standard input ends. `write_past` gives a store the hour before.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter.v1.ingest_service_pb2_grpc import IngestServiceStub
from support.reports import explained, hello, open_stream, process, report, sample, send, stamp

# Inert wherever it is shown, or the part that shows it is broken.
HOSTILE: Final = "<script>alert(1)</script>\x1b[2J=cmd()"
SILENT: Final = "gone-1"

_PAST_MS: Final = 3_600_000
_PAST_STEP_MS: Final = 10_000
_SILENT_SINCE_MS: Final = 600_000
# Those of the past are of another epoch than those that come.
_EPOCH: Final = 8

Processes = Callable[[int], list[sample_pb2.ProcessSample]]


@dataclass(frozen=True, slots=True)
class SyntheticHost:
    """A host: its processes after so many milliseconds, and what else its samples say."""

    hostname: str
    processes: Processes
    labels: dict[str, str] = field(default_factory=dict)
    time_wait: int = 200
    uncharged: int = 0

    def sample(self, start: int, now: int) -> sample_pb2.Sample:
        """The sample it takes at a time, having started at another, both in milliseconds."""
        processes = self.processes(now - start)
        taken = sample(
            now,
            sum(one.close_wait for one in processes) + self.uncharged,
            time_wait=self.time_wait,
            established=120,
            listen=8,
            fd_allocated=9_000,
            fd_limit=1_000_000,
            processes=processes,
            coverage=sample_pb2.Coverage(
                sockets_attributed=sum(one.close_wait for one in processes) + 120,
                sockets_unattributed=self.uncharged,
                close_wait_uncharged=self.uncharged,
                processes=90,
                processes_unreadable=3 if self.uncharged else 0,
                namespaces=3,
                namespaces_unread=1 if self.uncharged else 0,
            ),
        )
        if self.hostname == "proxy-1":
            _fill_ports(taken, now - start)
        if self.hostname == "db-1":
            taken.degradation = sample_pb2.DEGRADATION_NO_DETAIL
        return taken


def _order_api(pid: int, per_second: float) -> Processes:
    """Forgets to close, and runs out of descriptors within some hours."""

    def after(elapsed: int) -> list[sample_pb2.ProcessSample]:
        count = 50 + int(per_second * elapsed / 1_000)
        one = process(pid, count, name="order-api", app="order-api.service", established=60, fd_open=count + 90)
        one.fd_limit, one.fd_limit_hard, one.sockets = 6_000, 6_000, count + 60
        explained(one)
        one.evidence.eof_read, one.evidence.client_side = count, 0
        one.evidence.threads, one.evidence.threads_read = 4, 4
        one.evidence.wait_channels.update({"inet_csk_accept": 4})
        one.peers.add(address="10.0.0.5", port=443, count=count)
        idle = explained(process(700, 40, name="billing", app="billing.service"), sample_pb2.CAUSE_IDLE_POOL)
        return [one, idle]

    return after


def _hostile(elapsed: int) -> list[sample_pb2.ProcessSample]:
    count = 20 + int(0.1 * elapsed / 1_000)
    one = explained(
        process(666, count, name=HOSTILE, app=HOSTILE, user=HOSTILE, fd_open=count + 10, fd_limit=65_536),
    )
    one.arguments = HOSTILE
    one.container.runtime, one.container.id, one.container.pod = HOSTILE, HOSTILE, HOSTILE
    one.peers.add(address=HOSTILE, port=80, count=count)
    one.evidence.eof_read, one.evidence.threads, one.evidence.threads_read = count, 1, 1
    one.evidence.wait_channels.update({HOSTILE: 1})
    return [one]


def _quiet(elapsed: int) -> list[sample_pb2.ProcessSample]:
    """Processes that are well, and one of which nothing is known."""
    del elapsed
    return [
        process(300, 0, name="postgres", app="postgresql.service", established=80, fd_open=300, fd_limit=4_096),
        process(301, name="secretive", app="secretive.service"),
    ]


def _crawler(elapsed: int) -> list[sample_pb2.ProcessSample]:
    del elapsed
    one = process(900, 0, name="crawler", app="crawler.service", established=40, time_wait=24_000)
    one.ports_share = 0.86
    return [one]


def _fill_ports(taken: sample_pb2.Sample, elapsed: int) -> None:
    """Many connections a second to one destination, more than there is room for."""
    limits = taken.time_wait_limits
    limits.overflows, limits.max_buckets, limits.reuse, limits.seconds = 5 * elapsed // 1_000, 262_144, 2, 60.0
    limits.overflows_per_second = 5.0
    budget = taken.ports.add(namespace="4026531833", source="10.0.0.9", destination="10.0.0.5:443", used=24_300)
    budget.available, budget.time_wait, budget.reusable, budget.pid = 28_232, 24_000, 0, 900
    budget.connects_per_second, budget.exhausting_connects_per_second = 405.0, 470.0
    group = taken.time_wait.add(namespace="4026531833", destination="10.0.0.5:443", count=24_000)
    group.closes_per_second = 400.0
    group.owner.source, group.owner.pid = sample_pb2.OWNER_SOURCE_EXACT, 900
    group.owner.start_time.CopyFrom(taken.processes[0].start_time)
    group.owner.name, group.owner.app = "crawler", "crawler.service"


HOSTS: Final = (
    SyntheticHost("web-1", _order_api(485, 0.6), {"role": "web", "dc": "fra1"}),
    SyntheticHost("web-2", _order_api(446, 0.3), {"role": "web", "dc": "fra1"}, uncharged=7),
    SyntheticHost("db-1", _quiet, {"role": "db", "dc": "fra1"}),
    SyntheticHost("proxy-1", _crawler, {"role": "proxy", "dc": "ams2"}, time_wait=24_500),
    SyntheticHost(HOSTILE, _hostile, {"role": HOSTILE, "dc": "ams2"}),
    SyntheticHost(SILENT, _quiet, {"role": "web", "dc": "ams2"}),
)


def made_up(hostile: bool) -> list[SyntheticHost]:
    """The hosts, with or without the one that has a hostile name."""
    return [host for host in HOSTS if hostile or host.hostname != HOSTILE]


def write_past(folder: Path, now: int | None = None, hostile: bool = True) -> None:
    """Makes a store in a folder, with the hour before now, given in milliseconds. No aggregator may have it open."""
    from loiter_aggregator.clock import system_clock  # late: the program does without the store
    from loiter_aggregator.store.batch import Batch
    from support.aggregators import batch_of, host_key, open_store, record

    now = system_clock() if now is None else now
    store = open_store(folder)
    try:
        for host in made_up(hostile):
            end = now - (_SILENT_SINCE_MS if host.hostname == SILENT else 0)
            times = range(now - _PAST_MS, end, _PAST_STEP_MS)
            batch = Batch()
            batch.hosts[host_key(host.hostname)] = record(hello(host.hostname, labels=host.labels))
            store.write(batch)
            reports = [
                report(host.hostname, sequence, host.sample(now - _PAST_MS, at)) for sequence, at in enumerate(times, 1)
            ]
            store.write(batch_of(*reports, received=times[-1]))
    finally:
        store.close()


def _messages(host: SyntheticHost, start: int, stop: threading.Event) -> Iterator[pb.StreamReportsRequest]:
    """What the agent of a host sends: first that it has lost some samples, if it is web-2."""
    now = time.time_ns() // 1_000_000
    yield open_stream(hello(host.hostname, interval_ms=1_000, labels=host.labels, now=now))
    first = 1
    if host.hostname == "web-2":
        lost = report(host.hostname, 5, epoch=_EPOCH)
        lost.loss.reason, lost.loss.first_sequence = pb.LOSS_REASON_SPOOL_FULL, 1
        lost.loss.first_sample_time.CopyFrom(stamp(now - 5_000))
        lost.loss.last_sample_time.CopyFrom(stamp(now - 1_000))
        yield send(lost)
        first = 6
    sequence = first
    while True:
        now = time.time_ns() // 1_000_000
        yield send(report(host.hostname, sequence, host.sample(start, now), epoch=_EPOCH))
        sequence += 1
        if stop.wait(1.0):
            return


def _report(channel: grpc.Channel, host: SyntheticHost, token: str | None, stop: threading.Event) -> None:
    start = time.time_ns() // 1_000_000 - _PAST_MS
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with suppress(grpc.RpcError):  # the aggregator may end first
        for _ in IngestServiceStub(channel).StreamReports(
            _messages(host, start, stop), metadata=metadata, wait_for_ready=True
        ):
            pass


def main() -> None:
    """Reports for every host but the silent one."""
    server, *secrets = sys.argv[1:]
    token, ca = (Path(secrets[0]).read_text().strip(), Path(secrets[1]).read_bytes()) if secrets else (None, None)
    trust = None if ca is None else grpc.ssl_channel_credentials(ca)
    stop = threading.Event()
    with grpc.insecure_channel(server) if trust is None else grpc.secure_channel(server, trust) as channel:
        threads = [
            threading.Thread(target=_report, args=(channel, host, token, stop))
            for host in made_up(hostile="LOITER_TAME" not in os.environ)
            if host.hostname != SILENT
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
