"""What an agent says of a process's CLOSE_WAIT sockets besides their number: cause, evidence, ages, peers. Pure."""

from __future__ import annotations

from typing import Final

from loiter.limits import STUCK_AFTER_SECONDS
from loiter.v1 import sample_pb2
from loiter_aggregator.simulation.closings import address
from loiter_aggregator.simulation.draws import whole
from loiter_aggregator.simulation.hosts import SimulatedHost, Slot

_HOUR: Final = 3_600.0
# Where sockets come and go, they are there for a part of an interval.
_FLEETING: Final = 0.6
# The parts of the peers of a leak; the first has what is left, too.
_PEERS: Final = (0.5, 0.27, 0.14, 0.06)
_POOL_PORT: Final = 5_432
_CLIENT_SIDE: Final = 0.2
_THREADS: Final = 0x51
_MOST_READ: Final = 16


def unchanging(host: SimulatedHost, slot: Slot, stays: bool) -> bytes:
    """What is said of a process with CLOSE_WAIT sockets at every tick, encoded; `stays` is whether some of them do."""
    process = sample_pb2.ProcessSample()
    evidence = process.evidence
    evidence.settled = evidence.client_side = evidence.never_accepted = 0
    evidence.eof_read = evidence.fin_unread = evidence.farewell_unread = evidence.data_unread = 0
    evidence.threads = whole(2, 64, host.key, _THREADS, slot.index)
    evidence.threads_read = min(evidence.threads, _MOST_READ)
    evidence.thread_states["S"] = evidence.threads_read
    evidence.wait_channels["ep_poll"] = 1
    evidence.wait_channels["futex_wait_queue"] = evidence.threads_read - 1
    if slot.leak is not None:
        process.cause = sample_pb2.CAUSE_LEAK
    elif stays:
        process.cause = sample_pb2.CAUSE_IDLE_POOL
    for number in range(1 if slot.leak is None else len(_PEERS)):
        # Who calls has a port of its own for each connection.
        port = _POOL_PORT if process.cause == sample_pb2.CAUSE_IDLE_POOL else None
        process.peers.add(address=address(host, _MOST_READ * slot.index + number), port=port)
    return process.SerializeToString()


def set_figures(process: sample_pb2.ProcessSample, slot: Slot, count: int, staying: int, age: float) -> None:
    """Sets the figures of so many sockets, of which so many stay, of a process of an age in seconds."""
    evidence, ages = process.evidence, process.close_wait_age
    evidence.survived = staying / count
    evidence.run_delay_share = (count * 31 % 97) / 9_700
    if slot.leak is not None:
        stuck = max(0, staying - round(slot.leak.per_hour / _HOUR * STUCK_AFTER_SECONDS))
        evidence.settled = evidence.eof_read = process.stuck = stuck
        evidence.client_side = int(stuck * _CLIENT_SIDE)
        _set_ages(ages, age / 2, 0.99 * age, age)
    elif staying:
        evidence.settled = evidence.fin_unread = evidence.client_side = process.stuck = staying
        _set_ages(ages, age / 3, age / 2, age / 2)
    else:
        process.stuck = 0
        oldest = _FLEETING * (1 + count % 7)
        _set_ages(ages, oldest / 2, oldest, oldest)
    left = count
    for peer, part in zip(process.peers, _PEERS, strict=False):
        peer.count = int(count * part)
        left -= peer.count
    process.peers[0].count += left


def _set_ages(ages: sample_pb2.SocketAges, p50: float, p99: float, oldest: float) -> None:
    # In milliseconds, as the kernel has them.
    ages.p50_seconds, ages.p99_seconds, ages.max_seconds = round(p50, 3), round(p99, 3), round(oldest, 3)
