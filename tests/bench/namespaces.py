"""Measures what 100 network namespaces cost a steady tick, 95 of them idle, and with --crowd one more that is crowded.

The idle ones are half without any socket, half with listeners. The table of connections is shared by all namespaces of
a host, so a walk of it for one of them passes by the sockets of all the others: a crowd makes every walk dearer. Needs
root. Figures are CPU time (user and system) of this process, and medians. Prints a Markdown table. Status 1 where the
goal is missed, which is without a crowd.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from loiter_agent.collectors.tcp_sock_diag import _sockets as sockets_of
from loiter_agent.inet_diag import ALL_STATES
from loiter_agent.namespaces import Namespaces, OpenNamespace
from loiter_agent.procfs import Procfs
from loiter_agent.sample import ProcessFds
from loiter_agent.sampler import Bounds, Sampler
from support.namespace_reader import processes
from support.netns import netns
from support.programs import leaklab, running

IDLE = 95
BUSY = 5
BUSY_SOCKETS = ("--established", "1000", "--close-wait", "250", "--time-wait", "1000")
CROWD_SOCKETS = ("--established", "9990")
LISTENERS = 4
GOAL_SECONDS = 0.25

CLONE_NEWNET = 0x4000_0000


def keep(count: int) -> None:
    """Keeps so many idle namespaces, each with a process of its own, until standard input ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, told = os.pipe()
    gate, open_gate = os.pipe()
    for number in range(count):
        if os.fork() == 0:
            os.close(open_gate)
            if libc.unshare(CLONE_NEWNET) != 0:
                os._exit(1)
            held = [socket.create_server(("", 0)) for _ in range(LISTENERS * (number % 2))]
            os.write(told, b".")
            os.read(gate, 1)  # ends with the parent
            for one in held:
                one.close()
            os._exit(0)
        assert os.read(ready, 1) == b"."
    print("ready", flush=True)
    sys.stdin.read()
    os.close(open_gate)
    for _ in range(count):
        os.wait()


@contextmanager
def idle_namespaces(count: int) -> Iterator[None]:
    """Idle namespaces for as long as the block lasts."""
    command = [sys.executable, __file__, "--keep", str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"ready\n"
        yield


def read(one: OpenNamespace) -> int:
    """Reads one namespace as the collector does, and returns how many sockets it has."""
    return sum(len(chunk.states()) for chunk in sockets_of(one))


def steady_pass(namespaces: Namespaces, scanned: list[ProcessFds], leave_out: frozenset[int] = frozenset()) -> int:
    """Finds and reads all namespaces but some. Returns how many sockets they have."""
    return sum(read(one) for one in namespaces.refresh(scanned) if one.id not in leave_out)


def cpu(work: Callable[[], object], rounds: int) -> list[float]:
    """CPU seconds of each of several calls."""
    taken = []
    for _ in range(rounds):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return taken


def row(name: str, seconds: list[float]) -> str:
    """A line of the table."""
    low, middle, high = (1e3 * figure for figure in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"| {name} | {middle:,.1f} ms | {low:,.1f} to {high:,.1f} ms |"


def main() -> None:
    """Makes the namespaces, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--crowd", type=int, default=0, help="processes with 20,000 sockets each in one more namespace")
    parser.add_argument("--keep", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.keep:
        keep(options.keep)
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(idle_namespaces(IDLE))
        crowded = stack.enter_context(netns())
        crowd_size = options.crowd
        inside = [crowded] * crowd_size + [stack.enter_context(netns()) for _ in range(BUSY)]
        sockets = [CROWD_SOCKETS] * crowd_size + [BUSY_SOCKETS] * BUSY
        commands = [one.command(leaklab("holder", *counts)) for one, counts in zip(inside, sockets, strict=True)]
        # The crowd is there before the others start: their TIME_WAIT sockets last no longer than a minute.
        holders = []
        for number, command in enumerate(commands):
            holders.append(stack.enter_context(running(command, folder / f"{number}.log")))
            if number >= crowd_size - 1:
                for holder in holders if number == crowd_size - 1 else holders[-1:]:
                    assert holder.line() == "ready 0", holder.logged()

        procfs = Procfs()
        scanned = list(processes(procfs))
        crowd = frozenset({procfs.network_namespace(holders[0].pid)} if crowd_size else ())
        namespaces = Namespaces(procfs)
        (first,) = cpu(lambda: namespaces.refresh(scanned), 1)
        found = namespaces.refresh(scanned)
        kinds = Counter(one.idle_sockets() is not None for one in found)
        total = steady_pass(namespaces, scanned)
        refreshes = cpu(lambda: namespaces.refresh(scanned), options.rounds)
        idle = [one for one in found if one.idle_sockets() is not None]
        idle_passes = cpu(lambda: [read(one) for one in idle], options.rounds)
        walks = cpu(lambda: [list(one.dump(ALL_STATES)) for one in idle], min(3, options.rounds))
        without = cpu(lambda: steady_pass(namespaces, scanned, crowd), options.rounds)
        passes = cpu(lambda: steady_pass(namespaces, scanned), options.rounds)
        namespaces.close()

        sampler = Sampler(procfs, Bounds(), interval=10.0)
        stack.callback(sampler.close)
        (first_tick,) = cpu(sampler.sample, 1)
        cpu(sampler.sample, 2)  # what is read of new processes only
        ticks = cpu(sampler.sample, options.rounds)
        sample = sampler.sample()

    print(f"{datetime.now(UTC):%Y-%m-%d}, Linux {platform.release()}, {os.cpu_count()} CPUs\n")
    print(f"{len(found)} network namespaces, {kinds[True]} of them idle; {total:,} sockets in all.\n")
    print("| | CPU, median | min to max |")
    print("|---|---:|---:|")
    print(row("finding the namespaces", refreshes))
    print(row(f"reading the {kinds[True]} idle ones", idle_passes))
    print(row("the same, were each dumped", walks))
    if crowd:
        print(row("one pass over all but the crowd", without))
    print(row("one pass over all", passes))
    print(row("**the whole tick**", ticks))
    print(f"\nThe first refresh, which enters each, took {1e3 * first:,.0f} ms, the first tick {first_tick:.2f} s.")
    print(f"{sample.tcp_states.time_wait} sockets in TIME_WAIT were left at the end.")
    median = statistics.median(ticks)
    if not crowd:
        print(f"Goal: at most {GOAL_SECONDS} s for the tick; {'met' if median <= GOAL_SECONDS else 'MISSED'}.")
        sys.exit(median > GOAL_SECONDS)


if __name__ == "__main__":
    main()
