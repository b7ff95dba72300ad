"""Dumps of this machine's own sockets, and of a kernel that misbehaves."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from loiter_agent.inet_diag import (
    ALL_STATES,
    INET_DIAG_INFO,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LISTEN,
    TCP_TIME_WAIT,
    TIME_WAIT_STATES,
    SockDiagError,
)
from loiter_agent.sock_diag import SockDiag, TornDumpError, new_buffer
from support.netlink_messages import connection, done, error, full_socket, mini_socket

Answer = Callable[[int], bytes] | OSError


class FakeNetlink:
    """A netlink socket that answers each dump with what it is given: datagrams made for the sequence, or errors."""

    def __init__(self, *dumps: Sequence[Answer]) -> None:
        self._dumps = list(dumps)
        self._queue: list[Answer] = []
        self.sequences: list[int] = []
        self.closed = 0

    def send(self, request: bytes) -> int:
        self.sequences.append(int.from_bytes(request[8:12], sys.byteorder))
        self._queue.extend(self._dumps.pop(0))
        return len(request)

    def recv_into(self, buffer: memoryview, count: int, flags: int) -> int:
        assert (count, flags) == (0, socket.MSG_TRUNC)
        answer = self._queue.pop(0)
        if isinstance(answer, OSError):
            raise answer
        data = answer(self.sequences[-1])
        buffer[: len(data)] = data[: len(buffer)]
        return len(data)

    def close(self) -> None:
        self.closed += 1

    def fileno(self) -> int:
        """As of a closed socket: a SockDiag opens no real one in its place."""
        return -1


def sock_diag_on(netlink: object) -> SockDiag:
    """A SockDiag whose socket is this one."""
    diag = SockDiag()
    diag.close()
    diag._socket = netlink  # type: ignore[assignment]  # as much of a socket as is needed
    return diag


def found(diag: SockDiag, states: int) -> dict[int, int]:
    """The state of each inode, in a dump that may be torn by other tests' sockets."""
    result: dict[int, int] = {}
    with contextlib.suppress(TornDumpError):
        for chunk in diag.dump(states):
            result.update(zip(chunk.inodes(), chunk.states(), strict=True))
    return result


def inode(one: socket.socket) -> int:
    return os.fstat(one.fileno()).st_ino


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    opened = SockDiag()
    yield opened
    opened.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as one:
        yield one


