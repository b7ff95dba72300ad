"""A fleet in service: an aggregator and three agents, each on a host with its own systemd, over mutual TLS.

One fleet serves all tests of this file, in the order of the file. Agents of web1 and web2 tick every second, to be
quick; web3 is left alone at the default of 10 s.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import pytest

from support.programs import LEAKLAB
from systemd.debs import Debs
from systemd.lab import Fleet, Host
from systemd.services import (
    AGENT,
    AGGREGATOR,
    EVERY_SECOND,
    Aggregator,
    install,
    introduce,
    pid,
    serve,
    show,
    status,
    wait_for_reports,
)

SECONDS_TO_APPEAR: Final = 30
# How long an agent may need to come back: at most 30 s until it tries again to connect.
SECONDS_TO_RETURN: Final = 60
OUTAGE_REPORTS: Final = 15
IDLE_SECONDS: Final = 60
HIGHEST_IDLE_CPU: Final = 0.003
HIGHEST_IDLE_RSS: Final = 45e6
READINGS: Final = 3

HUB_SETTINGS: Final = """
listen = "0.0.0.0:7433"
listen_readers = "0.0.0.0:7435"
"""
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

    aggregator: Aggregator
    agents: list[Host]
    appeared_seconds: float
    before: Usage

    @property
    def hub(self) -> Host:
        """The host of the aggregator."""
        return self.aggregator.host

    def agent(self, name: str) -> Host:
        """The host of an agent."""
        return next(host for host in self.agents if host.name == name)

    def ask(self, *words: str) -> Any:
        """What the aggregator answers."""
        return self.aggregator.ask(*words)

    def silent(self) -> set[str]:
        """The hosts that were not heard of for some time."""
        return {row["host"] for row in self.ask("fleet")["silent_hosts"]}

    def reporting(self) -> int:
        """How many hosts report."""
        count: int = self.ask("fleet")["coverage"]["hosts_reporting"]
        return count


@pytest.fixture(scope="module")
def service(fleet: Fleet, debs: Debs) -> Service:
    """Installs all of it, the way that the guides have it done."""
    hub, *agents = fleet.hosts("hub", "web1", "web2", "web3")
    aggregator = serve(hub, debs.aggregator)
    aggregator = demand_certificates(aggregator)
    for host in agents:
        host.push(LEAKLAB, "/opt")
        introduce(host, aggregator, "" if host.name == "web3" else EVERY_SECOND)
        show_certificate(host, aggregator)
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: install(host, debs.agent), agents))
    running = Service(aggregator, agents, 0.0, usage(agents[2]))
    hub.wait(lambda: running.reporting() == 3, 120, "three hosts report")
    return replace(running, appeared_seconds=time.monotonic() - started, before=usage(agents[2]))


def demand_certificates(aggregator: Aggregator) -> Aggregator:
    """Has it let agents in by certificates of the authority that it has already, and people connect elsewhere."""
    hub, credential = aggregator.host, "/etc/credstore/loiter-aggregator.client-ca.pem"
    hub.run("install", "-m", "600", "/etc/loiter/ca.pem", credential)
    hub.write("/etc/loiter/aggregator.toml", HUB_SETTINGS)
    hub.run("systemctl", "restart", AGGREGATOR)
    return Aggregator(hub, ("--server", "hub:7435", *aggregator.reader[2:]))


def show_certificate(host: Host, aggregator: Aggregator) -> None:
    """Gives the agent of a host a certificate in place of the token."""
    ca = "/etc/loiter/ca"
    aggregator.host.run("loiter", "ca", "agent", ca, host.name)
    for file, credential in ((f"{host.name}.pem", "certificate"), (f"{host.name}.key", "key")):
        text = aggregator.host.run("cat", f"{ca}/agents/{file}").stdout
        host.write(f"/etc/credstore/loiter-agent.{credential}.pem", text, 0o600)
    host.run("rm", "/etc/credstore/loiter-agent.token")


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


def resident_after_tick(host: Host) -> int:
    """The resident set of an agent, in bytes, when it has just ended a tick: at rest, and not in the middle of one."""
    before = status(host)["ticks"]
    host.wait(lambda: status(host)["ticks"] > before, 20)
    return int(host.run("grep", "VmRSS", f"/proc/{pid(host)}/status").stdout.split()[1]) * 1024


def test_an_idle_agent_takes_next_to_nothing(service: Service) -> None:
    """At the default interval, over the time of the tests before, which touched neither web3 nor the aggregator."""
    web3 = service.agent("web3")
    web3.wait(lambda: time.monotonic() > service.before.at + IDLE_SECONDS, IDLE_SECONDS + 5)
    now = usage(web3)
    share = (now.cpu_seconds - service.before.cpu_seconds) / (now.at - service.before.at)
    readings = [resident_after_tick(web3) for _ in range(READINGS)]
    print(f"idle for {now.at - service.before.at:.0f} s: {share:.3%} of a core, {readings} bytes")
    assert status(web3)["interval_seconds"] == 10
    assert share <= HIGHEST_IDLE_CPU
    assert statistics.median(readings) <= HIGHEST_IDLE_RSS


def test_an_agent_and_an_aggregator_that_are_killed_come_back(service: Service) -> None:
    """What was not acknowledged yet is sent by the next process: no sample is lost but those of the pause."""
    web1, hub = service.agent("web1"), service.hub
    former, former_aggregator = pid(web1), pid(hub, AGGREGATOR)
    web1.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", AGENT)
    hub.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", AGGREGATOR)
    hub.wait(lambda: pid(hub, AGGREGATOR) not in (0, former_aggregator), 30, "the aggregator is started again")
    wait_for_reports(web1, former)
    assert (show(web1, "NRestarts"), show(hub, "NRestarts", AGGREGATOR)) == ("1", "1")
    assert Stored.of(service, web1).lost == []


def test_a_reboot_brings_everything_back(service: Service) -> None:
    """Of an agent and, with all that it has stored, of the aggregator."""
    web1, hub = service.agent("web1"), service.hub
    before = Stored.of(service, web1)
    former = pid(web1)
    web1.reboot()
    hub.reboot()
    wait_for_reports(web1, former)
    hub.wait(lambda: service.reporting() == 3, SECONDS_TO_RETURN, "all three report again")
    after = Stored.of(service, web1)
    assert after.samples > before.samples
    assert after.until > before.until
    assert after.lost == []
    assert service.silent() == set()
