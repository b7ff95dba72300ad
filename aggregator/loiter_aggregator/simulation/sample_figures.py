"""Sets the figures of a sample that are of the host, and of its agent. Pure."""

from __future__ import annotations

from typing import Final

from loiter.v1 import sample_pb2
from loiter_aggregator.simulation.figures import Drawn

_ESTABLISHED_ELSEWHERE: Final = 4
_FDS_ELSEWHERE: Final = 350
_FDS_OF_KERNEL: Final = 350
_FDS_A_CONNECTION: Final = 8
_PROCESSES_ELSEWHERE: Final = 110

_PAGE_BYTES: Final = 4_096
_RESIDENT_PAGES: Final = 10_400
_LEAST_CPU_NS: Final = 3_800_000
# What the agent takes in all, of what the tick takes.
_IN_ALL: Final = 1.25


def set_host(sample: sample_pb2.Sample, row: list[int], count: int, drawn: Drawn) -> None:
    """Sets what there is on the host: of so many processes in a row of figures, and elsewhere."""
    states, coverage, other = sample.tcp_states, sample.coverage, sample.other_processes
    elsewhere = _ESTABLISHED_ELSEWHERE + drawn.elsewhere
    states.established, states.close_wait = sum(row[:count]) + elsewhere, sum(row[count : 2 * count])
    states.syn_sent, states.syn_recv, states.fin_wait1 = drawn.syn_sent, drawn.syn_recv, drawn.fin_wait1
    states.fin_wait2, states.last_ack, states.closing = drawn.fin_wait2, drawn.last_ack, drawn.closing
    states.new_syn_recv = drawn.new_syn_recv
    other.processes = _PROCESSES_ELSEWHERE + drawn.forked
    other.established, other.close_wait, other.sockets = elsewhere, 0, elsewhere + drawn.syn_sent
    other.fd_open = _FDS_ELSEWHERE + _FDS_A_CONNECTION * elsewhere
    sample.host_fds.allocated = sum(row[4 * count : 5 * count]) + other.fd_open + _FDS_OF_KERNEL
    coverage.sockets_attributed = sum(row[3 * count : 4 * count]) + other.sockets
    coverage.sockets_unattributed = drawn.unattributed
    coverage.sockets_ownerless = states.time_wait + drawn.fin_wait2 + drawn.new_syn_recv
    coverage.processes, coverage.processes_vanished = other.processes + count, drawn.vanished


def set_cost(sample: sample_pb2.Sample, ticks: int, drawn: Drawn, interval: int) -> None:
    """Sets what the agent took, at one of its ticks, counted from 1; they are `interval` milliseconds apart."""
    cost = sample.cost
    cpu = (_LEAST_CPU_NS + drawn.cpu) / 1e9
    cost.cpu_seconds, cost.wall_seconds = cpu, cpu + drawn.waited / 1e9
    # In hundredths of a second, as the kernel has it.
    cost.process_cpu_seconds = round(1 + _IN_ALL * ticks * _LEAST_CPU_NS / 1e9, 2)
    cost.resident_bytes = _PAGE_BYTES * (_RESIDENT_PAGES + drawn.pages)
    cost.cpu_share = _IN_ALL * cpu * 1_000 / interval
    spent = (drawn.tcp, drawn.processes, drawn.activity, drawn.host_fds)
    for collector, nanoseconds in zip(sample.collectors, spent, strict=True):
        collector.duration_seconds = nanoseconds / 1e9
