"""What tests do with the services of a host, installed from the packages: look at units, and ask both programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from systemd.debs import Debs
from systemd.lab import Host

AGENT: Final = "loiter-agent.service"
AGGREGATOR: Final = "loiter-aggregator.service"
# For tests that wait for ticks: one a second, and none left out for its cost.
EVERY_SECOND: Final = 'interval = "1s"\ncpu_budget = "100%"\n'


@dataclass(frozen=True)
class Aggregator:
    """A host that runs the aggregator, and the flags that one reads by there."""

    host: Host
    reader: Sequence[str] = ()

    def ask(self, *words: str) -> Any:
        """What it answers, as JSON."""
        return json.loads(self.host.run("loiter", *words, "-o", "json", *self.reader).stdout)

    def version_of(self, name: str) -> str | None:
        """The version of the agent that has reported last from a host; None where none has."""
        asked = self.host.run("loiter", "host", name, "-o", "json", *self.reader, check=False)
        return str(json.loads(asked.stdout)["agent_version"]) if asked.returncode == 0 else None


def install(host: Host, *packages: Path, before: Sequence[str] = ()) -> str:
    """Installs packages in one command, and returns what it printed."""
    for package in packages:
        host.push(package, "/root")
    files = (f"/root/{package.name}" for package in packages)
    done = host.run(*before, "apt-get", "install", "-y", *files, timeout=300)
    return done.stdout + done.stderr


def install_both(host: Host, debs: Debs) -> Aggregator:
    """Has a host report to itself every second."""
    host.write("/etc/loiter/agent.toml", EVERY_SECOND)
    install(host, debs.aggregator, debs.agent)
    wait_for_reports(host)
    return Aggregator(host)


def serve(host: Host, package: Path) -> Aggregator:
    """Installs an aggregator and opens it to the fleet, as the guide has it: with TLS and tokens."""
    install(host, package)
    host.run("loiter", "service", "install", "--name", host.name, timeout=120)
    files = ("--ca", "/etc/loiter/ca.pem", "--token-file", "/etc/loiter/read.token")
    return Aggregator(host, ("--server", f"{host.name}:7433", *files))


def introduce(host: Host, aggregator: Aggregator, settings: str = EVERY_SECOND) -> None:
    """Puts there what a roll-out puts there before the package: settings and secrets."""
    host.write("/etc/loiter/agent.toml", f'server = "{aggregator.host.name}:7433"\n{settings}')
    host.run("install", "-d", "-m", "700", "/etc/credstore")
    for file, credential in (("ca.pem", "ca.pem"), ("ingest.token", "token")):
        text = aggregator.host.run("cat", f"/etc/loiter/{file}").stdout
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


def reports(host: Host, former: int = 0, count: int = 1) -> bool:
    """Whether the agent is another process than the former, is connected, and has this many reports acknowledged."""
    now = status(host)
    return bool(now) and now["pid"] != former and now["connected"] and now["acknowledged_reports"] >= count


def wait_for_reports(host: Host, former: int = 0, count: int = 1) -> None:
    """Waits until it does: a start, with RestartSec=5 or a boot, and at most 30 s until it tries again to connect."""
    host.wait(lambda: reports(host, former, count), 60, lambda: f"{host.name} reports: {status(host)}")
