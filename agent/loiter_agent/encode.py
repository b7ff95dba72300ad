"""Turns a sample into the message that goes over the wire."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from loiter.limits import MAX_STRING_CHARS
from loiter.v1 import sample_pb2 as pb
from loiter_agent.sample import HostIdentity, ProcessRow, Sample

_FOLDED_AT_ONCE: Final = 16

_SAMPLERS: Final = {
    None: pb.SAMPLER_UNSPECIFIED,
    "sock_diag": pb.SAMPLER_SOCK_DIAG,
    "psutil": pb.SAMPLER_PSUTIL,
}


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


def encode_sample(sample: Sample, late_ticks: int, dropped_reports: int) -> pb.Sample:
    """Encodes a sample. None becomes an absent field."""
    return pb.Sample(
        sample_time=_timestamp(sample.time),
        sampler=_SAMPLERS[sample.sampler],
        tcp_states=pb.TcpStateCounts(**_present(sample.tcp_states)),
        host_fds=pb.HostFileDescriptors(**_present(sample.host_fds)) if sample.host_fds else None,
        processes=[_process(row) for row in sample.processes],
        other_processes=pb.OtherProcesses(**_present(sample.other)) if sample.other else None,
        coverage=pb.Coverage(**_present(sample.coverage)),
        cost=pb.AgentCost(**_present(sample.cost), late_ticks=late_ticks, dropped_reports=dropped_reports),
        collectors=[
            pb.CollectorStatus(
                name=status.name, duration_seconds=status.duration_seconds, error=_text(status.error or "")
            )
            for status in sample.collectors
        ],
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
