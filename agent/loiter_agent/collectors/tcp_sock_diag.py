"""Counts TCP sockets by state and by process, from the kernel's own socket table."""

from __future__ import annotations

from collections.abc import Mapping

from loiter_agent import inet_diag
from loiter_agent.collectors.processes import ProcessScan
from loiter_agent.inet_diag import ALL_STATES, TIME_WAIT_STATES
from loiter_agent.owners import Owners
from loiter_agent.procfs import Procfs
from loiter_agent.sample import TcpSnapshot, TcpStates
from loiter_agent.sock_diag import SockDiag, TornDumpError

_ATTEMPTS = 3
# From so many TIME_WAIT sockets on, a dump of their own is cheaper: messages of one length are parsed as columns.
_SPLIT_FROM_TIME_WAIT = 2_000


class SockDiagTcpCollector:
    """Reads sockets by NETLINK_SOCK_DIAG, in the network namespace it was made in."""

    name = "tcp"

    def __init__(self, procfs: Procfs) -> None:
        """Opens the netlink socket. Raises OSError where the kernel refuses it, or refuses to dump."""
        self._procfs = procfs
        self._owners = Owners(procfs)
        self._diag = SockDiag()
        try:
            self._lists_bound_inactive = self._diag.lists_bound_inactive()
        except OSError:
            self._diag.close()
            raise

    def collect(self, scan: ProcessScan) -> TcpSnapshot:
        """Takes a snapshot. Raises OSError where the kernel refuses or breaks off the dump."""
        if self._lists_bound_inactive is None:
            self._lists_bound_inactive = self._diag.lists_bound_inactive()
        masks = self._masks()
        torn = False
        for _ in range(_ATTEMPTS):
            self._owners.begin(scan)
            torn = self._dump(masks)
            if not torn:
                break
        charges = self._owners.finish()
        return TcpSnapshot(
            sampler="sock_diag",
            states=self._states(charges.states),
            by_process=charges.by_process,
            attributed=charges.attributed,
            unattributed=charges.unattributed,
            ownerless=charges.ownerless,
            torn=torn,
        )

    def close(self) -> None:
        """Closes the netlink socket."""
        self._diag.close()

    def _masks(self) -> tuple[int, ...]:
        """Chooses between one walk of the table for all states, and one for TIME_WAIT and one for the rest."""
        if self._procfs.time_wait() < _SPLIT_FROM_TIME_WAIT:
            return (ALL_STATES,)
        return (ALL_STATES & ~TIME_WAIT_STATES, TIME_WAIT_STATES)

    def _dump(self, masks: tuple[int, ...]) -> bool:
        torn = False
        for mask in masks:
            try:
                for chunk in self._diag.dump(mask):
                    self._owners.feed(chunk)
            except TornDumpError:
                torn = True
        return torn

    def _states(self, counts: Mapping[int, int]) -> TcpStates:
        def count(state: int) -> int:
            return counts.get(state, 0)

        return TcpStates(
            established=count(inet_diag.TCP_ESTABLISHED),
            syn_sent=count(inet_diag.TCP_SYN_SENT),
            syn_recv=count(inet_diag.TCP_SYN_RECV),
            fin_wait1=count(inet_diag.TCP_FIN_WAIT1),
            fin_wait2=count(inet_diag.TCP_FIN_WAIT2),
            time_wait=count(inet_diag.TCP_TIME_WAIT),
            close=None,
            close_wait=count(inet_diag.TCP_CLOSE_WAIT),
            last_ack=count(inet_diag.TCP_LAST_ACK),
            listen=count(inet_diag.TCP_LISTEN),
            closing=count(inet_diag.TCP_CLOSING),
            new_syn_recv=count(inet_diag.TCP_NEW_SYN_RECV),
            bound_inactive=count(inet_diag.TCP_BOUND_INACTIVE) if self._lists_bound_inactive else None,
        )
