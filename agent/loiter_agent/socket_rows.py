"""What is asked of an agent for sockets, and what it finds: the same however they are read. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from loiter.limits import MAX_LISTED_SOCKETS, MAX_MESSAGE_BYTES, MAX_STRING_CHARS
from loiter.v1 import socket_pb2 as pb
from loiter_agent.inet_diag import ALL_STATES, TCP_LISTEN

# Reports wait while an answer is sent: half of what a message may have is enough for it.
_MAX_ANSWER_BYTES: Final = MAX_MESSAGE_BYTES // 2


class GaveWay(Exception):
    """A tick is due: nothing was listed."""


class NothingListed(Exception):
    """What is asked for can not be had; the message says why, to a person."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: the sockets in the states of a bit mask, of one process or of all, and how many at most.

    `named` is whether the states were asked for by name, so that none of them may be passed over.
    """

    limit: int
    states: int = ALL_STATES & ~(1 << TCP_LISTEN)
    pid: int | None = None
    named: bool = False


class SocketRow(NamedTuple):
    """One socket, as Socket of socket.proto has it; times in seconds."""

    state: int
    local: str
    peer: str
    receive_queue: int | None
    send_queue: int | None
    age: float | None
    idle: float | None
    pid: int | None
    name: str
    app: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The sockets that come first, how many match, and what is not known of them. See SocketAnswer."""

    time: datetime
    sockets: tuple[SocketRow, ...]
    matching: int
    namespaces_unread: int | None
    unattributed: int


def read_query(query: pb.SocketQuery) -> Wanted:
    """Reads a question. States that this agent does not know match nothing."""
    limit = min(query.limit or MAX_LISTED_SOCKETS, MAX_LISTED_SOCKETS)
    if not query.states:
        return Wanted(limit, pid=query.pid or None)
    mask = sum({1 << state for state in query.states if 0 < state < ALL_STATES.bit_length()})
    return Wanted(limit, mask, query.pid or None, named=True)


def write_answer(query_id: int, listing: Listing) -> pb.SocketAnswer:
    """Writes an answer. Where names are so long that a message can not hold all, the last sockets are left out."""
    answer = pb.SocketAnswer(
        query_id=query_id,
        matching=listing.matching,
        namespaces_unread=listing.namespaces_unread,
        unattributed=listing.unattributed,
    )
    answer.sample_time.FromDatetime(listing.time)
    size = 0
    for row in listing.sockets:
        message = _socket(row)
        size += message.ByteSize() + 4  # and its tag and length
        if size > _MAX_ANSWER_BYTES:
            break
        answer.sockets.append(message)
    return answer


def refusal(query_id: int, reason: str) -> pb.SocketAnswer:
    """Writes the answer that nothing was read, and why."""
    return pb.SocketAnswer(query_id=query_id, error=_text(reason))


def end_text(address: str, port: int) -> str:
    """Writes one end of a connection, an IPv6 address in brackets; a port that is none as ss(8) does."""
    return f"{f'[{address}]' if ':' in address else address}:{port or '*'}"


def _socket(row: SocketRow) -> pb.Socket:
    message = pb.Socket(
        state=pb.TcpState.ValueType(row.state),
        local=row.local,
        peer=row.peer,
        receive_queue=row.receive_queue,
        send_queue=row.send_queue,
        pid=row.pid,
        name=_text(row.name),
        app=_text(row.app),
        namespace=row.namespace,
    )
    if row.age is not None:
        message.age.FromMilliseconds(round(1_000 * row.age))
    if row.idle is not None:
        message.idle.FromMilliseconds(round(1_000 * row.idle))
    return message


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")[:MAX_STRING_CHARS]
