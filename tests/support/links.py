"""A cable between two network namespaces, which can be cut. For root."""

from __future__ import annotations

import subprocess
from typing import Final

from support.netns import Netns

NEAR_ADDRESS: Final = "10.99.0.1"
FAR_ADDRESS: Final = "10.99.0.2"
_NOWHERE: Final = "02:00:00:00:00:99"


class Link:
    """A pair of interfaces: `near` has NEAR_ADDRESS, `far` has FAR_ADDRESS."""

    def __init__(self, near: Netns, far: Netns) -> None:
        """Connects the two."""
        self._ends = ((near, "near0", NEAR_ADDRESS), (far, "far0", FAR_ADDRESS))
        _ip(near, "link", "add", "near0", "type", "veth", "peer", "name", "far0", "netns", str(far._pid))
        for namespace, device, address in self._ends:
            _ip(namespace, "address", "add", f"{address}/24", "dev", device)
            _ip(namespace, "link", "set", device, "up")

    def unplug(self) -> None:
        """Takes the link down at one end: both ends lose their carrier."""
        _ip(self._ends[0][0], "link", "set", "near0", "down")

    def plug_in(self) -> None:
        """Takes it up again."""
        _ip(self._ends[0][0], "link", "set", "near0", "up")

    def swallow(self) -> None:
        """Has all packets vanish, and neither end notice: each sends to an Ethernet address that nobody has."""
        for namespace, device, _ in self._ends:
            other = NEAR_ADDRESS if device == "far0" else FAR_ADDRESS
            _ip(namespace, "neighbour", "replace", other, "lladdr", _NOWHERE, "dev", device, "nud", "permanent")

    def deliver(self) -> None:
        """Has packets arrive again."""
        for namespace, device, _ in self._ends:
            other = NEAR_ADDRESS if device == "far0" else FAR_ADDRESS
            _ip(namespace, "neighbour", "delete", other, "dev", device)


def _ip(namespace: Netns, *words: str) -> None:
    done = subprocess.run(
        [str(word) for word in namespace.command(["ip", *words])],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.returncode == 0, done.stderr
