"""What of a host's reports stays for as long as the same processes run, encoded. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.clock import to_duration, to_timestamp
from loiter_aggregator.simulation.closings import NAMESPACE, TIME_WAIT_SECONDS, add_closing, closings
from loiter_aggregator.simulation.draws import whole
from loiter_aggregator.simulation.hosts import Process, SimulatedHost
from loiter_aggregator.simulation.life import Run
from loiter_aggregator.simulation.plan import Plan

_COLLECTORS: Final = ("tcp", "processes", "activity", "host_fds")
_CPU_BUDGET: Final = 0.02
_FILE_MAX: Final = (1 << 63) - 1
_MAX_BUCKETS: Final = 131_072
_REUSE_ON_LOOPBACK: Final = 2
_HARD_LIMIT: Final = 524_288
# TASK_COMM_LEN of include/linux/sched.h, without the zero at the end.
_NAME_CHARS: Final = 15

_LISTENERS: Final = 0x43


class Template(NamedTuple):
    """The beginning of a Report; a Sample without processes; and each of those, without its figures."""

    report: bytes
    sample: bytes
    processes: tuple[bytes, ...]


def template(plan: Plan, host: SimulatedHost, run: Run, processes: Sequence[Process]) -> Template:
    """What stays of the reports of a run."""
    report = pb.Report(host_id=host.host_id, boot_id=host.boot_id(run), spool_epoch=host.epoch(run))
    return Template(
        report.SerializeToString(),
        _sample(plan, host, processes).SerializeToString(),
        tuple(_process(one).SerializeToString() for one in processes),
    )


def _sample(plan: Plan, host: SimulatedHost, processes: Sequence[Process]) -> sample_pb2.Sample:
    sample = sample_pb2.Sample(sampler=sample_pb2.SAMPLER_SOCK_DIAG, interval=to_duration(plan.interval))
    sample.host_fds.limit = _FILE_MAX
    sample.tcp_states.listen = sum(slot.app.listeners for slot in host.slots) + whole(2, 9, host.key, _LISTENERS)
    sample.tcp_states.bound_inactive = 0
    sample.cost.cpu_budget, sample.cost.late_ticks, sample.cost.dropped_reports = _CPU_BUDGET, 0, 0
    sample.spool.SetInParent()
    for name in _COLLECTORS:
        sample.collectors.add(name=name)
    coverage = sample.coverage
    coverage.processes_unreadable = coverage.namespaces_unread = coverage.namespaces_by_procfs = 0
    coverage.namespaces, coverage.close_wait_uncharged = 1, 0
    sample.namespaces.add(id=NAMESPACE, name="host", read=True, sampler=sample_pb2.SAMPLER_SOCK_DIAG)
    limits = sample.time_wait_limits
    limits.overflows, limits.max_buckets, limits.reuse = 0, _MAX_BUCKETS, _REUSE_ON_LOOPBACK
    limits.seconds, limits.overflows_per_second = TIME_WAIT_SECONDS, 0.0
    for closing in closings(host):
        owner = None if closing.slot is None else _owner(processes[closing.slot], closing.destination)
        add_closing(sample, host, closing, owner)
    return sample


def _process(process: Process) -> sample_pb2.ProcessSample:
    app = process.slot.app
    return sample_pb2.ProcessSample(
        pid=process.pid,
        start_time=_jiffy(process.start),
        name=app.name[:_NAME_CHARS],
        app=app.app,
        user=app.user,
        fd_limit=app.fd_limit,
        fd_limit_hard=max(app.fd_limit, _HARD_LIMIT),
    )


def _owner(process: Process, destination: str) -> sample_pb2.TimeWaitOwner:
    return sample_pb2.TimeWaitOwner(
        source=sample_pb2.OWNER_SOURCE_EXACT if destination else sample_pb2.OWNER_SOURCE_LISTENER,
        pid=process.pid,
        start_time=_jiffy(process.start),
        name=process.slot.app.name[:_NAME_CHARS],
        app=process.slot.app.app,
    )


def _jiffy(time: int) -> Timestamp:
    """A start of a process, which the kernel tells in hundredths of a second (proc_pid_stat(5))."""
    return to_timestamp(time // 10 * 10)
