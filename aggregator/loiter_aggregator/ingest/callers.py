"""What one caller may take, whatever hosts it says it reports for: open streams, and hosts that nobody has heard of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final

from loiter_aggregator.access.principal import Principal
from loiter_aggregator.clock import Clock
from loiter_aggregator.ingest.rates import HourlyBudget

# One agent for each name is the rule; more is an agent that connects again, or a host that is set up anew.
_PER_NAME: Final = 10
_NEW_HOSTS_PER_ADDRESS: Final = 10_000
# What a site or a machine is given, of which it may use any address (RFC 4291, 2.5.1).
_IPV6_PREFIX: Final = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is counted as one: by certificate, else by address, for a token may be that of a whole fleet."""

    key: Hashable
    where: str = field(compare=False)
    names: int | None = field(default=None, compare=False)


def identify(principal: Principal, peer: str) -> Caller:
    """Says as whom to count a caller at an address. Pure."""
    if principal.hostnames is not None:
        return Caller(principal.hostnames, f"with {principal.name}", max(1, len(principal.hostnames)))
    address = network_of(peer)
    return Caller(address, f"from {address}")


def network_of(peer: str) -> str:
    """What counts as one address: an IPv4 one, or the /64 of an IPv6 one."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:  # not by TCP
        return peer
    return peer if address.version == 4 else str(ip_network((address, _IPV6_PREFIX), strict=False))


class TooManyNewHosts(Exception):
    """A caller reports for more hosts than it can have. The message is for the caller."""


class CallerLimits:
    """Counts what callers take."""

    def __init__(self, streams_per_address: int, clock: Clock) -> None:
        """Takes how many streams may come from one address."""
        self._streams_per_address = streams_per_address
        self._clock = clock
        self._streams = Counter[Caller]()
        self._new_hosts = HourlyBudget(_NEW_HOSTS_PER_ADDRESS)

    def enter(self, caller: Caller) -> str | None:
        """Counts a stream in, until `leave`; or says why not."""
        limit = self._streams_per_address if caller.names is None else _PER_NAME * caller.names
        if self._streams[caller] >= limit:
            why = "limits.streams_per_address" if caller.names is None else f"{_PER_NAME} for each name in it"
            return f"{limit:,} agents are connected {caller.where}, as many as may be ({why})"
        self._streams[caller] += 1
        return None

    def leave(self, caller: Caller) -> None:
        """A stream is over."""
        self._streams[caller] -= 1
        if not self._streams[caller]:
            del self._streams[caller]

    def meet(self, caller: Caller) -> None:
        """Counts a host that was never heard of. Raises TooManyNewHosts."""
        limit = _NEW_HOSTS_PER_ADDRESS if caller.names is None else _PER_NAME * caller.names
        if not self._new_hosts.take(caller, self._clock(), limit):
            raise TooManyNewHosts(f"{limit:,} new hosts {caller.where} within an hour, as many as may be")
