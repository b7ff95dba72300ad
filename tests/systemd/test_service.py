"""A fleet in service: an aggregator and three agents, each on a host with its own systemd, over mutual TLS.

One fleet serves all tests of this file, in the order of the file. Agents of web1 and web2 tick every second, to be
quick; web3 is left alone at the default of 10 s.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from support.programs import LEAKLAB, ROOT
from systemd.debs import Debs
from systemd.lab import Fleet, Host

AGENT: Final = "loiter-agent.service"
AGGREGATOR: Final = "loiter-aggregator.service"
DROP_INS: Final = f"/etc/systemd/system/{AGENT}.d"
SECONDS_TO_APPEAR: Final = 30
# Of web2: more than four of its ticks.
WATCHDOG_SECONDS: Final = 6
# How long an agent may need to come back: RestartSec=5 or a boot, then at most 30 s until it tries again to connect.
SECONDS_TO_RETURN: Final = 60
OUTAGE_REPORTS: Final = 15
IDLE_SECONDS: Final = 60
HIGHEST_IDLE_CPU: Final = 0.003
HIGHEST_IDLE_RSS: Final = 45e6

HUB_SETTINGS: Final = """
listen = "0.0.0.0:7433"
listen_readers = "0.0.0.0:7435"
"""
READER: Final = ("--server", "hub:7435", "--ca", "/etc/loiter/ca/ca.pem", "--token-file", "/root/token")
LEAKING_UNIT: Final = """
[Service]
User=nobody
ExecStart=/bin/sh -c 'sleep infinity | exec python3 /opt/leaklab/leak.py --per-second 10'
"""
HOLDING_UNIT: Final = """
[Service]
Type=exec
LimitNOFILE=20000
ExecStart=/bin/sh -c 'sleep infinity | exec python3 /opt/leaklab/holder.py --close-wait 5000'
"""


@dataclass(frozen=True)
class Usage:
    """What an agent has taken so far: seconds of a processor, at a time of the monotonic clock."""

    at: float
    cpu_seconds: float


@dataclass(frozen=True)
class Service:
    """The fleet, how long its agents took to appear, and what the idle one had taken by then."""

    hub: Host
    agents: list[Host]
    appeared_seconds: float
    before: Usage

    def agent(self, name: str) -> Host:
        """The host of an agent."""
        return next(host for host in self.agents if host.name == name)

    def ask(self, *words: str) -> Any:
        """What the aggregator answers."""
        return json.loads(self.hub.run("loiter", *words, "-o", "json", *READER).stdout)

    def silent(self) -> set[str]:
        """The hosts that were not heard of for some time."""
        return {row["host"] for row in self.ask("fleet")["silent_hosts"]}

    def reporting(self) -> int:
        """How many hosts report."""
        count: int = self.ask("fleet")["coverage"]["hosts_reporting"]
        return count


@pytest.fixture(scope="module")
def service(fleet: Fleet, debs: Debs) -> Service:
    """Installs all of it, the way that a guide would have it done."""
    names = ("web1", "web2", "web3")
    hub, *agents = fleet.hosts("hub", *names)
    serve(hub, debs.aggregator, names)
    for host in agents:
        prepare(hub, host, debs.agent)
    interval = '\ninterval = "1s"\ncpu_budget = "100%"\n'
    for host in agents[:2]:
        host.write("/etc/loiter/agent.toml", 'server = "hub:7433"' + interval)
        host.push(LEAKLAB, "/opt")
    agents[2].write("/etc/loiter/agent.toml", 'server = "hub:7433"\n')
    agents[1].write(f"{DROP_INS}/watchdog.conf", f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n")
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: install(host, debs.agent), agents))
    running = Service(hub, agents, 0.0, usage(agents[2]))
    hub.wait(lambda: running.reporting() == 3, 120, "three hosts report")
    return Service(hub, agents, time.monotonic() - started, usage(agents[2]))


def install(host: Host, package: Path) -> None:
    """Installs a package in one command. What was put into /etc before stays."""
    host.run("apt-get", "install", "-y", "-o", "Dpkg::Options::=--force-confold", f"/root/{package.name}", timeout=200)


def serve(hub: Host, package: Path, agents: Sequence[str]) -> None:
    """Installs the aggregator, with an authority for it and its agents, and a token for who asks."""
    hub.push(package, "/root")
    install(hub, package)
    ca = "/etc/loiter/ca"
    hub.run("loiter", "ca", "init", ca)
    hub.run("loiter", "ca", "server", ca, "hub")
    for name in agents:
        hub.run("loiter", "ca", "agent", ca, name)
    for source, credential in (("aggregator.pem", "certificate"), ("aggregator.key", "key"), ("ca.pem", "client-ca")):
        text = hub.run("cat", f"{ca}/{source}").stdout
        hub.write(f"/etc/credstore/loiter-aggregator.{credential}.pem", text, 0o600)
    token = hub.run("loiter", "token", "add", "person", "--right", "read", "--data-dir", "/var/lib/loiter").stdout
    hub.write("/root/token", token, 0o600)
    hub.write("/etc/loiter/aggregator.toml", HUB_SETTINGS)
    hub.run("systemctl", "restart", AGGREGATOR)


def prepare(hub: Host, host: Host, package: Path) -> None:
    """Brings the package and what the service is to show of itself to the host of an agent."""
    host.push(package, "/root")
    made = {"ca.pem": "ca.pem", "certificate.pem": f"agents/{host.name}.pem", "key.pem": f"agents/{host.name}.key"}
    for credential, source in made.items():
        text = hub.run("cat", f"/etc/loiter/ca/{source}").stdout
        host.write(f"/etc/credstore/loiter-agent.{credential}", text, 0o600)


def show(host: Host, name: str, unit: str = AGENT) -> str:
    """A property of a unit."""
    return host.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()


def pid(host: Host, unit: str = AGENT) -> int:
    """The main process of a unit, or 0."""
    return int(show(host, "MainPID", unit))


def status(host: Host) -> dict[str, Any]:
    """What the agent says of itself; nothing while it does not run."""
    found = host.run("cat", "/run/loiter-agent/status.json", check=False).stdout
    return dict(json.loads(found)) if found else {}


def reports_again(host: Host, former: int) -> bool:
    """Whether another process than the former is the agent, and its reports arrive."""
    now = status(host)
    return bool(now) and now["pid"] not in (0, former) and now["acknowledged_reports"] >= 1


def usage(host: Host) -> Usage:
    """What the agent of a host has taken so far, by the kernel's account of its unit (cgroup2 keeps one always)."""
    found = host.run("cat", f"/sys/fs/cgroup/unified/system.slice/{AGENT}/cpu.stat").stdout.splitlines()
    microseconds = int(dict(line.split() for line in found)["usage_usec"])
    return Usage(time.monotonic(), microseconds / 1e6)


