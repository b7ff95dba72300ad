"""Chooses how TCP sockets are read: by sock_diag, or by psutil where that is refused or absent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from loiter.logs import fields
from loiter_agent.collectors.processes import ProcessScan
from loiter_agent.collectors.tcp_psutil import PsutilTcpCollector
from loiter_agent.collectors.tcp_sock_diag import SockDiagTcpCollector
from loiter_agent.procfs import Procfs
from loiter_agent.sample import TcpCounts, TcpSnapshot
from loiter_agent.time_waits import Tracer

if TYPE_CHECKING:
    from loiter_agent.names import Names
    from loiter_agent.socket_rows import Listing, Wanted

_log = logging.getLogger(__name__)


class TcpCollector(Protocol):
    """Takes snapshots of the TCP sockets."""

    name: str

    def collect(self, scan: ProcessScan, detailed: bool = True) -> TcpSnapshot:
        """Takes one. Raises OSError where the sockets can not be read.

        Without `detailed`, it does not look into CLOSE_WAIT sockets, nor for whose those in TIME_WAIT were.
        """

    def count(self) -> TcpCounts:
        """Counts sockets by state and does nothing else. Raises OSError where they can not be read."""

    def list_sockets(self, scan: ProcessScan, names: Names, wanted: Wanted, due: Callable[[], bool]) -> Listing:
        """Lists sockets one by one, between two snapshots. Raises GaveWay once one is `due`, and NothingListed."""

    def set_interval(self, interval: float) -> None:
        """Changes the time between two snapshots, in seconds."""

    def close(self) -> None:
        """Lets go of what it holds open."""


def open_tcp_collector(procfs: Procfs, interval: float, trace_closes: bool) -> TcpCollector:
    """Opens the best collector this host allows, and says in the log when that is not sock_diag."""
    try:
        return SockDiagTcpCollector(procfs, interval, _open_tracer if trace_closes else _no_tracer)
    except OSError as error:
        _log.warning(
            "sock_diag is not to be had (%s); reading sockets by psutil, at a higher cost",
            error,
            extra=fields(reason=error),
        )
        return PsutilTcpCollector(procfs)


def _no_tracer() -> Tracer | None:
    return None


def _open_tracer() -> Tracer | None:
    """Opens the tracer of closes where the kernel allows it, which few agents may ask of it: nothing to warn of."""
    from loiter_agent.close_tracer import CloseTracer

    try:
        return CloseTracer()
    except OSError as error:
        _log.debug("closes are not traced: %s", error)
        return None
