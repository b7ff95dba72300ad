"""Network addresses as people type them: HOST:PORT, with an IPv6 host in brackets."""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    """Tells whether HOST:PORT stays on this machine. A name other than localhost is not looked up: it may not."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
