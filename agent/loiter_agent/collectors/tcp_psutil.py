"""Counts TCP sockets by state and by process with psutil, where sock_diag is refused or absent.

psutil reads /proc/net/tcp{,6} and every descriptor of every process on each tick: right as a fallback, many times too
dear as the rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import psutil

from loiter_agent.collectors.processes import ProcessScan
from loiter_agent.procfs import Procfs
from loiter_agent.sample import Namespace, ProcessKey, ProcessSockets, TcpCounts, TcpSnapshot, TcpStates

if TYPE_CHECKING:
    from loiter_agent.names import Names
    from loiter_agent.socket_rows import Listing, Wanted

# States in which no descriptor need refer to the socket (any longer, or yet).
OWNERLESS_STATES: Final = frozenset(
    {
        psutil.CONN_TIME_WAIT,
        psutil.CONN_SYN_RECV,
        psutil.CONN_FIN_WAIT1,
        psutil.CONN_FIN_WAIT2,
        psutil.CONN_CLOSING,
        psutil.CONN_LAST_ACK,
    }
)
# In the order of the enum in include/net/tcp_states.h of the kernel, from 1 on.
STATES: Final = (
    psutil.CONN_ESTABLISHED,
    psutil.CONN_SYN_SENT,
    psutil.CONN_SYN_RECV,
    psutil.CONN_FIN_WAIT1,
    psutil.CONN_FIN_WAIT2,
    psutil.CONN_TIME_WAIT,
    psutil.CONN_CLOSE,
    psutil.CONN_CLOSE_WAIT,
    psutil.CONN_LAST_ACK,
    psutil.CONN_LISTEN,
    psutil.CONN_CLOSING,
)


class PsutilTcpCollector:
    """Reads sockets by psutil, in the network namespace of this process."""

    name = "tcp"

    def __init__(self, procfs: Procfs) -> None:
        """Takes the procfs whose namespace psutil reads."""
        self._procfs = procfs

    def collect(self, scan: ProcessScan, detailed: bool = True) -> TcpSnapshot:  # noqa: ARG002 - there is no detail
        """Takes a snapshot. Raises OSError where /proc/net/tcp can not be read."""
        pids = scan.by_pid()
        states: Counter[str] = Counter()
        charged: Counter[tuple[ProcessKey, str]] = Counter()
        unattributed = ownerless = 0
        try:
            connections = psutil.net_connections(kind="tcp")
        except psutil.Error as error:
            raise OSError(f"psutil could not list the sockets: {error}") from None
        for connection in connections:
            states[connection.status] += 1
            if connection.pid is not None and connection.pid in pids:
                charged[pids[connection.pid], connection.status] += 1
            elif connection.status in OWNERLESS_STATES:
                ownerless += 1
            else:
                unattributed += 1
        return TcpSnapshot(
            sampler="psutil",
            states=_states(states),
            by_process=_by_process(charged),
            attributed=charged.total(),
            unattributed=unattributed,
            ownerless=ownerless,
            torn=False,
            namespaces=(Namespace(own, "", "psutil"),) if (own := self._procfs.own_network_namespace()) else (),
        )

    def set_interval(self, interval: float) -> None:
        """Keeps nothing from one snapshot to the next."""

    def count(self) -> TcpCounts:
        """Counts sockets by state: no descriptor is looked at. Raises OSError where /proc/net/tcp can not be read."""
        counts: Counter[str] = Counter()
        for name in ("tcp", "tcp6"):
            try:
                lines = (self._procfs.root / "net" / name).read_bytes().splitlines()[1:]
            except FileNotFoundError:
                continue  # a kernel without IPv6
            counts.update(STATES[int(line.split(None, 4)[3], 16) - 1] for line in lines)
        return TcpCounts("psutil", _states(counts))

    def list_sockets(self, scan: ProcessScan, names: Names, wanted: Wanted, due: Callable[[], bool]) -> Listing:  # noqa: ARG002 - psutil can not be broken off
        """Lists sockets one by one. Raises NothingListed where they can not be read."""
        from loiter_agent.socket_listing_psutil import list_sockets  # late: hardly ever asked for

        return list_sockets(self._procfs.own_network_namespace(), names, scan, wanted)

    def close(self) -> None:
        """Holds nothing open."""


def _states(counts: Counter[str]) -> TcpStates:
    # /proc/net/tcp shows connection requests as SYN_RECV, so those two can not be told apart; it lists neither closed
    # nor bound inactive sockets.
    return TcpStates(
        established=counts[psutil.CONN_ESTABLISHED],
        syn_sent=counts[psutil.CONN_SYN_SENT],
        syn_recv=counts[psutil.CONN_SYN_RECV],
        fin_wait1=counts[psutil.CONN_FIN_WAIT1],
        fin_wait2=counts[psutil.CONN_FIN_WAIT2],
        time_wait=counts[psutil.CONN_TIME_WAIT],
        close=None,
        close_wait=counts[psutil.CONN_CLOSE_WAIT],
        last_ack=counts[psutil.CONN_LAST_ACK],
        listen=counts[psutil.CONN_LISTEN],
        closing=counts[psutil.CONN_CLOSING],
        new_syn_recv=None,
        bound_inactive=None,
    )


def _by_process(charged: Counter[tuple[ProcessKey, str]]) -> dict[ProcessKey, ProcessSockets]:
    totals: Counter[ProcessKey] = Counter()
    for (key, _), count in charged.items():
        totals[key] += count
    return {
        key: ProcessSockets(charged[key, psutil.CONN_ESTABLISHED], charged[key, psutil.CONN_CLOSE_WAIT], total)
        for key, total in totals.items()
    }
