"""A control node for Ansible: this machine, in the network of a fleet, with ssh to its hosts as root."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.programs import ROOT
from systemd.lab import Fleet
from systemd.lab.host import Host
from systemd.lab.tools import here

ANSIBLE: Final = ROOT / "deploy" / "ansible"
_PLAYBOOK: Final = Path(sys.executable).with_name("ansible-playbook")
_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Recap:
    """How a run ended: its exit status, what it printed, and for each host how many tasks were ok, changed, failed."""

    status: int
    output: str
    hosts: Mapping[str, Mapping[str, int]]

    @property
    def changed(self) -> int:
        """How many tasks changed something, or in a dry run would have."""
        return sum(counts["changed"] for counts in self.hosts.values())


class ControlNode:
    """Runs playbooks against hosts of a fleet, over ssh with keys of its own."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        """Makes its key. `folder` is for it, what it knows of the hosts, and the inventory."""
        self._fleet = fleet
        self._folder = folder
        self._key = folder / "key"
        self._known_hosts = folder / "known_hosts"
        here("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._key)

    def admit_to(self, hosts: Iterable[Host]) -> None:
        """Starts ssh on hosts, and has them take the key."""
        for host in hosts:
            host.write("/root/.ssh/authorized_keys", self._key.with_suffix(".pub").read_text(), 0o600)
            host.run("ssh-keygen", "-A")
            host.run("systemctl", "start", "ssh.service")
            kind, key = host.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[:2]
            with self._known_hosts.open("a") as known:
                known.write(f"{host.address} {kind} {key}\n")

    def play(
        self, playbook: Path, groups: Mapping[str, Iterable[Host]], variables: Mapping[str, Any], *flags: str
    ) -> Recap:
        """Runs a playbook with an inventory of these groups, and variables for all hosts."""
        inventory = {
            name: {"hosts": {host.name: {"ansible_host": host.address} for host in hosts}}
            for name, hosts in groups.items()
        }
        ssh = f"-o UserKnownHostsFile={self._known_hosts} -o IdentitiesOnly=yes -o ConnectTimeout=10"
        common = {
            "ansible_connection": "ansible.builtin.ssh",
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self._key),
            "ansible_ssh_common_args": ssh,
            "ansible_python_interpreter": "/usr/bin/python3",
            **variables,
        }
        file = self._folder / "inventory.json"
        # The control host itself keeps Ansible's own settings.
        children = {"lab": {"children": {key: {} for key in inventory}, "vars": common}, **inventory}
        file.write_text(json.dumps({"all": {"children": children}}))
        environment = {
            "ANSIBLE_HOME": self._folder / "home",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": self._folder / "ssh",
            "PATH": f"{_PLAYBOOK.parent}:{os.environ['PATH']}",
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        done = self._fleet.run("env", *words, _PLAYBOOK, "-i", file, playbook, *flags, check=False, timeout=_SECONDS)
        return Recap(done.returncode, f"{done.stdout}\n{done.stderr}", _recap(done))


def _recap(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, int]]:
    """Reads the lines `web1 : ok=12 changed=3 …`, the last of what is printed."""
    _, _, lines = done.stdout.partition("PLAY RECAP")
    found = re.findall(r"^(\S+)\s+:((?: +\w+=\d+)+)", lines, re.MULTILINE)
    return {host: {key: int(count) for key, count in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in found}
