"""Reckons with ephemeral ports: how many are used towards a destination, and when there are none left.

A connection that this host opens takes a local port, which no other connection to the same address and port may have.
connect(2) fails with EADDRNOTAVAIL when all of net.ipv4.ip_local_port_range, less ip_local_reserved_ports, are taken:
by live connections, and for 60 s each by those that this side closed first. Where net.ipv4.tcp_tw_reuse allows it,
the kernel takes a port in TIME_WAIT again after tcp_tw_reuse_delay (tcp_twsk_unique() in net/ipv4/tcp_ipv4.c).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from loiter_agent.time_waits import TIME_WAIT_SECONDS

# The present rate is that since the last tick, or of the last ten seconds where that is longer ago.
_PRESENT_SECONDS = 10.0


@dataclass(slots=True)
class Usage:
    """What uses the ports towards one destination.

    Those are live connections, and mini-sockets in TIME_WAIT and FIN_WAIT2, of which the milliseconds left are known.
    """

    live: int = 0
    time_wait: list[int] = field(default_factory=list)
    fin_wait2: list[int] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Ports in use."""
        return self.live + len(self.time_wait) + len(self.fin_wait2)


@dataclass(frozen=True, slots=True)
class Forecast:
    """See PortBudget in sample.proto."""

    reusable: int
    connects_per_second: float | None
    exhausting_connects_per_second: float | None
    exhausted_in_seconds: float | None


def forecast(
    usage: Usage,
    available: int | None,
    live_growth: float | None,
    reuse_after: float | None,
    elapsed: float = _PRESENT_SECONDS,
) -> Forecast:
    """Says when the ports towards a destination run out.

    Where ports in TIME_WAIT are taken again, the rate is a lower bound: those that were, are not in TIME_WAIT any more.

    Args:
        usage: What uses them.
        available: How many there are, None if not known.
        live_growth: By how many the live connections grow in a second; None if not known.
        reuse_after: After how many seconds the kernel takes a port in TIME_WAIT again; None if it does not.
        elapsed: Seconds since the last tick.
    """
    time_wait = sorted(usage.time_wait)
    present = min(elapsed, _PRESENT_SECONDS)
    recent = len(time_wait) - bisect_left(time_wait, 1_000 * (TIME_WAIT_SECONDS - present))
    rate = max(0.0, recent / present + live_growth) if live_growth is not None else None
    if reuse_after is not None:
        reusable = bisect_left(time_wait, 1_000 * (TIME_WAIT_SECONDS - reuse_after))
        left = None
        if available is not None and live_growth is not None and live_growth > 0:
            left = max(0.0, (available - usage.live) / live_growth)
        return Forecast(reusable, rate, None, left)
    exhausting = available / TIME_WAIT_SECONDS if available is not None else None
    left = None
    if available is not None and rate is not None and live_growth is not None:
        left = _seconds_left(usage.live, sorted(time_wait + usage.fin_wait2), available, rate, max(0.0, live_growth))
    return Forecast(0, rate, exhausting, left)


def _seconds_left(live: int, expires: Sequence[int], available: int, rate: float, live_growth: float) -> float | None:
    """When as many ports are used as there are: new connections come at a rate, those in TIME_WAIT go by their timers.

    After 60 s those that closed since then go as fast as they came, and only live connections add up.
    """
    used = live + len(expires)
    if used >= available:
        return 0.0
    if rate <= 0:
        return None
    for gone, milliseconds in enumerate([*expires, 1_000 * TIME_WAIT_SECONDS]):
        seconds = (available - used + gone) / rate
        if seconds * 1_000 <= milliseconds:
            return seconds
    steady = live + rate * TIME_WAIT_SECONDS
    return TIME_WAIT_SECONDS + (available - steady) / live_growth if live_growth > 0 else None