class TestThisKernel:
    def test_own_sockets_are_found_in_their_states(self, diag: SockDiag, listener: socket.socket) -> None:
        """A listener, an established pair and a half-closed pair, by the inodes of their descriptors."""
        with contextlib.ExitStack() as stack:
            pairs = []
            for _ in range(2):
                client = stack.enter_context(socket.create_connection(listener.getsockname()))
                pairs.append((client, stack.enter_context(listener.accept()[0])))
            pairs[1][0].shutdown(socket.SHUT_WR)
            expected = {
                inode(listener): TCP_LISTEN,
                inode(pairs[0][0]): TCP_ESTABLISHED,
                inode(pairs[0][1]): TCP_ESTABLISHED,
                inode(pairs[1][1]): TCP_CLOSE_WAIT,
            }
            states = found(diag, ALL_STATES)
            assert states.items() >= expected.items()
            # Until the acknowledgement of the FIN, which may be delayed, the client is in FIN_WAIT1.
            assert states[inode(pairs[1][0])] in (TCP_FIN_WAIT1, TCP_FIN_WAIT2)

    def test_an_ipv6_socket_comes_in_the_same_dump(self, diag: SockDiag, listener: socket.socket) -> None:
        """One walk of the table yields both families."""
        try:
            listener6 = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError:
            pytest.skip("no IPv6 on this machine")
        with listener6:
            assert found(diag, 1 << TCP_LISTEN).keys() >= {inode(listener), inode(listener6)}

    def test_the_mask_limits_the_states(self, diag: SockDiag, listener: socket.socket) -> None:
        """A listener is not in a dump of TIME_WAIT, and nothing but TIME_WAIT is."""
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            client.shutdown(socket.SHUT_WR)
            server.close()
            assert client.recv(1) == b""  # both sides are done
        seen: set[int] = set()
        with contextlib.suppress(TornDumpError):
            for chunk in diag.dump(TIME_WAIT_STATES):
                seen.update(chunk.states())
        assert seen == {TCP_TIME_WAIT}

    def test_one_socket_serves_many_dumps(self, diag: SockDiag, listener: socket.socket) -> None:
        """Each dump is whole."""
        for _ in range(3):
            assert inode(listener) in found(diag, ALL_STATES)

    def test_a_dump_that_is_given_up_does_not_spoil_the_next(self, diag: SockDiag, listener: socket.socket) -> None:
        """What is left in the socket's queue has another sequence number."""
        with socket.create_connection(listener.getsockname()):
            next(diag.dump(1 << TCP_ESTABLISHED))
            assert set(found(diag, 1 << TCP_LISTEN).values()) == {TCP_LISTEN}

    def test_the_probe_leaves_nothing_bound(self, diag: SockDiag) -> None:
        """Whether this kernel lists bound sockets is asked by binding one, for a moment."""
        before = len(os.listdir("/proc/self/fd"))
        assert diag.lists_bound_inactive() in (True, False)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_what_is_asked_for_comes_along(self, diag: SockDiag, listener: socket.socket) -> None:
        """When the peer was last heard of, in milliseconds; without asking, it is not there."""
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            with server:
                client.shutdown(socket.SHUT_WR)
                assert server.recv(1) == b""
                for extensions, known in ((1 << (INET_DIAG_INFO - 1), True), (0, False)):
                    heard = {
                        number: chunk.last_ack_received(index)
                        for chunk in diag.dump(1 << TCP_CLOSE_WAIT, extensions)
                        for index, number in enumerate(chunk.inodes())
                    }
                    milliseconds = heard[inode(server)]
                    assert (milliseconds is not None) == known
                    assert milliseconds is None or 0 <= milliseconds < 60_000

    def test_the_columns_are_what_the_sockets_say_of_themselves(self, diag: SockDiag, listener: socket.socket) -> None:
        """Ports, addresses and unread bytes, the FIN counting as one; of a listener, its queue and its backlog."""
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            with server, socket.create_connection(listener.getsockname()):
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                server.recv(6, socket.MSG_PEEK | socket.MSG_WAITALL)
                rows: dict[int, tuple[int, int, bytes]] = {}
                for chunk in diag.dump(1 << TCP_CLOSE_WAIT | 1 << TCP_LISTEN):
                    ends = [chunk.connection(index) for index in range(chunk.count)]
                    queues = chunk.receive_queues(), chunk.write_queues()
                    rows.update(zip(chunk.inodes(), zip(*queues, ends, strict=True), strict=True))
                unread, _, ends_of_server = rows[inode(server)]
                assert unread == len(b"hello") + 1
                assert ends_of_server == connection(server.getsockname(), client.getsockname())
                assert rows[inode(listener)][:2] == (1, 64)

    def test_the_cookie_is_the_one_that_the_socket_tells(self, diag: SockDiag, listener: socket.socket) -> None:
        """SO_COOKIE: it stays through every state, and no other socket has it."""
        so_cookie = 57  # include/uapi/asm-generic/socket.h
        cookie = int.from_bytes(listener.getsockopt(socket.SOL_SOCKET, so_cookie, 8), sys.byteorder)
        cookies = {
            number: one
            for chunk in diag.dump(1 << TCP_LISTEN)
            for number, one in zip(chunk.inodes(), chunk.cookies(), strict=True)
        }
        assert cookies[inode(listener)] == cookie & 0xFFFF_FFFF

    def test_several_share_a_buffer(self, listener: socket.socket) -> None:
        """Where they are read one after the other."""
        buffer = new_buffer()
        first, second = SockDiag(buffer=buffer), SockDiag(buffer=buffer)
        try:
            for diag in (first, second, first):
                assert inode(listener) in found(diag, 1 << TCP_LISTEN)
        finally:
            first.close()
            second.close()

    def test_closing_twice_is_harmless(self) -> None:
        """After that, a dump fails as any use of a closed socket does."""
        diag = SockDiag()
        diag.close()
        diag.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            next(diag.dump(ALL_STATES))


