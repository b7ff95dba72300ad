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


def lasting(milliseconds: int) -> Duration:
    """A time span on the wire."""
    duration = Duration()
    duration.FromMilliseconds(milliseconds)
    return duration


def hello(
    hostname: str = "web-1",
    *,
    interval_ms: int = 10 * SECOND,
    labels: Mapping[str, str] | None = None,
    now: int = NOW,
    instance: int = 0,
    settled: Mapping[int, int] | None = None,
) -> pb.Hello:
    """What an agent opens its stream with; one without an instance is an older one."""
    return pb.Hello(
        host=sample_pb2.Host(
            host_id=host_id(hostname),
            hostname=hostname,
            boot_id=boot_id(hostname),
            labels=labels or {},
            agent_version="0.1.0",
            kernel_release="6.8.0-45-generic",
        ),
        interval=lasting(interval_ms),
        agent_time=stamp(now),
        instance=instance,
        settled=[pb.SpoolPosition(spool_epoch=epoch, sequence=sequence) for epoch, sequence in (settled or {}).items()],
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
    fd_limit_hard: int | None = None,
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
        fd_limit_hard=fd_limit_hard,
    )


def explained(
    one: sample_pb2.ProcessSample,
    cause: sample_pb2.Cause.ValueType = sample_pb2.CAUSE_LEAK,
    *,
    settled: int | None = None,
    stuck: int | None = None,
    age: float = 3_600.0,
) -> sample_pb2.ProcessSample:
    """The process with a cause for its CLOSE_WAIT sockets, of which all stay unless told otherwise."""
    settled = one.close_wait if settled is None else settled
    one.cause = cause
    one.stuck = settled if stuck is None else stuck
    one.close_wait_age.p50_seconds, one.close_wait_age.p99_seconds, one.close_wait_age.max_seconds = (
        age,
        2 * age,
        3 * age,
    )
    one.evidence.settled = settled
    return one


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


def loss(
    first: int,
    last: int,
    reason: pb.LossReason.ValueType = pb.LOSS_REASON_SPOOL_FULL,
    *,
    hostname: str = "web-1",
    epoch: int = EPOCH,
    first_at: int | None = None,
    last_at: int | None = None,
) -> pb.Report:
    """The loss of the samples from a sequence to another, taken at times in milliseconds, where these are known."""
    lost = report(hostname, last, epoch=epoch)
    lost.loss.reason, lost.loss.first_sequence = reason, first
    if first_at is not None:
        lost.loss.first_sample_time.CopyFrom(stamp(first_at))
    if last_at is not None:
        lost.loss.last_sample_time.CopyFrom(stamp(last_at))
    return lost


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
    _fill_causes(taken)
    return report(taken=taken)


def _fill_causes(taken: sample_pb2.Sample) -> None:
    one = explained(taken.processes[0])
    one.fd_limit_hard = 4_096
    one.ports_share = 0.25
    one.arguments = "gateway --verbose"
    one.container.runtime, one.container.id, one.container.pod = "docker", "0123456789ab", "a-pod"
    one.peers.add(address="10.0.0.5", port=443, count=7)
    one.peers.add(address="2001:db8::7", count=2)
    evidence = one.evidence
    evidence.eof_read, evidence.fin_unread, evidence.farewell_unread, evidence.data_unread = 6, 1, 1, 1
    evidence.never_accepted, evidence.client_side, evidence.survived = 0, 7, 0.9
    evidence.accept_queue.depth, evidence.accept_queue.limit = 1, 128
    evidence.threads, evidence.threads_read = 20, 16
    evidence.thread_states.update({"S": 15, "R": 1})
    evidence.wait_channels.update({"futex_wait_queue": 12, "ep_poll": 3})
    evidence.run_delay_share, evidence.throttled_share = 0.01, 0.0
    evidence.cpu_pressure, evidence.io_pressure = 0.02, 0.0
    group = taken.time_wait.add(namespace="4026531833", destination="10.0.0.5:443", count=1_200, closes_per_second=20.0)
    group.owner.source, group.owner.pid = sample_pb2.OWNER_SOURCE_EXACT, one.pid
    group.owner.start_time.CopyFrom(one.start_time)
    group.owner.name, group.owner.app = one.name, one.app
    rest = taken.time_wait.add(namespace="4026531833", listener="0.0.0.0:8080", count=2_200, closes_per_second=36.7)
    rest.owner.source = sample_pb2.OWNER_SOURCE_UNATTRIBUTED
    limits = taken.time_wait_limits
    limits.overflows, limits.max_buckets, limits.reuse, limits.seconds = 3, 262_144, 2, 60.0
    budget = taken.ports.add(namespace="4026531833", source="10.0.0.1", destination="10.0.0.5:443", used=7_000)
    budget.available, budget.time_wait, budget.reusable, budget.pid = 28_000, 1_200, 0, one.pid
    budget.connects_per_second, budget.exhausting_connects_per_second = 20.0, 466.0
    budget.exhausted_in_seconds = 3_600.0
    taken.namespaces.add(id="4026531833", name="host", read=True, sampler=sample_pb2.SAMPLER_SOCK_DIAG)
    taken.namespaces.add(id="4026532001", name="blue", read=False)


def open_stream(message: pb.Hello, sent: int | None = None) -> pb.StreamReportsRequest:
    """A hello as it goes over the stream, sent so many milliseconds after the boot; older agents do not say."""
    return pb.StreamReportsRequest(hello=message, sent_since_boot=None if sent is None else lasting(sent))


def send(message: pb.Report, sent: int | None = None) -> pb.StreamReportsRequest:
    """A report as it goes over the stream, likewise."""
    return pb.StreamReportsRequest(report=message, sent_since_boot=None if sent is None else lasting(sent))
