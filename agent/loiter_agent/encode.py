"""Turns a sample into the message that goes over the wire."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from loiter.limits import MAX_NAMESPACES, MAX_PORT_BUDGETS, MAX_STRING_CHARS, MAX_TIME_WAIT_GROUPS
from loiter.v1 import sample_pb2 as pb
from loiter_agent.sample import Ages, Container, Degradation, Evidence, HostIdentity, ProcessRow, Sample, TimeWaitRow

_FOLDED_AT_ONCE: Final = 16

_SAMPLERS: Final = {
    None: pb.SAMPLER_UNSPECIFIED,
    "sock_diag": pb.SAMPLER_SOCK_DIAG,
    "psutil": pb.SAMPLER_PSUTIL,
    "procfs": pb.SAMPLER_PROCFS,
}
_CAUSES: Final = {
    None: pb.CAUSE_UNSPECIFIED,
    "unknown": pb.CAUSE_UNKNOWN,
    "leak": pb.CAUSE_LEAK,
    "idle_pool": pb.CAUSE_IDLE_POOL,
    "stalled_reader": pb.CAUSE_STALLED_READER,
    "cpu_starved": pb.CAUSE_CPU_STARVED,
    "never_accepted": pb.CAUSE_NEVER_ACCEPTED,
}
_OWNER_SOURCES: Final = {
    "exact": pb.OWNER_SOURCE_EXACT,
    "listener": pb.OWNER_SOURCE_LISTENER,
    "cgroup": pb.OWNER_SOURCE_CGROUP,
    "destination": pb.OWNER_SOURCE_DESTINATION,
    "unattributed": pb.OWNER_SOURCE_UNATTRIBUTED,
}
_DEGRADATIONS: Final = {
    Degradation.NONE: pb.DEGRADATION_UNSPECIFIED,
    Degradation.HALF_AS_OFTEN: pb.DEGRADATION_HALF_AS_OFTEN,
    Degradation.QUARTER_AS_OFTEN: pb.DEGRADATION_QUARTER_AS_OFTEN,
    Degradation.NO_DETAIL: pb.DEGRADATION_NO_DETAIL,
    Degradation.COUNTS_ONLY: pb.DEGRADATION_COUNTS_ONLY,
}


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What the agent says of itself beside a sample: the fields of that name in sample.proto.

    `interval` is the time until the next tick in seconds. `cpu_share` is None for the first tick.
    """

    interval: float
    cpu_budget: float
    cpu_share: float | None = None
    late_ticks: int = 0
    dropped_reports: int = 0
    spool: pb.SpoolStatus | None = None


def encode_host(host: HostIdentity, agent_version: str) -> pb.Host:
    """Encodes what identifies the host."""
    return pb.Host(
        host_id=host.host_id or "",
        hostname=_text(host.hostname),
        boot_id=host.boot_id,
        labels=dict(host.labels),
        agent_version=agent_version,
        kernel_release=_text(host.kernel_release),
    )


def encode_sample(sample: Sample, agent: AgentStatus) -> pb.Sample:
    """Encodes a sample. None becomes an absent field."""
    interval = Duration()
    interval.FromTimedelta(timedelta(seconds=agent.interval))
    return pb.Sample(
        sample_time=_timestamp(sample.time),
        sampler=_SAMPLERS[sample.sampler],
        tcp_states=pb.TcpStateCounts(**_present(sample.tcp_states)),
        host_fds=pb.HostFileDescriptors(**_present(sample.host_fds)) if sample.host_fds else None,
        processes=[_process(row) for row in sample.processes],
        other_processes=pb.OtherProcesses(**_present(sample.other)) if sample.other else None,
        coverage=pb.Coverage(**_present(sample.coverage)),
        cost=pb.AgentCost(
            **_present(sample.cost),
            late_ticks=agent.late_ticks,
            dropped_reports=agent.dropped_reports,
            cpu_share=agent.cpu_share,
            cpu_budget=agent.cpu_budget,
        ),
        collectors=[
            pb.CollectorStatus(
                name=status.name, duration_seconds=status.duration_seconds, error=_text(status.error or "")
            )
            for status in sample.collectors
        ],
        time_wait=[_time_wait(row) for row in (sample.time_wait or ())[:MAX_TIME_WAIT_GROUPS]],
        time_wait_limits=pb.TimeWaitLimits(**_present(sample.time_wait_limits)) if sample.time_wait_limits else None,
        ports=[pb.PortBudget(**_present(row)) for row in (sample.ports or ())[:MAX_PORT_BUDGETS]],
        namespaces=[
            pb.NetworkNamespace(id=str(one.id), name=_text(one.name), read=one.read, sampler=_SAMPLERS[one.how])
            for one in sample.namespaces[:MAX_NAMESPACES]
        ],
        interval=interval,
        degradation=_DEGRADATIONS[sample.degradation],
        spool=agent.spool,
    )


