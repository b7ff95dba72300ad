"""A process that sends the reports of its part of the hosts."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from loiter.limits import MAX_MESSAGE_BYTES
from loiter.transport import Security, channel_credentials, wants_tls
from loiter.v1 import ingest_service_pb2 as pb
from loiter_aggregator.descriptors import room_for_streams
from loiter_aggregator.simulation.counts import Board, Boards, Count
from loiter_aggregator.simulation.encoding import Messages
from loiter_aggregator.simulation.plan import Plan
from loiter_aggregator.simulation.sender import Call, Sender, Shared

# How long what was sent may take to be acknowledged once the worker is to stop.
PATIENCE_SECONDS: Final = 30.0

_METHOD: Final = f"/{pb.DESCRIPTOR.services_by_name['IngestService'].full_name}/StreamReports"
_CONNECTING: Final = 64
_CPU_SECONDS: Final = 0.5
_CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),
    # A connection each, where gRPC would have all channels to one address share one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where reports go, and what goes with them. So many hosts share a connection."""

    server: str
    security: Security
    metadata: tuple[tuple[str, str], ...] = ()
    hosts_per_connection: int = 1

    def connections(self, hosts: int) -> int:
        """How many connections so many hosts take."""
        return -(-hosts // self.hosts_per_connection)


def work(plan: Plan, target: Target, boards: Boards, worker: int) -> None:
    """Sends until it is told to stop by SIGTERM, or the process that started it is gone. The body of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started it
    room_for_streams()
    asyncio.run(_work(plan, target, boards, worker))


async def _work(plan: Plan, target: Target, boards: Boards, worker: int) -> None:
    board = boards.board(worker)
    gate = asyncio.Semaphore(_CONNECTING)
    shared = Shared(plan, board, Messages(), gate, lambda words: boards.complain(worker, words))
    numbers = plan.numbers[worker :: boards.workers]
    channels = [_open(target) for _ in range(target.connections(len(numbers)))]
    senders = [
        Sender(shared, number, _opener(channels[place // target.hosts_per_connection], target))
        for place, number in enumerate(numbers)
    ]
    stop = _stop_signal()
    counting = asyncio.create_task(_count_cpu(board))
    sending = asyncio.gather(*(sender.run() for sender in senders))
    await asyncio.wait((sending, stopped := asyncio.create_task(stop.wait())), return_when=asyncio.FIRST_COMPLETED)
    for sender in senders:
        sender.stop()
    done, _ = await asyncio.wait((sending,), timeout=PATIENCE_SECONDS)
    for task in (stopped, counting, sending):
        task.cancel()
    await asyncio.gather(counting, sending, return_exceptions=True)
    for channel in channels:
        await channel.close()
    if done:
        sending.result()  # raises what ended it, if that was a mistake of ours


def _open(target: Target) -> grpc.aio.Channel:
    if wants_tls(target.server, target.security):
        credentials = channel_credentials(target.security)
        return grpc.aio.secure_channel(target.server, credentials, options=_CHANNEL_OPTIONS)
    return grpc.aio.insecure_channel(target.server, options=_CHANNEL_OPTIONS)


def _opener(channel: grpc.aio.Channel, target: Target) -> Callable[[], Call]:
    """What opens a stream on a channel. Messages go by it as bytes: they are encoded already."""
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(_METHOD)
    return lambda: method(metadata=target.metadata)


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    parent = multiprocessing.parent_process()
    if parent is not None:
        loop.add_reader(parent.sentinel, stop.set)
    return stop


async def _count_cpu(board: Board) -> None:
    """Counts the CPU time of this process from now on."""
    before = time.process_time_ns()
    while True:
        try:
            await asyncio.sleep(_CPU_SECONDS)
        finally:
            now = time.process_time_ns()
            board.add(Count.CPU, now - before)
            before = now
