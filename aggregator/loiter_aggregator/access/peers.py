"""Addresses of peers as gRPC writes them."""

from __future__ import annotations

from urllib.parse import unquote

from loiter.text import printable


def peer_host(peer: str) -> str:
    """The host of `ipv4:10.0.0.7:4242` or `ipv6:%5B::1%5D:4242`, without the port; an IPv4 one as such."""
    kind, _, address = unquote(peer).partition(":")
    if kind in ("ipv4", "ipv6"):
        address = address.rpartition(":")[0].strip("[]")
    return printable(address.removeprefix("::ffff:"))