def fit(sample: pb.Sample, limit_bytes: int) -> pb.Sample:
    """Returns a sample of at most so many bytes: the last of its processes are added to the others until it fits."""
    if sample.ByteSize() <= limit_bytes:
        return sample
    fitted = pb.Sample()
    fitted.CopyFrom(sample)
    other = fitted.other_processes
    while fitted.ByteSize() > limit_bytes and fitted.processes:
        for process in fitted.processes[-_FOLDED_AT_ONCE:]:
            other.processes += 1
            for name in ("established", "close_wait", "sockets", "fd_open"):
                if process.HasField(name):
                    setattr(other, name, getattr(other, name) + getattr(process, name))
        del fitted.processes[-_FOLDED_AT_ONCE:]
    return fitted


def _process(row: ProcessRow) -> pb.ProcessSample:
    return pb.ProcessSample(
        pid=row.pid,
        start_time=_timestamp(row.start_time),
        name=_text(row.name),
        app=_text(row.app),
        user=_text(row.user or ""),
        established=row.established,
        close_wait=row.close_wait,
        time_wait=row.time_wait,
        sockets=row.sockets,
        fd_open=row.fd_open,
        fd_limit=row.fd_limit,
        cause=_CAUSES[row.cause],
        evidence=_evidence(row.evidence) if row.evidence else None,
        close_wait_age=_ages(row.close_wait_age_seconds) if row.close_wait_age_seconds else None,
        stuck=row.stuck,
        peers=[pb.Peer(**_present(peer)) for peer in row.peers or ()],
        fd_limit_hard=row.fd_limit_hard,
        ports_share=row.ports_share,
        container=_container(row.container) if row.container else None,
        arguments=_text(row.arguments or ""),
    )


def _evidence(evidence: Evidence) -> pb.CloseWaitEvidence:
    figures = _present(evidence)
    queue = figures.pop("accept_queue", None)
    return pb.CloseWaitEvidence(**figures, accept_queue=pb.AcceptQueue(**_present(queue)) if queue else None)


def _container(container: Container) -> pb.Container:
    return pb.Container(runtime=container.runtime, id=_text(container.id), pod=_text(container.pod or ""))


def _ages(ages: Ages) -> pb.SocketAges:
    return pb.SocketAges(p50_seconds=ages.p50, p99_seconds=ages.p99, max_seconds=ages.max)


def _time_wait(row: TimeWaitRow) -> pb.TimeWaitGroup:
    owner = row.owner
    return pb.TimeWaitGroup(
        namespace=row.namespace,
        destination=row.destination or "",
        listener=row.listener or "",
        count=row.count,
        closes_per_second=row.closes_per_second,
        owner=pb.TimeWaitOwner(
            source=_OWNER_SOURCES[owner.how],
            pid=owner.pid,
            start_time=_timestamp(owner.start_time) if owner.start_time else None,
            name=_text(owner.name or ""),
            app=_text(owner.app or ""),
        ),
    )


def _present(section: object) -> dict[str, Any]:
    """The fields of a section whose message has the same field names, without those that are None."""
    values = {field.name: getattr(section, field.name) for field in fields(section)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if value is not None}


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _text(text: str) -> str:
    """Makes a text valid UTF-8, which protobuf insists on, and no longer than the wire allows."""
    return text.encode("utf-8", "replace").decode("utf-8")[:MAX_STRING_CHARS]