def limit(host: Host, controller: str, file: str) -> int:
    """A figure of the agent's own cgroup."""
    return int(host.run("cat", f"/sys/fs/cgroup/{controller}/system.slice/{AGENT}/{file}").stdout)


@dataclass(frozen=True)
class Stored:
    """What the aggregator has of a host: samples, ticks known to be missed, the time of the last one, what was lost."""

    samples: int
    late_ticks: int
    until: datetime
    lost: list[Any]

    @classmethod
    def of(cls, service: Service, host: Host) -> Stored:
        """Asks for it."""
        found = service.ask("host", host.name)
        until = datetime.fromisoformat(found["last_sample"])
        return cls(found["samples"], found["cost"]["late_ticks"], until, found["lost_samples"])


def test_three_hosts_appear_soon_after_their_installation(service: Service) -> None:
    print(f"three hosts reported {service.appeared_seconds:.1f} s after the installation began")
    assert service.appeared_seconds < SECONDS_TO_APPEAR
    assert service.silent() == set()


def test_a_leaking_service_is_named_by_its_unit(service: Service) -> None:
    """Not by its interpreter, and not by the shell that started it."""
    web1 = service.agent("web1")
    web1.write("/etc/systemd/system/order-api.service", LEAKING_UNIT)
    web1.run("systemctl", "start", "order-api")

    def worst() -> dict[str, Any]:
        first: dict[str, Any] = service.ask("top", "apps", "--window", "1m")[0]
        return first

    service.hub.wait(lambda: worst()["cause"] == "leak" and (worst()["close_wait_growth_per_hour"] or 0) > 0, 60)
    first = worst()
    web1.run("systemctl", "stop", "order-api")
    assert (first["app"], first["hosts"]) == ("order-api.service", 1)


