"""The network of a fleet: a bridge in a namespace of its own, and a cable from it to each host.

Nothing is added to this machine's own network, and fleets of different ids do not see each other: all may have the same
addresses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from systemd.lab.tools import here

# The end of the bridge itself, for what is run in the fleet's network but on this machine.
DESK: Final = "10.77.0.1"
_BRIDGE: Final = "br0"
_NAMES: Final = Path("/run/netns")


def address_of(number: int) -> str:
    """The address of the host of a number, counted from 0."""
    return f"10.77.0.{10 + number}"


def switch(fleet: str) -> str:
    """The name of the network namespace with the bridge."""
    return f"{fleet}-sw"


def namespace(fleet: str, host: str) -> str:
    """The name of the network namespace of a host."""
    return f"{fleet}-{host}"


def path_of(name: str) -> Path:
    """Where a network namespace can be entered by (ip-netns(8))."""
    return _NAMES / name


def plug(fleet: str, host: str, address: str) -> None:
    """Makes the namespace of a host and its cable, and the switch where this is the first. Call under a lock."""
    bridge, own, end = switch(fleet), namespace(fleet, host), f"v-{host}"
    if not path_of(bridge).exists():
        here("ip", "netns", "add", bridge)
        here("ip", "-n", bridge, "link", "add", _BRIDGE, "type", "bridge", "forward_delay", "0")
        here("ip", "-n", bridge, "link", "set", "lo", "up")
        here("ip", "-n", bridge, "link", "set", _BRIDGE, "up")
        here("ip", "-n", bridge, "address", "add", f"{DESK}/24", "dev", _BRIDGE)
    here("ip", "netns", "add", own)
    here("ip", "-n", bridge, "link", "add", end, "type", "veth", "peer", "name", "host0", "netns", own)
    here("ip", "-n", bridge, "link", "set", end, "master", _BRIDGE, "up")
    here("ip", "-n", own, "link", "set", "lo", "up")
    here("ip", "-n", own, "address", "add", f"{address}/24", "dev", "host0")
    here("ip", "-n", own, "link", "set", "host0", "up")
    here("ip", "-n", own, "route", "add", "default", "via", DESK)


def unplug(fleet: str, host: str) -> None:
    """Takes both away, and the switch with the last of them. Call under a lock."""
    bridge = switch(fleet)
    here("ip", "-n", bridge, "link", "delete", f"v-{host}", check=False)
    here("ip", "netns", "delete", namespace(fleet, host), check=False)
    if not here("ip", "-n", bridge, "-o", "link", "show", "type", "veth", check=False).stdout:
        here("ip", "netns", "delete", bridge, check=False)


def set_cable(fleet: str, host: str, state: str) -> None:
    """Sets the cable of a host `up` or `down`."""
    here("ip", "-n", switch(fleet), "link", "set", f"v-{host}", state)
