"""Runs the spools and uplinks of many agents in one process, with samples of its own making, and writes down each.

As a program: synthetic_agents --server A --folder D --agents N. On SIGUSR1 it prints the largest number of reports that
wait with any of the agents. It ends by SIGTERM, once nothing waits any more, with status 0; or with 1 where something
still waits after --patience. It may be killed, and started again on its folder.

Of every sample it notes in D/NAME.taken, a line each: `+ N` before it is given to the spool, `= N` once the spool has
it. N is drawn from the clock, and stands in the sample as the number of allocated file handles.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from loiter.limits import MIN_INTERVAL_SECONDS
from loiter.v1 import sample_pb2
from loiter_agent.security import Security
from loiter_agent.spool import Spool
from loiter_agent.uplink import Uplink
from support.reports import boot_id, host_id

_SPOOL_BYTES = 64_000_000
_SPOOL_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the agents of one process have in common. Times are in seconds."""

    servers: tuple[str, ...]
    folder: Path
    interval: float
    patience: float


class SyntheticAgent:
    """One agent without a sampler."""

    def __init__(self, name: str, options: Options) -> None:
        """Opens the spool in a folder of the agent's own."""
        self._options = options
        state = options.folder / name
        state.mkdir(parents=True, exist_ok=True)
        self._taken = os.open(options.folder / f"{name}.taken", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.spool = Spool(host_id(name), boot_id(name), state, _SPOOL_BYTES, _SPOOL_SECONDS)
        self._uplink = Uplink(self.spool)
        host = sample_pb2.Host(host_id=host_id(name), hostname=name, boot_id=boot_id(name))
        self._uplink.configure(
            options.servers, host, max(MIN_INTERVAL_SECONDS, options.interval), Security(insecure=True)
        )

    async def run(self, stop: asyncio.Event) -> bool:
        """Samples until it is told to stop; returns whether all was delivered in time."""
        uplink = asyncio.create_task(self._uplink.run())
        await self._sample(stop)
        delivered = True
        try:
            async with asyncio.timeout(self._options.patience):
                await self.spool.drained()
        except TimeoutError:
            delivered = False
        uplink.cancel()
        with suppress(asyncio.CancelledError):
            await uplink
        await self.spool.close()
        os.close(self._taken)
        return delivered

    async def _sample(self, stop: asyncio.Event) -> None:
        due = time.monotonic() + random.uniform(0, self._options.interval)
        while not await _set_within(stop, due - time.monotonic()):
            due = max(due + self._options.interval, time.monotonic() - self._options.interval)
            number = time.time_ns() // 1_000
            self._note(f"+ {number}\n")
            await self.spool.append(_sample(number), time.clock_gettime(time.CLOCK_BOOTTIME))
            self._note(f"= {number}\n")

    def _note(self, line: str) -> None:
        os.write(self._taken, line.encode())


def _sample(number: int) -> sample_pb2.Sample:
    now = Timestamp()
    now.GetCurrentTime()
    return sample_pb2.Sample(
        sample_time=now,
        tcp_states=sample_pb2.TcpStateCounts(established=3, close_wait=1),
        host_fds=sample_pb2.HostFileDescriptors(allocated=number),
        processes=[
            sample_pb2.ProcessSample(pid=pid, start_time=now, name="worker", app="worker", close_wait=1)
            for pid in (1, 2)
        ],
    )


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    return event.is_set()


async def _run(names: list[str], options: Options) -> bool:
    stop = asyncio.Event()
    agents = [SyntheticAgent(name, options) for name in names]
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: print(max(len(agent.spool) for agent in agents), flush=True))
    print("running", flush=True)
    delivered = await asyncio.gather(*(agent.run(stop) for agent in agents))
    for name, agent, done in zip(names, agents, delivered, strict=True):
        if not done:
            print(f"{name}: {len(agent.spool)} reports not delivered", file=sys.stderr)
    return all(delivered)


def main() -> None:
    """Runs the agents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", action="append", required=True, metavar="HOST:PORT")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first agent")
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--interval", type=float, default=0.2, help="seconds between samples")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds at the end")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    common = Options(tuple(options.server), options.folder, options.interval, options.patience)
    names = [f"host-{number:04}" for number in range(options.first, options.first + options.agents)]
    sys.exit(0 if asyncio.run(_run(names, common)) else 1)


if __name__ == "__main__":
    main()
