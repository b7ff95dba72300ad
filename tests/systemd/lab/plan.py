"""What a host is made of, and where that is kept."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from systemd.lab import cgroups, network
from systemd.lab.tools import lab_folder


@dataclass(frozen=True)
class Plan:
    """A host. `layers` are folders laid over each other, the uppermost first; `size` is how much it may write."""

    fleet: str
    name: str
    address: str
    layers: list[str]
    size: str

    @property
    def id(self) -> str:
        """Its name on this machine: of its network namespace, its cgroups and its container."""
        return network.namespace(self.fleet, self.name)

    @property
    def folder(self) -> Path:
        """Where what belongs to it is kept while it runs."""
        return runs_folder() / self.fleet / self.name

    @property
    def nspawn_file(self) -> Path:
        """The file with the pid of systemd-nspawn."""
        return self.folder / "pid"

    @property
    def cgroups(self) -> list[Path]:
        """Its cgroups."""
        return cgroups.folders(self.id)

    def to_word(self) -> str:
        """Writes it as an argument of a program."""
        return json.dumps(asdict(self))

    @classmethod
    def of_word(cls, word: str) -> Self:
        """Reads what `to_word` wrote."""
        return cls(**json.loads(word))


def runs_folder() -> Path:
    """Where what belongs to running hosts is kept, in a folder for each fleet and in it one for each host."""
    return lab_folder() / "run"


def run_lock() -> Path:
    """The lock to be held where hosts are added or taken away."""
    return lab_folder() / "run.lock"