class TestMisbehavingKernel:
    def test_a_dump_that_lost_a_part_is_torn_after_its_last_chunk(self) -> None:
        """ENOBUFS means that a datagram was dropped: the rest is yielded first."""
        netlink = FakeNetlink(
            [
                lambda sequence: full_socket(TCP_ESTABLISHED, 11, sequence=sequence),
                OSError(errno.ENOBUFS, "No buffer space available"),
                lambda sequence: full_socket(TCP_ESTABLISHED, 12, sequence=sequence),
                lambda sequence: done(sequence=sequence),
            ]
        )
        chunks = sock_diag_on(netlink).dump(ALL_STATES)
        assert [next(chunks).inodes(), next(chunks).inodes()] == [[11], [12]]
        with pytest.raises(TornDumpError):
            next(chunks)

    def test_an_interrupted_dump_is_torn_after_its_last_chunk(self) -> None:
        """NLM_F_DUMP_INTR says that the table changed: all chunks are yielded first."""
        netlink = FakeNetlink(
            [
                lambda sequence: full_socket(TCP_ESTABLISHED, 11, sequence=sequence, flags=0x12),
                lambda sequence: mini_socket(TCP_TIME_WAIT, sequence) + done(sequence=sequence),
            ]
        )
        chunks = sock_diag_on(netlink).dump(ALL_STATES)
        assert [next(chunks).states(), next(chunks).states()] == [bytes([TCP_ESTABLISHED]), bytes([TCP_TIME_WAIT])]
        with pytest.raises(TornDumpError):
            next(chunks)

    def test_a_torn_dump_does_not_tear_the_next(self) -> None:
        """Each dump starts with a clean record."""
        netlink = FakeNetlink(
            [OSError(errno.ENOBUFS, "No buffer space available"), lambda sequence: done(sequence=sequence)],
            [lambda sequence: full_socket(TCP_ESTABLISHED, 11, sequence=sequence) + done(sequence=sequence)],
        )
        diag = sock_diag_on(netlink)
        with pytest.raises(TornDumpError):
            list(diag.dump(ALL_STATES))
        assert [chunk.inodes() for chunk in diag.dump(ALL_STATES)] == [[11]]

    def test_a_kernel_that_does_not_answer_is_a_timeout(self) -> None:
        """EAGAIN comes of the receive timeout."""
        diag = sock_diag_on(FakeNetlink([BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")]))
        with pytest.raises(SockDiagError) as caught:
            list(diag.dump(ALL_STATES))
        assert caught.value.errno == errno.ETIMEDOUT

    def test_any_other_error_of_the_socket_is_passed_on(self) -> None:
        """It is nothing that sock_diag knows about."""
        diag = sock_diag_on(FakeNetlink([OSError(errno.ENOMEM, "Cannot allocate memory")]))
        with pytest.raises(OSError, match="Cannot allocate memory"):
            list(diag.dump(ALL_STATES))

    def test_a_refused_dump_is_the_kernels_error(self) -> None:
        """NLMSG_ERROR ends the dump at once."""
        diag = sock_diag_on(FakeNetlink([lambda sequence: error(-errno.EPERM, sequence)]))
        with pytest.raises(SockDiagError) as caught:
            list(diag.dump(ALL_STATES))
        assert caught.value.errno == errno.EPERM

    def test_a_datagram_larger_than_the_buffer_is_refused(self) -> None:
        """A cut datagram would be read as a whole one."""
        diag = sock_diag_on(FakeNetlink([lambda sequence: full_socket(1, 1, sequence=sequence) * 1_000]))
        with pytest.raises(SockDiagError) as caught:
            list(diag.dump(ALL_STATES))
        assert caught.value.errno == errno.EMSGSIZE

    def test_every_dump_has_a_sequence_number_of_its_own(self) -> None:
        """And none is 0, even where the count starts over."""
        netlink = FakeNetlink(*[[lambda sequence: done(sequence=sequence)] for _ in range(4)])
        diag = sock_diag_on(netlink)
        list(diag.dump(ALL_STATES))
        list(diag.dump(ALL_STATES))
        diag._sequence = 0x7FFF_FFFE
        list(diag.dump(ALL_STATES))
        list(diag.dump(ALL_STATES))
        assert netlink.sequences == [1, 2, 0x7FFF_FFFF, 1]

    def test_what_is_left_of_an_earlier_dump_is_passed_over(self) -> None:
        """Its sockets are not counted, and its end does not end this dump."""
        netlink = FakeNetlink(
            [lambda sequence: full_socket(1, 11, sequence=sequence)],
            [
                lambda sequence: full_socket(1, 12, sequence=sequence - 1),
                lambda sequence: done(sequence=sequence - 1),
                lambda sequence: full_socket(1, 13, sequence=sequence),
                lambda sequence: done(sequence=sequence),
            ],
        )
        diag = sock_diag_on(netlink)
        next(diag.dump(ALL_STATES))
        assert [chunk.inodes() for chunk in diag.dump(ALL_STATES)] == [[13]]


class TestGivingUp:
    """A dump that is not read to its end."""

    def test_the_next_dump_is_not_disturbed(self, diag: SockDiag) -> None:
        """However much the kernel still had to say: it would refuse a second dump on the same socket as busy."""
        with contextlib.ExitStack() as stack:
            for _ in range(1_500):  # more than fits two datagrams
                bound = stack.enter_context(socket.socket())
                bound.bind(("127.0.0.1", 0))
                bound.listen(1)
            dump = diag.dump(ALL_STATES)
            next(dump)
            dump.close()  # type: ignore[attr-defined]  # a generator
            assert sum(chunk.count for chunk in diag.dump(1 << TCP_LISTEN)) >= 1_500

    def test_a_closed_socket_stays_closed(self) -> None:
        """Also where a dump was under way."""
        diag = SockDiag()
        dump = diag.dump(ALL_STATES)
        next(dump)
        diag.close()
        dump.close()  # type: ignore[attr-defined]  # a generator
        assert diag._socket.fileno() == -1


def test_without_a_free_port_it_is_not_known_whether_bound_sockets_are_listed(
    diag: SockDiag, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host that has run out of ports is the one to look at: sock_diag is to go on."""

    def no_port(self: socket.socket, address: object) -> None:  # noqa: ARG001 - the signature of bind
        raise OSError(errno.EADDRINUSE, "Address already in use")

    assert diag.lists_bound_inactive() is not None
    monkeypatch.setattr(socket.socket, "bind", no_port)
    assert diag.lists_bound_inactive() is None
