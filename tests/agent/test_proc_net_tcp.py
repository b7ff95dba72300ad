"""The text of /proc/net/tcp and tcp6 in the form of sock_diag, and against what sock_diag itself says."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter_agent.inet_diag import (
    ALL_STATES,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
    TIME_WAIT_STATES,
    Chunk,
)
from loiter_agent.proc_net_tcp import encode
from loiter_agent.sock_diag import SockDiag, TornDumpError
from support.programs import wait_until

HEADING = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    b"                                                     \n"
)
LISTENER = (
    b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000  1000        0 4711 1"
    b" 00000000d1e7b1c8 100 0 0 10 0\n"
)
CLOSE_WAIT = (
    b"   1: 0100007F:1F90 0200007F:C350 08 00000000:00000019 00:00000000 00000000     0        0 4712 1"
    b" 0000000000000000 20 4 30 10 -1\n"
)
RETRANSMITTING = (
    b"   2: 0100007F:C351 0300007F:0050 01 00000400:00000000 01:00000032 00000005     0        0 4713 2"
    b" 0000000000000000 20 4 30 10 -1\n"
)
PROBING = (
    b"   3: 0100007F:C352 0300007F:0050 01 00000400:00000000 04:00000190 00000000     0        7 4714 2"
    b" 0000000000000000 20 4 30 10 -1\n"
)
REQUEST = (
    b"   4: 0100007F:1F90 0400007F:C353 03 00000000:00000000 01:0000005A 00000000     0        0 0 0 0000000000000000\n"
)
TIME_WAIT = (
    b"   5: 0100007F:C354 0300007F:0050 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000000000000\n"
)
FIN_WAIT2 = (
    b"   6: 0100007F:C355 0300007F:0050 05 00000000:00000000 03:00000BB8 00000000     0        0 0 3 0000000000000000\n"
)
TEXT = HEADING + LISTENER + CLOSE_WAIT + RETRANSMITTING + PROBING + REQUEST + TIME_WAIT + FIN_WAIT2

IPV6_LISTENER = (
    b"  sl  local_address                         remote_address                        st\n"
    b"   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000"
    b" 00:00000000 00000000     0        0 4715 1 0000000000000000 100 0 0 10 0\n"
)


def ends(chunk: Chunk, index: int) -> tuple[str, int, str, int]:
    """The addresses and ports of one socket."""
    family = chunk.family(index)
    connection = chunk.connection(index)
    length = 4 if family == socket.AF_INET else 16
    local_port, remote_port = struct.unpack_from("!HH", connection)
    local, remote = (socket.inet_ntop(family, connection[at : at + length]) for at in (4, 20))
    return local, local_port, remote, remote_port


little_endian = pytest.mark.skipif(struct.pack("=H", 1)[0] == 0, reason="the text is of a little-endian machine")


@little_endian
def test_addresses_and_ports_are_those_of_the_text() -> None:
    """Addresses are printed as numbers of the machine, ports as they are said."""
    full, mini = encode(TEXT, socket.AF_INET)
    assert ends(full, 0) == ("127.0.0.1", 8080, "0.0.0.0", 0)
    assert ends(full, 1) == ("127.0.0.1", 8080, "127.0.0.2", 50000)
    assert ends(mini, 1) == ("127.0.0.1", 50004, "127.0.0.3", 80)
    (six,) = encode(IPV6_LISTENER, socket.AF_INET6)
    assert ends(six, 0) == ("::1", 8080, "::", 0)


def test_full_sockets_and_mini_sockets_are_told_apart() -> None:
    """By what the collector goes by: a half-open connection counts as a request socket."""
    full, mini = encode(TEXT, socket.AF_INET)
    assert (full.are_mini_sockets, mini.are_mini_sockets) == (False, True)
    assert full.states() == bytes([TCP_LISTEN, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_ESTABLISHED])
    assert mini.states() == bytes([TCP_NEW_SYN_RECV, TCP_TIME_WAIT, TCP_FIN_WAIT2])
    assert full.inodes() == [4711, 4712, 4713, 4714]
    assert mini.inodes() == [0, 0, 0]
    assert full.cgroup_id(0) is None


def test_queues_are_those_of_the_text() -> None:
    """Of a listener, the receive queue is what waits to be accepted."""
    full, mini = encode(TEXT, socket.AF_INET)
    assert full.receive_queues() == [3, 25, 0, 0]
    assert full.write_queues() == [0, 0, 1024, 1024]
    assert mini.receive_queues() == [0, 0, 0]


def test_timers_are_in_milliseconds() -> None:
    """The text has clock ticks, a hundred a second."""
    full, mini = encode(TEXT, socket.AF_INET)
    assert os.sysconf("SC_CLK_TCK") == 100
    assert full.expires() == [0, 0, 500, 4_000]
    assert mini.expires() == [900, 60_000, 30_000]
    # Retransmissions for the one timer, unanswered probes for the others.
    assert [full.view[index * full.stride + 19] for index in range(4)] == [0, 0, 5, 7]


def test_a_cookie_names_a_connection() -> None:
    """It is the same in every reading, and another for another connection."""
    full, mini = encode(TEXT, socket.AF_INET)
    cookies = full.cookies() + mini.cookies()
    assert len(set(cookies)) == 7
    again, _ = encode(HEADING + CLOSE_WAIT + TIME_WAIT, socket.AF_INET)
    assert again.cookies() == [cookies[1]]


def test_only_the_states_that_are_asked_for_are_there() -> None:
    """The bits are those of a sock_diag request."""
    (mini,) = encode(TEXT, socket.AF_INET, TIME_WAIT_STATES)
    assert mini.states() == bytes([TCP_TIME_WAIT])
    (listener,) = encode(TEXT, socket.AF_INET, 1 << TCP_LISTEN)
    assert listener.inodes() == [4711]
    for state in (TCP_SYN_RECV, TCP_NEW_SYN_RECV):
        (request,) = encode(TEXT, socket.AF_INET, 1 << state)
        assert request.states() == bytes([TCP_NEW_SYN_RECV])


def test_no_sockets_are_no_chunks() -> None:
    """The heading alone is a whole file."""
    assert encode(HEADING, socket.AF_INET) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        LISTENER,
        TEXT[:-1],
        HEADING + LISTENER[:60] + b"\n",
        HEADING + LISTENER.replace(b"0100007F", b"01000"),
        HEADING + LISTENER.replace(b":1F90", b""),
        HEADING + LISTENER.replace(b" 0A ", b" FFFFFFFF "),
        HEADING + LISTENER.replace(b" 4711 ", b" what "),
        HEADING + LISTENER.replace(b" 1000 ", b" -1 "),
        IPV6_LISTENER,
    ],
)
def test_a_text_that_is_torn_is_refused(text: bytes) -> None:
    """Half a line would be half a socket."""
    with pytest.raises(ValueError):  # noqa: PT011 - each has a message of its own
        encode(text, socket.AF_INET)


@given(at=st.integers(0, len(TEXT)), junk=st.binary(max_size=12), cut=st.integers(0, 12))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_no_text_brings_anything_but_a_value_error(at: int, junk: bytes, cut: int) -> None:
    """Whatever is put into it or taken out."""
    with contextlib.suppress(ValueError):
        for chunk in encode(TEXT[:at] + junk + TEXT[at + cut :], socket.AF_INET):
            assert len(chunk.view) == chunk.stride * chunk.count


Facts = tuple[int, tuple[str, int, str, int], int, int]


def facts(chunks: list[Chunk]) -> dict[int, Facts]:
    """State, ends, receive queue and write queue by inode."""
    found = {}
    for chunk in chunks:
        columns = zip(chunk.inodes(), chunk.states(), chunk.receive_queues(), chunk.write_queues(), strict=True)
        for index, (inode, state, received, written) in enumerate(columns):
            # The text does not say how many may wait for a listener.
            found[inode] = (state, ends(chunk, index), received, 0 if state == TCP_LISTEN else written)
    return found


def time_wait(chunks: list[Chunk]) -> dict[tuple[str, int, str, int], int]:
    """The time that is left, by connection."""
    return {
        ends(chunk, index): expires
        for chunk in chunks
        for index, (state, expires) in enumerate(zip(chunk.states(), chunk.expires(), strict=True))
        if state == TCP_TIME_WAIT
    }


def tcp_state(one: socket.socket) -> int:
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def unacknowledged(one: socket.socket) -> int:
    """Bytes (SIOCOUTQ in tcp(7), the same request as TIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(one.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@pytest.mark.parametrize(("family", "name"), [(socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")])
def test_the_text_says_what_sock_diag_says(family: socket.AddressFamily, name: str) -> None:
    """Of sockets of this process in several states: the same bytes, as far as the text has them."""
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((address, 0), family=family, backlog=5))
        except OSError:
            pytest.skip("no IPv6 on this machine")
        clients = [stack.enter_context(socket.create_connection(listener.getsockname()[:2])) for _ in range(4)]
        accepted = [stack.enter_context(listener.accept()[0]) for _ in clients[1:]]  # one waits
        clients[0].sendall(b"unread")
        clients[1].shutdown(socket.SHUT_WR)
        own_end, peer = clients[2].getsockname()[:2], clients[2].getpeername()[:2]
        clients[2].shutdown(socket.SHUT_WR)
        accepted[2].close()
        assert clients[2].recv(1) == b""
        clients[2].close()

        # Acknowledgements may be delayed.
        wait_until(lambda: tcp_state(clients[1]) == TCP_FIN_WAIT2, 5, "the peer has the FIN")
        wait_until(lambda: unacknowledged(clients[0]) == 0, 5, "the peer has what was sent")

        diag = SockDiag()
        dumped: list[Chunk] = []
        with contextlib.suppress(TornDumpError):
            dumped += [
                Chunk(memoryview(bytes(chunk.view)), chunk.stride, chunk.count) for chunk in diag.dump(ALL_STATES)
            ]
        diag.close()
        read = encode(Path(f"/proc/self/net/{name}").read_bytes(), family)

        inodes = [
            os.fstat(one.fileno()).st_ino & 0xFFFF_FFFF for one in (listener, *clients, *accepted) if one.fileno() >= 0
        ]
        assert len(inodes) == 6
        theirs, ours = facts(dumped), facts(read)
        assert {inode: ours[inode] for inode in inodes} == {inode: theirs[inode] for inode in inodes}
        assert ours[inodes[0]][2] == 1
        closed = (*own_end, *peer)
        assert time_wait(read)[closed] == pytest.approx(time_wait(dumped)[closed], abs=2_000)


def test_a_handshake_under_way_is_the_same_in_both() -> None:
    """A connection that its listener defers (TCP_DEFER_ACCEPT in tcp(7)) is a request socket until data comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
        with socket.create_connection(listener.getsockname()) as client:
            expected = (*client.getpeername(), *client.getsockname())
            for mask in (1 << TCP_SYN_RECV, 1 << TCP_NEW_SYN_RECV):
                diag = SockDiag()
                dumped = [Chunk(memoryview(bytes(chunk.view)), chunk.stride, chunk.count) for chunk in diag.dump(mask)]
                diag.close()
                read = encode(Path("/proc/self/net/tcp").read_bytes(), socket.AF_INET, mask)
                for chunks in (dumped, read):
                    found = {
                        ends(chunk, index): state for chunk in chunks for index, state in enumerate(chunk.states())
                    }
                    assert found[expected] == TCP_NEW_SYN_RECV
