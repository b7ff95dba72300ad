"""What an agent says of a process's CLOSE_WAIT sockets besides their number: cause, evidence, ages, peers. Pure."""

from __future__ import annotations

from typing import Final

from loiter.limits import STUCK_AFTER_SECONDS
from loiter.v1 import sample_pb2
from loiter_aggregator.simulation.closings import address
from loiter_aggregator.simulation.draws import whole
from loiter_aggregator.simulation.hosts import SimulatedHost, Slot
from loiter_aggregator.simulation.leaks import Leak

_HOUR: Final = 3_600.0
# Where sockets come and go, they are there for a part of an interval.
_FLEETING: Final = 0.6
# Of the peers of a leak; the last has the rest.
_PEERS: Final = (0.5, 0.27, 0.14, 0.0)
_CLIENT_SIDE: Final = 0.2
_THREADS: Final = 0x51
_MOST_READ: Final = 16


def explain(
    process: sample_pb2.ProcessSample, host: SimulatedHost, slot: Slot, counts: tuple[int, int], age: float
) -> None:
    """Explains the sockets of a process of an age in seconds: how many there are, and how many of those stay."""
    count, staying = counts
    evidence = process.evidence
    evidence.eof_read = evidence.fin_unread = evidence.farewell_unread = evidence.data_unread = 0
    evidence.never_accepted = 0
    evidence.survived = staying / count
    evidence.threads = whole(2, 64, host.key, _THREADS, slot.index)
    evidence.threads_read = min(evidence.threads, _MOST_READ)
    evidence.thread_states["S"] = evidence.threads_read
    evidence.wait_channels["ep_poll"] = 1
    evidence.wait_channels["futex_wait_queue"] = evidence.threads_read - 1
    evidence.run_delay_share = (count * 31 % 97) / 9_700
    if slot.leak is not None:
        _explain_leak(process, host, slot, slot.leak, counts, age)
    elif staying:
        process.cause, process.stuck = sample_pb2.CAUSE_IDLE_POOL, staying
        evidence.settled = evidence.fin_unread = evidence.client_side = staying
        _set_ages(process, age / 3, age / 2, age / 2)
        process.peers.add(address=address(host, slot.index), port=5_432, count=count)
    else:
        process.stuck = evidence.settled = evidence.client_side = 0
        oldest = _FLEETING * (1 + count % 7)
        _set_ages(process, oldest / 2, oldest, oldest)
        process.peers.add(address=address(host, slot.index), count=count)


def _explain_leak(
    process: sample_pb2.ProcessSample, host: SimulatedHost, slot: Slot, leak: Leak, counts: tuple[int, int], age: float
) -> None:
    count, leaked = counts
    a_second = leak.per_hour / _HOUR
    process.cause = sample_pb2.CAUSE_LEAK
    process.stuck = max(0, leaked - round(a_second * STUCK_AFTER_SECONDS))
    process.evidence.settled = process.evidence.eof_read = process.stuck
    process.evidence.client_side = int(process.stuck * _CLIENT_SIDE)
    _set_ages(process, age / 2, 0.99 * age, age)
    left = count
    for number, part in enumerate(_PEERS):
        here = int(count * part) or left
        process.peers.add(address=address(host, _MOST_READ * slot.index + number), count=here)
        left -= here


def _set_ages(process: sample_pb2.ProcessSample, p50: float, p99: float, oldest: float) -> None:
    ages = process.close_wait_age
    # In milliseconds, as the kernel has them.
    ages.p50_seconds, ages.p99_seconds, ages.max_seconds = round(p50, 3), round(p99, 3), round(oldest, 3)
