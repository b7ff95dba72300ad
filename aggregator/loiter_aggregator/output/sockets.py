"""Sockets one by one: as rows, whose keys scripts rely on, and as a table."""

from __future__ import annotations

from typing import Final

from loiter.tcp_states import STATE_NAMES
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import socket_pb2
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import Row, optional_time, seconds, time, value
from loiter_aggregator.output.tables import Column

_STATES: Final = {
    number: name.removeprefix("TCP_STATE_").lower() for name, number in socket_pb2.TcpState.items() if number
}


def state_title(state: str | None) -> str:
    """What ss(8) prints for a state."""
    return cells.text(None if state is None else STATE_NAMES.get(state, state))


def _port(end: str) -> str:
    return cells.text(end.rpartition(":")[2])


SOCKETS: Final = (
    Column("STATE", "state", state_title, right=False, fixed=True),
    Column("AGE", "age_seconds", cells.duration),
    Column("IDLE", "idle_seconds", cells.duration, wide_only=True),
    Column("RECV-Q", "receive_queue", cells.count),
    Column("SEND-Q", "send_queue", cells.count),
    # Addresses of this host take more room than they are worth.
    Column("PORT", "local", _port),
    Column("LOCAL", "local", cells.text, right=False, fixed=True, wide_only=True),
    # Any address of IPv4 with its port.
    Column("PEER", "peer", cells.text, right=False, min_width=21),
    Column("PID", "pid", cells.text),
    Column("APP", "app", cells.text, right=False, min_width=6),
    Column("NAME", "name", cells.text, right=False, wide_only=True),
    Column("NAMESPACE", "namespace", cells.text, right=False, wide_only=True),
)


def socket_row(one: socket_pb2.Socket) -> Row:
    """One socket; what is unknown is None."""
    return {
        "state": _STATES.get(one.state),
        "local": one.local,
        "peer": one.peer,
        "receive_queue": value(one, "receive_queue"),
        "send_queue": value(one, "send_queue"),
        "age_seconds": seconds(one.age) if one.HasField("age") else None,
        "idle_seconds": seconds(one.idle) if one.HasField("idle") else None,
        "pid": value(one, "pid"),
        "name": one.name or None,
        "app": one.app or None,
        "namespace": one.namespace or None,
    }


def document(listed: pb.ListSocketsResponse) -> Row:
    """The answer with the keys that scripts rely on."""
    answer = listed.answer
    return {
        "host": listed.host.hostname,
        "host_id": listed.host.host_id,
        "time": optional_time(answer, "sample_time"),
        "matching": value(answer, "matching"),
        "namespaces_unread": value(answer, "namespaces_unread"),
        "unattributed": answer.unattributed,
        "sockets": [socket_row(one) for one in answer.sockets],
    }


def heading(listed: pb.ListSocketsResponse) -> str:
    """Says whose sockets they are, and of when."""
    return f"sockets of {cells.text(listed.host.hostname)} at {time(listed.answer.sample_time)}"


def summary(answer: socket_pb2.SocketAnswer) -> str:
    """Says in a sentence what an answer rests on, and what it leaves out."""
    shown = len(answer.sockets)
    parts = [f"{shown:,} of {cells.count(value(answer, 'matching'))} sockets"]
    gaps = (
        (answer.unattributed, "of them, of an unknown process"),
        (value(answer, "namespaces_unread"), "network namespaces unread"),
    )
    return "; ".join(parts + [f"{what}: {cells.count(number)}" for number, what in gaps if number != 0])
