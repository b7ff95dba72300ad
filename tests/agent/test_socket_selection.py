"""Which sockets of a dump are listed, in which order, and how they are written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loiter.limits import MAX_LISTED_SOCKETS, MAX_MESSAGE_BYTES, MAX_STRING_CHARS
from loiter.v1 import socket_pb2 as pb
from loiter_agent.inet_diag import (
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
    Chunk,
    find_request,
)
from loiter_agent.socket_rows import Listing, SocketRow, Wanted, end_text, read_query, refusal, write_answer
from loiter_agent.socket_selection import Chosen, Selection
from support.netlink_messages import chunks, full_socket, mini_socket, tcp_info

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)


def select(wanted: Wanted, *messages: bytes, inodes: set[int] | None = None) -> tuple[Selection, list[Chosen]]:
    """What is chosen of one datagram."""
    selection = Selection(wanted, inodes)
    for chunk in chunks(*messages):
        selection.feed(7, chunk, chunk.states())
    return selection, selection.chosen()


def states(*numbers: int) -> list[pb.TcpState.ValueType]:
    """States by their numbers, also such as have no name."""
    return [pb.TcpState.ValueType(number) for number in numbers]


def inodes_of(chosen: list[Chosen]) -> list[int]:
    """The sockets by their inodes."""
    return [one.chunk.inodes()[0] for one in chosen]


def close_wait(inode: int, milliseconds: int) -> bytes:
    """A socket that has been in CLOSE_WAIT for so long."""
    return full_socket(TCP_CLOSE_WAIT, inode, more=tcp_info(milliseconds))


def test_close_wait_comes_first_by_age_then_queues_then_time_wait_by_age() -> None:
    """The worst first. TIME_WAIT sockets have no inode, so their age tells them apart."""
    _, chosen = select(
        Wanted(10),
        full_socket(TCP_ESTABLISHED, 1, receive_queue=5, write_queue=6),
        full_socket(TCP_ESTABLISHED, 2, write_queue=4_000_000_000, receive_queue=4_000_000_000),
        mini_socket(TCP_TIME_WAIT, expires=50_000),
        mini_socket(TCP_TIME_WAIT, expires=20_000),
        close_wait(3, 100),
        close_wait(4, 4_000_000_000),
        full_socket(TCP_ESTABLISHED, 5),
    )
    assert inodes_of(chosen) == [4, 3, 2, 1, 5, 0, 0]
    assert [one.age for one in chosen] == [4_000_000, 0.1, None, None, None, 40, 10]


def test_what_there_is_no_room_for_is_counted() -> None:
    """However many match, no more are kept than are shown."""
    selection, chosen = select(Wanted(3), *(close_wait(inode, inode) for inode in range(1, 200)))
    assert (selection.matching, inodes_of(chosen)) == (199, [199, 198, 197])


def test_listeners_are_left_out_unless_they_are_asked_for() -> None:
    """And a connection request is in a state of its own."""
    messages = (
        full_socket(TCP_LISTEN, 1, receive_queue=128, write_queue=128),
        full_socket(TCP_SYN_RECV, 2),
        mini_socket(TCP_SYN_RECV),
    )
    _, chosen = select(Wanted(10), *messages)
    assert sorted(one.state for one in chosen) == [TCP_SYN_RECV, TCP_NEW_SYN_RECV]
    _, chosen = select(read_query(pb.SocketQuery(states=[pb.TCP_STATE_LISTEN])), *messages)
    assert [one.state for one in chosen] == [TCP_LISTEN]


def test_only_the_sockets_of_a_process_match() -> None:
    """By the inodes that its descriptors refer to."""
    messages = [full_socket(TCP_ESTABLISHED, inode) for inode in range(1, 20)] + [mini_socket(TCP_TIME_WAIT)]
    selection, chosen = select(Wanted(10), *messages, inodes={3, 17, 99})
    assert (selection.matching, inodes_of(chosen)) == (2, [3, 17])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=60), st.integers(1, 20))
def test_the_oldest_are_kept_in_whatever_order_they_come(ages: list[int], limit: int) -> None:
    """As if all had been sorted."""
    _, chosen = select(Wanted(limit), *(close_wait(index + 1, age) for index, age in enumerate(ages)))
    assert [one.age for one in chosen] == [age / 1_000 for age in sorted(ages, reverse=True)[:limit]]


def test_a_socket_is_asked_for_by_what_names_it() -> None:
    """Ports, addresses, interface and cookie, as the dump had them."""
    (chunk,) = chunks(full_socket(TCP_ESTABLISHED, 1, cookie=0x1234_5678_9ABC))
    identity = chunk.socket_id(0)
    assert (len(identity), identity[:36]) == (48, chunk.connection(0))
    request = find_request(chunk.family(0), identity, 9, 2)
    assert len(request) == 16 + 4 + 48 + 8
    assert identity in request
    alone = chunk.alone(0)
    assert isinstance(alone, Chunk)
    assert (alone.count, bytes(alone.view)) == (1, bytes(chunk.view))


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (pb.SocketQuery(), Wanted(MAX_LISTED_SOCKETS)),
        (pb.SocketQuery(limit=4_000_000_000, pid=7), Wanted(MAX_LISTED_SOCKETS, pid=7)),
        (pb.SocketQuery(limit=5, states=states(8, 8, 6)), Wanted(5, 1 << 8 | 1 << 6, named=True)),
        (pb.SocketQuery(states=states(0, 14, 2_000_000_000, -3)), Wanted(MAX_LISTED_SOCKETS, 0, named=True)),
    ],
)
def test_a_question_is_read_within_the_limits(query: pb.SocketQuery, wanted: Wanted) -> None:
    """Whatever an aggregator asks for."""
    assert read_query(query) == wanted


def row(**fields: Any) -> SocketRow:
    """A socket of which little is known, and what is said."""
    unknown = SocketRow(8, "127.0.0.1:1", "127.0.0.1:2", None, None, None, None, None, "", "", "")
    return unknown._replace(**fields)


def test_what_is_unknown_is_absent() -> None:
    """It is not 0."""
    first, second = write_answer(4, Listing(NOW, (row(), row(age=1.5, idle=0.0, receive_queue=0)), 9, 1, 2)).sockets
    assert not any(first.HasField(name) for name in ("receive_queue", "send_queue", "age", "idle", "pid"))
    assert second.HasField("idle")
    assert second.HasField("receive_queue")
    assert second.age.ToMilliseconds() == 1_500


def test_it_is_not_always_known_how_many_namespaces_were_not_read() -> None:
    """Where most processes are hidden, it is not 0."""
    assert not write_answer(4, Listing(NOW, (), 0, None, 0)).HasField("namespaces_unread")
    assert write_answer(4, Listing(NOW, (), 0, 0, 0)).HasField("namespaces_unread")


def test_an_answer_fits_a_message_whatever_processes_are_called() -> None:
    """Names are cut, and sockets for which there is no room left out; `matching` says how many there are."""
    hostile = "\N{PILE OF POO}\udc80" * 1_000
    rows = tuple(row(name=hostile, app=hostile, pid=4_194_304) for _ in range(MAX_LISTED_SOCKETS))
    answer = write_answer(4, Listing(NOW, rows, 5_000, 0, 0))
    assert answer.ByteSize() < MAX_MESSAGE_BYTES
    assert 100 < len(answer.sockets) < MAX_LISTED_SOCKETS
    assert (len(answer.sockets[0].name), answer.matching) == (MAX_STRING_CHARS, 5_000)
    assert len(refusal(4, hostile).error) == MAX_STRING_CHARS


def test_ends_are_written_as_ss_does() -> None:
    """With brackets around an address of IPv6, and a star for no port."""
    assert (end_text("::1", 80), end_text("0.0.0.0", 0)) == ("[::1]:80", "0.0.0.0:*")
