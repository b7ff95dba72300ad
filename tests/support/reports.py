"""Builds what agents send, the same for the same arguments. Every message passes validation unless told otherwise."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2

# When the tests take place, in milliseconds since the epoch: 2027-01-15 08:00 UTC.
NOW: Final = 1_800_000_000_000
SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
EPOCH: Final = 7


def host_id(hostname: str) -> str:
    """The host id of the host of a name."""
    return hashlib.sha256(hostname.encode()).hexdigest()[:32]


def boot_id(hostname: str) -> str:
    """The boot id of the host of a name."""
    return str(uuid.UUID(host_id(hostname)))


def stamp(milliseconds: int) -> Timestamp:
    """A time on the wire."""
    seconds, rest = divmod(milliseconds, 1_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000_000)


def hello(
    hostname: str = "web-1",
    *,
    interval_ms: int = 10 * SECOND,
    labels: Mapping[str, str] | None = None,
    now: int = NOW,
) -> pb.Hello:
    """What an agent opens its stream with."""
    return pb.Hello(
        host=sample_pb2.Host(
            host_id=host_id(hostname),
            hostname=hostname,
            boot_id=boot_id(hostname),
            labels=labels or {},
            agent_version="0.1.0",
            kernel_release="6.8.0-45-generic",
        ),
        interval=Duration(seconds=interval_ms // 1_000, nanos=interval_ms % 1_000 * 1_000_000),
        agent_time=stamp(now),
    )


def process(
    pid: int = 100,
    close_wait: int | None = None,
    *,
    name: str = "gateway",
    app: str = "gateway.service",
    user: str = "www-data",
    start: int = NOW - 24 * HOUR,
    established: int | None = None,
    time_wait: int | None = None,
    sockets: int | None = None,
    fd_open: int | None = None,
    fd_limit: int | None = None,
) -> sample_pb2.ProcessSample:
    """One process of a sample. A count that is not given is absent."""
    return sample_pb2.ProcessSample(
        pid=pid,
        start_time=stamp(start),
        name=name,
        app=app,
        user=user,
        established=established,
        close_wait=close_wait,
        time_wait=time_wait,
        sockets=sockets,
        fd_open=fd_open,
        fd_limit=fd_limit,
    )


def sample(
    at: int = NOW,
    close_wait: int | None = None,
    *,
    time_wait: int | None = None,
    established: int | None = None,
    listen: int | None = None,
    fd_allocated: int | None = None,
    fd_limit: int | None = None,
    processes: Iterable[sample_pb2.ProcessSample] = (),
    coverage: sample_pb2.Coverage | None = None,
) -> sample_pb2.Sample:
    """One tick, taken at a time in milliseconds. A count that is not given is absent."""
    return sample_pb2.Sample(
        sample_time=stamp(at),
        sampler=sample_pb2.SAMPLER_SOCK_DIAG,
        tcp_states=sample_pb2.TcpStateCounts(
            close_wait=close_wait, time_wait=time_wait, established=established, listen=listen
        ),
        host_fds=sample_pb2.HostFileDescriptors(allocated=fd_allocated, limit=fd_limit),
        processes=processes,
        coverage=coverage,
    )


def report(
    hostname: str = "web-1",
    sequence: int = 1,
    taken: sample_pb2.Sample | None = None,
    *,
    epoch: int = EPOCH,
) -> pb.Report:
    """A sample on its way to the store; the sample of `sequence` is taken so many seconds after NOW unless given."""
    return pb.Report(
        host_id=host_id(hostname),
        boot_id=boot_id(hostname),
        spool_epoch=epoch,
        sequence=sequence,
        sample=taken if taken is not None else sample(NOW + sequence * SECOND, close_wait=sequence),
    )


def full_report() -> pb.Report:
    """A report in which every part of a sample is filled in."""
    taken = sample(
        close_wait=12,
        time_wait=3_400,
        established=560,
        listen=0,
        fd_allocated=4_096,
        fd_limit=9_223_372_036_854_775_807,
        processes=[
            process(100, 9, established=300, time_wait=5, sockets=320, fd_open=400, fd_limit=1_024),
            process(200, 3, name="worker", app="worker.service", user="app"),
        ],
        coverage=sample_pb2.Coverage(sockets_attributed=560, sockets_unattributed=2, processes=180, namespaces=1),
    )
    taken.other_processes.CopyFrom(sample_pb2.OtherProcesses(processes=178, established=10, fd_open=5_000))
    taken.cost.CopyFrom(sample_pb2.AgentCost(cpu_seconds=0.01, wall_seconds=0.02, resident_bytes=30_000_000))
    taken.collectors.add(name="tcp", duration_seconds=0.01)
    taken.collectors.add(name="host_fds", duration_seconds=0.001, error="permission denied")
    return report(taken=taken)


def open_stream(message: pb.Hello) -> pb.StreamReportsRequest:
    """A hello as it goes over the stream."""
    return pb.StreamReportsRequest(hello=message)


def send(message: pb.Report) -> pb.StreamReportsRequest:
    """A report as it goes over the stream."""
    return pb.StreamReportsRequest(report=message)
