"""Lists sockets by psutil, where sock_diag is not to be had: it knows neither queues nor ages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psutil

from loiter_agent.collectors.processes import ProcessScan
from loiter_agent.collectors.tcp_psutil import OWNERLESS_STATES, STATES
from loiter_agent.inet_diag import TCP_CLOSE_WAIT, TCP_TIME_WAIT
from loiter_agent.names import Names
from loiter_agent.sample import ProcessKey
from loiter_agent.socket_rows import Listing, NothingListed, SocketRow, Wanted, end_text


def list_sockets(own_namespace: int | None, names: Names, scan: ProcessScan, wanted: Wanted) -> Listing:
    """Lists the sockets of the agent's own namespace. Raises NothingListed where they can not be read."""
    time = datetime.now(UTC)
    pids = scan.by_pid()
    if wanted.pid is not None and wanted.pid not in pids:
        raise NothingListed(f"there is no process {wanted.pid}, or it may not be seen")
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError) as error:
        raise NothingListed(f"the sockets can not be read: {error}") from None
    found = sorted((_state(one), index) for index, one in enumerate(connections) if _matches(one, wanted))
    order = {TCP_CLOSE_WAIT: 0, TCP_TIME_WAIT: 2}
    found.sort(key=lambda entry: order.get(entry[0], 1))
    shown = [connections[index] for _, index in found[: wanted.limit]]
    return Listing(
        time=time,
        sockets=tuple(_row(one, pids.get(one.pid or 0), names, own_namespace) for one in shown),
        matching=len(found),
        namespaces_unread=None if scan.hides_most else len(scan.namespaces.keys() - {own_namespace}),
        unattributed=sum(one.pid not in pids and one.status not in OWNERLESS_STATES for one in shown),
    )


def _state(connection: Any) -> int:
    return STATES.index(connection.status) + 1 if connection.status in STATES else 0


def _matches(connection: Any, wanted: Wanted) -> bool:
    return bool(wanted.states >> _state(connection) & 1) and wanted.pid in (None, connection.pid)


def _row(connection: Any, key: ProcessKey | None, names: Names, namespace: int | None) -> SocketRow:
    identity = names.of(key) if key is not None else None
    return SocketRow(
        state=_state(connection),
        local=_end(connection.laddr),
        peer=_end(connection.raddr),
        receive_queue=None,
        send_queue=None,
        age=None,
        idle=None,
        pid=key.pid if key is not None else None,
        name=identity.name if identity is not None else "",
        app=identity.app if identity is not None else "",
        namespace=str(namespace) if namespace else "",
    )


def _end(address: Any) -> str:
    # One of IPv4 in an IPv6 socket is the IPv4 address that it is.
    return end_text(address.ip.removeprefix("::ffff:"), address.port) if address else "*:*"