def test_an_agent_that_is_stopped_is_ended_by_the_watchdog(service: Service) -> None:
    """A process that does not run at all (SIGSTOP)."""
    web2 = service.agent("web2")
    former = pid(web2)
    web2.run("kill", "-STOP", str(former))
    web2.wait(lambda: reports_again(web2, former), SECONDS_TO_RETURN, lambda: str(status(web2)))
    assert "Watchdog timeout" in journal(web2)


def test_an_agent_whose_tick_hangs_is_ended_by_the_watchdog(service: Service) -> None:
    """Only the thread that samples hangs, in the middle of a read. The rest goes on, and does not feed the watchdog."""
    web2 = service.agent("web2")
    web2.push(ROOT / "tests/support/hang_tick.py", "/opt")
    former, restarts = pid(web2), int(show(web2, "NRestarts"))
    hanging = web2.entering(["python3", "/opt/hang_tick.py", str(former)])
    with subprocess.Popen(hanging, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hung:
        try:
            assert hung.stdout is not None
            assert hung.stdout.readline().startswith("hung ")
            web2.wait(lambda: reports_again(web2, former), SECONDS_TO_RETURN, lambda: str(status(web2)))
        finally:
            hung.kill()
    assert int(show(web2, "NRestarts")) == restarts + 1
    said = journal(web2)
    assert "Fatal Python error: Aborted" in said
    assert "in sample" in said, "the log says where it hung"


def journal(host: Host) -> str:
    """What the agent and systemd have logged of the agent."""
    return host.run("journalctl", "--no-pager", "--output=cat", "--unit", AGENT).stdout


def test_a_host_that_is_cut_off_shows_as_silent_and_catches_up(service: Service) -> None:
    """All samples of the outage arrive, and none is said to be lost."""
    web2 = service.agent("web2")
    before = Stored.of(service, web2)
    web2.cut()
    service.hub.wait(lambda: service.silent() == {"web2"}, 60, "web2 is silent")
    web2.wait(lambda: status(web2)["waiting_reports"] >= OUTAGE_REPORTS, 60, "reports wait for the cable")
    web2.heal()
    service.hub.wait(lambda: service.silent() == set(), SECONDS_TO_RETURN, "web2 is back")
    web2.wait(lambda: status(web2)["waiting_reports"] <= 1, 30, "what waited is sent")
    after = Stored.of(service, web2)
    ticks = round((after.until - before.until).total_seconds())
    taken = after.samples - before.samples
    print(f"{taken} samples of {ticks} ticks, {after.late_ticks - before.late_ticks} of them missed by the agent")
    assert ticks >= OUTAGE_REPORTS
    assert abs(ticks - taken - (after.late_ticks - before.late_ticks)) <= 1
    assert after.lost == []


def test_the_caps_hold_while_ten_thousand_sockets_are_held(service: Service) -> None:
    """They are those of the unit, and the agent stays within them."""
    web1 = service.agent("web1")
    web1.write("/etc/systemd/system/holder.service", HOLDING_UNIT)
    web1.run("systemctl", "start", "holder")
    service.hub.wait(lambda: service.ask("host", "web1")["tcp_states"]["close_wait"] >= 5_000, 60, "they are seen")
    time_before, cpu_before = time.monotonic(), usage(web1)
    web1.wait(lambda: time.monotonic() > time_before + 10, 20)
    after = usage(web1)
    share = (after.cpu_seconds - cpu_before.cpu_seconds) / (after.at - cpu_before.at)
    memory, highest = limit(web1, "memory", "memory.limit_in_bytes"), limit(web1, "memory", "memory.max_usage_in_bytes")
    quota, period = limit(web1, "cpu", "cpu.cfs_quota_us"), limit(web1, "cpu", "cpu.cfs_period_us")
    print(f"10,000 sockets, a tick a second: {share:.1%} of a processor, at most {highest:,} bytes")
    web1.run("systemctl", "stop", "holder")
    assert (memory, quota / period, limit(web1, "pids", "pids.max")) == (256 << 20, 0.25, 128)
    assert share <= 0.25
    assert highest < memory
    assert show(web1, "NRestarts") == "0"


def in_unit(host: Host, command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command among the processes of the agent's unit, for as long as it takes and 6 s at most."""
    join = f'for name in cpu memory unified; do echo $$ >"/sys/fs/cgroup/$name/system.slice/{AGENT}/cgroup.procs"; done'
    return host.run("sh", "-c", f"{join}; timeout 6 {command}; echo $?")


def test_the_kernel_enforces_the_cap_on_the_processor(service: Service) -> None:
    """A busy loop that is put into the agent's unit gets what the unit may take, and no more."""
    web1 = service.agent("web1")
    before = usage(web1)
    in_unit(web1, "sh -c 'while :; do :; done'")
    after = usage(web1)
    share = (after.cpu_seconds - before.cpu_seconds) / (after.at - before.at)
    print(f"a busy loop in the unit: {share:.1%} of a processor")
    assert 0.10 < share < 0.27


def test_the_kernel_enforces_the_cap_on_memory(service: Service) -> None:
    """A program that is put into the agent's unit and takes more than the unit may take is killed."""
    web1 = service.agent("web1")
    # Of all in the unit it is the one to be killed, so that the agent goes on.
    hungry = "choom --adjust 1000 -- python3 -c 'bytearray({} << 20)'"
    assert in_unit(web1, hungry.format(64)).stdout == "0\n"
    assert in_unit(web1, hungry.format(300)).stdout == f"{128 + 9}\n"
    assert (show(web1, "ActiveState"), show(web1, "NRestarts")) == ("active", "0")


def test_an_idle_agent_takes_next_to_nothing(service: Service) -> None:
    """At the default interval, over the time of the tests before, which touched neither web3 nor the aggregator."""
    web3 = service.agent("web3")
    web3.wait(lambda: time.monotonic() > service.before.at + IDLE_SECONDS, IDLE_SECONDS + 5)
    now = usage(web3)
    share = (now.cpu_seconds - service.before.cpu_seconds) / (now.at - service.before.at)
    memory = web3.run("grep", "VmRSS", f"/proc/{pid(web3)}/status").stdout.split()
    resident = int(memory[1]) * 1024
    print(f"idle for {now.at - service.before.at:.0f} s: {share:.3%} of a core, {resident:,} bytes")
    assert status(web3)["interval_seconds"] == 10
    assert share <= HIGHEST_IDLE_CPU
    assert resident <= HIGHEST_IDLE_RSS


def test_an_agent_and_an_aggregator_that_are_killed_come_back(service: Service) -> None:
    """What was not acknowledged yet is sent by the next process: no sample is lost but those of the pause."""
    web1, hub = service.agent("web1"), service.hub
    former, former_aggregator = pid(web1), pid(hub, AGGREGATOR)
    web1.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", AGENT)
    hub.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", AGGREGATOR)
    hub.wait(lambda: pid(hub, AGGREGATOR) not in (0, former_aggregator), 30, "the aggregator is started again")
    web1.wait(lambda: reports_again(web1, former), SECONDS_TO_RETURN, lambda: str(status(web1)))
    assert (show(web1, "NRestarts"), show(hub, "NRestarts", AGGREGATOR)) == ("1", "1")
    assert Stored.of(service, web1).lost == []


def test_a_reboot_brings_everything_back(service: Service) -> None:
    """Of an agent and, with all that it has stored, of the aggregator."""
    web1, hub = service.agent("web1"), service.hub
    before = Stored.of(service, web1)
    former = pid(web1)
    web1.reboot()
    hub.reboot()
    web1.wait(lambda: reports_again(web1, former), SECONDS_TO_RETURN, lambda: str(status(web1)))
    hub.wait(lambda: service.reporting() == 3, SECONDS_TO_RETURN, "all three report again")
    after = Stored.of(service, web1)
    assert after.samples > before.samples
    assert after.until > before.until
    assert after.lost == []
    assert service.silent() == set()
