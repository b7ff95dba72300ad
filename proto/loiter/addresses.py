"""Network addresses as people type them: HOST:PORT, with an IPv6 host in brackets."""

from __future__ import annotations

import socket


def is_loopback(address: str) -> bool:
    """Tells whether HOST:PORT stays on this machine. A name other than localhost is not looked up: it may not."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, host)
        except OSError:
            continue
        return packed[0] == 127 if family == socket.AF_INET else packed == b"\0" * 15 + b"\1"
    return False
