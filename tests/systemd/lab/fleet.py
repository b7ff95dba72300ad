"""Hosts that share a network."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from systemd.lab import network
from systemd.lab.host import Host
from systemd.lab.plan import Plan
from systemd.lab.remains import sweep
from systemd.lab.template import template
from systemd.lab.tools import LabError, here

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


class Fleet:
    """Boots hosts, which know each other by name, and takes them down when its block ends."""

    def __init__(self, id: str | None = None, layers: Sequence[Path] = (), size: str = "2g") -> None:
        """Builds the template where there is none, which takes a minute or two.

        Args:
            id: Keeps fleets apart that run at a time: at most six letters and digits. Default: FLEET in the
                environment, or one made of this process's id.
            layers: Folders laid over the template of every host, the uppermost first; they are not changed.
            size: How much a host may write, which takes memory.
        """
        self.id = id or os.environ.get("FLEET") or _id_of(os.getpid())
        if re.fullmatch(r"[a-z][a-z0-9]{0,5}", self.id) is None:
            raise LabError(f"{self.id!r} is no id of a fleet: at most six lower-case letters and digits")
        sweep()
        self._layers = [*map(str, layers), str(template())]
        self._size = size
        self._hosts: dict[str, Host] = {}
        self._ending = ExitStack()

    def host(self, name: str) -> Host:
        """Returns the host of a name, which is booted where it does not run yet."""
        return self.hosts(name)[0]

    def hosts(self, *names: str) -> list[Host]:
        """The same for several, which boot at a time."""
        new = [name for name in dict.fromkeys(names) if name not in self._hosts]
        for name in new:
            self._hosts[name] = self._start(name)
        for name in new:
            self._hosts[name].booted()
        if new:
            self._introduce()
        return [self._hosts[name] for name in names]

    def run(self, *command: str | Path, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a program of this machine in the fleet's network, in which it has the address of `network.DESK`."""
        path = network.path_of(network.switch(self.id))
        return here("nsenter", f"--net={path}", *command, check=check, seconds=timeout)

    def end(self) -> None:
        """Takes every host down at once. Ending twice is harmless."""
        self._hosts.clear()
        self._ending.close()

    def _start(self, name: str) -> Host:
        if re.fullmatch(r"[a-z][a-z0-9]{0,7}", name) is None:
            raise LabError(f"{name!r} is no name of a host: at most eight lower-case letters and digits")
        address = network.address_of(len(self._hosts))
        host = Host(Plan(self.id, name, address, self._layers, self._size))
        self._ending.callback(host.end)
        return host

    def _introduce(self) -> None:
        """Tells every host the names of all."""
        known = [f"{host.address} {host.name}" for host in self._hosts.values()]
        text = "\n".join(["127.0.0.1 localhost", f"{network.DESK} desk", *known, ""])
        for host in self._hosts.values():
            host.run("sh", "-c", "cat >/etc/hosts", input=text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()


def _id_of(number: int) -> str:
    """Writes a process id in few letters: at most six, as it is below 2^22."""
    text = ""
    while number:
        number, digit = divmod(number, len(_DIGITS))
        text = _DIGITS[digit] + text
    return "t" + text
