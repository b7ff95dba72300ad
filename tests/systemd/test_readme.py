"""The three commands of README.md, run as they stand there."""

from __future__ import annotations

import re
from typing import Final

from support.programs import ROOT
from systemd.debs import Debs
from systemd.lab import Fleet, Host

# What a reader puts in the place of names and files of his own.
HOSTS: Final = ("web1", "web2")
NAMES: Final = {"aggregator.example": "agg", "web1 web2 web3": " ".join(HOSTS)}


def commands() -> list[str]:
    """The blocks of code of the section that are commands, with the names of the lab."""
    _, _, rest = (ROOT / "README.md").read_text().partition("\n## From nothing to a ranking\n")
    blocks = re.findall(r"(?:^ {4}.*\n)+", rest.partition("\n## ")[0], re.MULTILINE)
    [aggregator, agents, ranking] = [block for block in blocks if re.match(r" {4}(apt-get|for|loiter) ", block)]
    found = [aggregator, agents, ranking]
    for name, own in NAMES.items():
        assert any(name in command for command in found), name
        found = [command.replace(name, own) for command in found]
    return found


def test_three_commands_take_a_fleet_from_nothing_to_a_ranking(fleet: Fleet, debs: Debs) -> None:
    """On hosts that let root of the aggregator's in by ssh, which is all that the README asks for."""
    aggregator, *agents = fleet.hosts("agg", *HOSTS)
    for package in (debs.aggregator, debs.agent):
        aggregator.push(package, "/root")
    let_in(aggregator, agents)
    for command in commands():
        said = aggregator.run("bash", "-c", f"cd && {command}", timeout=300).stdout
    assert "apps by close-wait-growth" in said
    assert f"{len(HOSTS)} of {len(HOSTS)} hosts reporting" in said
    for host in agents:
        assert host.run("ls", "/root/ingest.token", check=False).returncode != 0


def let_in(root: Host, hosts: list[Host]) -> None:
    """Lets root of one host in on others, by ssh."""
    root.run("install", "-d", "-m", "700", "/root/.ssh")
    root.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
    public = root.run("cat", "/root/.ssh/id_ed25519.pub").stdout
    known = ""
    for host in hosts:
        host.write("/root/.ssh/authorized_keys", public, 0o600)
        host.run("ssh-keygen", "-A")
        host.run("systemctl", "start", "ssh.service")
        known += f"{host.name} {host.run('cat', '/etc/ssh/ssh_host_ed25519_key.pub').stdout}"
    root.write("/root/.ssh/known_hosts", known, 0o600)
