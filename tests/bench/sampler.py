"""Measures what one steady tick of the agent costs on a host with many sockets, beside the alternatives.

Runs in a network namespace and a pid namespace of its own, with a /proc of its own: what else runs on the machine, and
the namespaces that it has made, have no part in it. Nor has the tracer of closes, which needs the host's pids.

Several processes hold the sockets, because one may not hold so many; then each contender is run in turn, several rounds
over, so that a change in the machine's speed meets all of them. Figures are CPU time (user and system) and medians;
compare the ratios, not the seconds. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from loiter_agent.inet_diag import ALL_STATES, NLMSG_DONE, TIME_WAIT_STATES, dump_request
from loiter_agent.procfs import Procfs
from loiter_agent.sampler import Bounds, Sampler
from loiter_agent.sock_diag import open_socket
from support.programs import agent_command, aggregator, leaklab, running, wait_until

HOLDERS = 9  # a process may hold 20,000 descriptors on the machines this was written for
TIME_WAIT = 20_000
NETSTAT = "netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}'"


@dataclass(slots=True)
class Contender:
    """Something that is measured: called once, it returns the CPU seconds that one reading took."""

    name: str
    measure: Callable[[], float]
    rounds: int
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.cpu_seconds)


def own_cpu(work: Callable[[], object]) -> float:
    """CPU seconds that a call takes in this process."""
    before = time.process_time()
    work()
    return time.process_time() - before


def child_cpu(command: str) -> float:
    """CPU seconds that a shell command takes, all its processes together."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bare_receive(masks: tuple[int, ...]) -> None:
    """Receives the dumps that a tick asks for, and reads nothing of them but where they end."""
    buffer = bytearray(64 * 1024)
    with open_socket() as diag:
        for sequence, mask in enumerate(masks, start=1):
            diag.send(dump_request(mask, sequence))
            while True:
                length = diag.recv_into(buffer)
                # NLMSG_DONE is the last message of a datagram: 16 bytes of header, 4 of status.
                if int.from_bytes(buffer[length - 16 : length - 14], sys.byteorder) == NLMSG_DONE:
                    break


@contextmanager
def node_exporter() -> Iterator[Callable[[], float] | None]:
    """Runs node_exporter with its tcpstat collector alone, where it is installed: yields what measures one scrape."""
    program = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if program is None:
        yield None
        return
    address = "127.0.0.1:9100"
    flags = ["--collector.disable-defaults", "--collector.tcpstat", f"--web.listen-address={address}"]
    with subprocess.Popen([program, *flags], stderr=subprocess.DEVNULL) as server:
        url = f"http://{address}/metrics"

        def scrape() -> bytes:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return bytes(answer.read())

        def up() -> bool:
            try:
                return b"node_tcp_connection_states" in scrape()
            except OSError:
                return False

        wait_until(up, 20, "node_exporter answers")
        process = psutil.Process(server.pid)

        def measure() -> float:
            before = process.cpu_times()
            scrape()
            after = process.cpu_times()
            return float(after.user + after.system - before.user - before.system)

        yield measure
        server.terminate()


def whole_agent(folder: Path, ticks: int) -> tuple[float, int]:
    """Runs the real agent with a real aggregator for some ticks: CPU seconds a tick, resident bytes."""
    with (
        aggregator(folder) as server,
        running(agent_command(server.server, folder, interval="1s"), folder / "agent.log") as agent,
    ):
        agent.wait_for_log("reporting to")
        process = psutil.Process(agent.pid)
        time.sleep(15)  # the first tick, and what it brings into memory, is not what is measured
        before = process.cpu_times()
        time.sleep(ticks)
        after = process.cpu_times()
        return (after.user + after.system - before.user - before.system) / ticks, process.memory_info().rss


def cpu_name() -> str:
    """The processor, as /proc/cpuinfo calls it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Sets up, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=160_000, help="in all; default: 160,000")
    parser.add_argument("--rounds", type=int, default=7, help="for each contender; the slow ones get 3")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        if os.geteuid() != 0:
            sys.exit("the benchmark needs root: a network namespace, and the descriptors of all processes")
        isolated = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp("unshare", [*isolated, sys.executable, __file__, *sys.argv[1:], "--inside"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        idle_folder = folder / "idle"
        idle_folder.mkdir()
        idle_cpu, idle_memory = whole_agent(idle_folder, ticks=20)

        # Three quarters in ESTABLISHED, an eighth each in CLOSE_WAIT and FIN_WAIT2; a connection has two sockets.
        connections = options.sockets // HOLDERS // 2
        close_wait = connections // 4
        counts = ("--established", str(connections - close_wait), "--close-wait", str(close_wait))
        holders = [
            stack.enter_context(
                running(leaklab("holder", *counts, *(["--ipv6"] if number % 2 else [])), folder / f"{number}.log")
            )
            for number in range(HOLDERS)
        ]
        for holder in holders:
            assert holder.line() == "ready 0", holder.logged()
        sampler = Sampler(Procfs(), Bounds())
        first = own_cpu(sampler.sample)
        sample = sampler.sample()
        held = sum(count or 0 for count in vars_of(sample.tcp_states).values())
        attributed = sample.coverage.sockets_attributed
        scrape = stack.enter_context(node_exporter())
        contenders = [
            Contender("bare netlink receive", lambda: own_cpu(lambda: bare_receive((ALL_STATES,))), options.rounds),
            Contender("**loiter, steady tick with attribution**", lambda: own_cpu(sampler.sample), options.rounds),
            Contender("`ss -tan`", lambda: child_cpu("exec ss -tan"), options.rounds),
            Contender("`netstat -n \\| awk`", lambda: child_cpu(NETSTAT), 3),
            Contender("psutil.net_connections", lambda: own_cpu(lambda: psutil.net_connections("tcp")), 3),
            Contender("`ss -tanp`", lambda: child_cpu("exec ss -tanp"), 3),
        ]
        if scrape is not None:
            contenders.insert(3, Contender("node_exporter, tcpstat", scrape, options.rounds))
        run_rounds(contenders, options.rounds)
        # TIME_WAIT lasts a minute, too short for the slow contenders: these sockets come last, for the quick ones.
        crowd = stack.enter_context(running(leaklab("holder", "--time-wait", str(TIME_WAIT)), folder / "crowd.log"))
        assert crowd.line() == "ready 0", crowd.logged()
        masks = (ALL_STATES & ~TIME_WAIT_STATES, TIME_WAIT_STATES)
        crowded = [
            Contender("bare netlink receive", lambda: own_cpu(lambda: bare_receive(masks)), options.rounds),
            Contender("**loiter, steady tick with attribution**", lambda: own_cpu(sampler.sample), options.rounds),
            Contender("`ss -tan`", lambda: child_cpu("exec ss -tan"), options.rounds),
        ]
        run_rounds(crowded, options.rounds)
        busy_folder = folder / "busy"
        busy_folder.mkdir()
        busy_cpu, busy_memory = whole_agent(busy_folder, ticks=20)

    print(f"{datetime.now(UTC):%Y-%m-%d}, Linux {platform.release()}, {cpu_name()}, {os.cpu_count()} CPUs")
    print(f"\n{held:,} TCP sockets held by {HOLDERS} processes, {attributed:,} of them charged to their process.\n")
    print_readings(contenders)
    print(f"\nThe same with {TIME_WAIT:,} sockets in TIME_WAIT more:\n")
    print_readings(crowded)
    print("\n| the whole agent, reporting to an aggregator | CPU a tick | of a core at 10 s | resident memory |")
    print("|---|---:|---:|---:|")
    for name, cpu, memory in (
        ("this machine idle", idle_cpu, idle_memory),
        (f"{held:,} sockets", busy_cpu, busy_memory),
    ):
        print(f"| {name} | {1e3 * cpu:,.1f} ms | {10 * cpu:.2f} % | {memory / 2**20:.1f} MiB |")
    print(f"\nThe first tick, which reads every descriptor once, took {first:.2f} s of CPU.")


def run_rounds(contenders: list[Contender], rounds: int) -> None:
    """Measures each contender in turn, again and again."""
    for number in range(rounds):
        for contender in contenders:
            if number < contender.rounds:
                contender.cpu_seconds.append(contender.measure())


def print_readings(contenders: list[Contender]) -> None:
    """Prints a table with the first contender as the measure of the others."""
    floor = contenders[0].median
    print("| one reading | CPU, median | × bare receive | min to max |")
    print("|---|---:|---:|---:|")
    for contender in sorted(contenders, key=lambda one: one.median):
        print(
            f"| {contender.name} | {1e3 * contender.median:,.0f} ms | {contender.median / floor:.2f} | "
            f"{1e3 * min(contender.cpu_seconds):,.0f} to {1e3 * max(contender.cpu_seconds):,.0f} ms |"
        )


def vars_of(section: object) -> dict[str, int | None]:
    """The fields of a slotted dataclass."""
    return {name: getattr(section, name) for name in section.__slots__}  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
