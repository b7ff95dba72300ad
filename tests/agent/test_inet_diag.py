"""The parser of NETLINK_SOCK_DIAG: captured dumps, and datagrams that no healthy kernel sends."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loiter_agent import inet_diag
from loiter_agent.inet_diag import (
    ALL_STATES,
    TCP_BOUND_INACTIVE,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
    Chunk,
    Datagram,
    SockDiagError,
    dump_request,
    identifying_words,
    parse_datagram,
)
from support.netlink_messages import (
    INET_DIAG_CGROUP_ID,
    INET_DIAG_INFO,
    INET_DIAG_SHUTDOWN,
    INET_DIAG_SKV6ONLY,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    attribute,
    chunks,
    done,
    error,
    full_socket,
    inet_diag_msg,
    message,
    mini_socket,
    tcp_info,
)

FIXTURES = Path(__file__).parent.parent / "fixtures"
TRUTH: dict[str, Any] = json.loads((FIXTURES / "sock_diag.json").read_text("ascii"))

properties = settings(derandomize=True, max_examples=150, deadline=None, database=None)


def parse(data: bytes, sequence: int = 1) -> Datagram:
    return parse_datagram(memoryview(data), sequence)


def captured(dump: str) -> list[Datagram]:
    return [parse((FIXTURES / name).read_bytes(), TRUTH["sequence"]) for name in TRUTH["dumps"][dump]]


def sockets(datagram: Datagram) -> Counter[tuple[int, int, int | None]]:
    """State, inode and cgroup id of each socket."""
    found: Counter[tuple[int, int, int | None]] = Counter()
    for chunk in datagram.chunks:
        cgroups = [chunk.cgroup_id(index) for index in range(chunk.count)]
        found.update(zip(chunk.states(), chunk.inodes(), cgroups, strict=True))
    return found


def captured_sockets(dump: str) -> Counter[tuple[int, int, int | None]]:
    found: Counter[tuple[int, int, int | None]] = Counter()
    for datagram in captured(dump):
        found += sockets(datagram)
    return found


class TestCapturedDumps:
    def test_every_socket_that_was_made_is_found_in_its_state(self) -> None:
        """The inodes that fstat() gave are in the dump, each under the state that its socket was brought into."""
        found: dict[int, set[int]] = {}
        for state, inode, _ in captured_sockets("all"):
            found.setdefault(state, set()).add(inode)
        for name, inodes in TRUTH["inodes"].items():
            assert found[getattr(inet_diag, f"TCP_{name.upper()}")] - {0} == set(inodes), name

    def test_time_wait_sockets_have_no_inode(self) -> None:
        """The kernel keeps no owner of a TIME_WAIT socket: its inode is 0, and it has no cgroup."""
        found = [(inode, cgroup) for state, inode, cgroup in captured_sockets("all").elements() if state == 6]
        assert found == [(0, None)] * TRUTH["time_waits"]

    def test_a_connection_request_reads_as_new_syn_recv(self) -> None:
        """Request sockets are sent as TCP_SYN_RECV, but are no full sockets in that state."""
        states = Counter(state for state, _, _ in captured_sockets("all").elements())
        assert states[TCP_NEW_SYN_RECV] == TRUTH["requests"]
        assert states[TCP_SYN_RECV] == 0

    def test_a_bound_socket_reads_as_bound_inactive(self) -> None:
        """Bound sockets are sent as TCP_CLOSE, which no dump holds otherwise."""
        states = Counter(state for state, _, _ in captured_sockets("all").elements())
        assert states[TCP_BOUND_INACTIVE] == len(TRUTH["inodes"]["bound_inactive"])
        assert states[TCP_CLOSE] == 0

    def test_full_sockets_carry_the_cgroup_of_their_maker(self) -> None:
        """The cgroup id of each socket with an inode is the inode number of its maker's cgroup folder."""
        cgroups = {cgroup for _, inode, cgroup in captured_sockets("all") if inode}
        assert cgroups == {TRUTH["cgroup_id"]}

    def test_a_socket_that_waits_to_be_accepted_belongs_to_no_file(self) -> None:
        """It is established and has no inode yet."""
        found = [inode for state, inode, _ in captured_sockets("all").elements() if state == TCP_ESTABLISHED]
        assert found.count(0) == 1

    def test_both_address_families_come_in_one_dump(self) -> None:
        """By the first byte of inet_diag_msg."""
        chunks_of = (chunk for datagram in captured("established") for chunk in datagram.chunks)
        families = {byte for chunk in chunks_of for byte in bytes(chunk.view[16 :: chunk.stride])}
        assert families == {socket.AF_INET, socket.AF_INET6}

    @pytest.mark.parametrize("dump", ["established", "time_wait"])
    def test_sockets_of_one_kind_are_one_chunk_of_the_datagram_itself(self, dump: str) -> None:
        """Nothing is copied where all messages have one length."""
        data = memoryview((FIXTURES / TRUTH["dumps"][dump][0]).read_bytes())
        (chunk,) = parse_datagram(data, TRUTH["sequence"]).chunks
        assert chunk.view.obj is data.obj
        assert chunk.count * chunk.stride == len(data)

    @pytest.mark.parametrize("dump", ["all", "established", "time_wait", "listen"])
    def test_only_the_last_datagram_ends_the_dump(self, dump: str) -> None:
        """NLMSG_DONE comes once, behind all sockets."""
        assert [datagram.last for datagram in captured(dump)] == [False] * (len(TRUTH["dumps"][dump]) - 1) + [True]
        assert not any(datagram.interrupted for datagram in captured(dump))

    @pytest.mark.parametrize("dump", ["all", "established", "time_wait", "listen"])
    def test_a_dump_of_another_sequence_is_passed_over(self, dump: str) -> None:
        """What is left of an earlier dump yields neither sockets nor an end."""
        for name in TRUTH["dumps"][dump]:
            other = parse((FIXTURES / name).read_bytes(), TRUTH["sequence"] + 1)
            assert other == Datagram((), interrupted=False, last=False)

    def test_every_cut_of_a_captured_datagram_is_refused_or_parsed(self) -> None:
        """A datagram that ends early never raises anything but SockDiagError."""
        data = (FIXTURES / TRUTH["dumps"]["listen"][0]).read_bytes()
        whole = len(sockets(parse(data)))
        for length in range(len(data)):
            with contextlib.suppress(SockDiagError):
                assert len(sockets(parse(data[:length]))) <= whole


class TestRequest:
    def test_a_request_asks_for_both_families_and_no_extensions(self) -> None:
        """A struct nlmsghdr, then a struct inet_diag_req of zeros but for the states."""
        request = dump_request(ALL_STATES, 7)
        assert struct.unpack_from("=IHHII", request) == (76, 18, 0x301, 7, 0)
        assert len(request) == 76
        assert request[16:] == bytes(52) + struct.pack("=II", ALL_STATES, 0)

    def test_extensions_are_asked_for_by_their_bits(self) -> None:
        """In the fourth byte of struct inet_diag_req."""
        request = dump_request(1 << TCP_CLOSE_WAIT, 7, 1 << (INET_DIAG_INFO - 1))
        assert request[16:20] == bytes([0, 0, 0, 2])
        assert request[20:] == dump_request(1 << TCP_CLOSE_WAIT, 7)[20:]

    def test_all_states_are_those_of_the_kernel(self) -> None:
        """Bits 1 to 13; bit 0 is no state."""
        states = range(TCP_ESTABLISHED, TCP_BOUND_INACTIVE + 1)
        assert sum(1 << state for state in states) == ALL_STATES


class TestDatagrams:
    def test_messages_of_one_length_become_one_chunk(self) -> None:
        """Columns hold one entry a message, in their order."""
        (chunk,) = parse(full_socket(TCP_ESTABLISHED, 11) + full_socket(TCP_CLOSE_WAIT, 12, cgroup_id=99)).chunks
        assert chunk.count == 2
        assert chunk.states() == bytes([TCP_ESTABLISHED, TCP_CLOSE_WAIT])
        assert chunk.inodes() == [11, 12]
        assert [chunk.cgroup_id(index) for index in range(2)] == [1, 99]

    def test_messages_of_several_lengths_become_a_chunk_each(self) -> None:
        """Mini-sockets and full sockets stand in one datagram, in any order."""
        data = full_socket(TCP_ESTABLISHED, 11) + mini_socket(TCP_TIME_WAIT) + full_socket(TCP_CLOSE_WAIT, 12)
        full, mini = parse(data).chunks
        assert (full.inodes(), full.are_mini_sockets) == ([11, 12], False)
        assert (mini.inodes(), mini.are_mini_sockets) == ([0], True)

    @pytest.mark.parametrize("mark", [False, True])
    def test_syn_recv_is_told_apart_by_the_kind_of_socket(self, mark: bool) -> None:
        """A mini-socket is a connection request; a full socket in that state came by TCP Fast Open."""
        (mini,) = parse(mini_socket(TCP_SYN_RECV, mark=mark)).chunks
        (full,) = parse(full_socket(TCP_SYN_RECV, 5)).chunks
        assert mini.states() == bytes([TCP_NEW_SYN_RECV])
        assert full.states() == bytes([TCP_SYN_RECV])

    def test_a_closed_socket_reads_as_bound_inactive(self) -> None:
        """A dump lists closed sockets from the table of bound ports alone."""
        (chunk,) = parse(full_socket(TCP_CLOSE, 5)).chunks
        assert chunk.states() == bytes([TCP_BOUND_INACTIVE])

    def test_a_kernel_without_cgroup_ids_leaves_them_unknown(self) -> None:
        """Before Linux 5.7 the attribute is absent."""
        (chunk,) = parse(full_socket(TCP_ESTABLISHED, 11, cgroup_id=None) + full_socket(1, 2, cgroup_id=None)).chunks
        assert chunk.cgroup_id(0) is None

    @pytest.mark.parametrize(
        "attributes",
        [
            struct.pack("=HH", 0, INET_DIAG_CGROUP_ID) + bytes(12),
            struct.pack("=HH", 200, INET_DIAG_CGROUP_ID) + bytes(12),
            attribute(INET_DIAG_CGROUP_ID, bytes(4)) + bytes(8),
        ],
        ids=["length zero", "longer than the message", "of another size"],
    )
    def test_broken_attributes_leave_the_cgroup_unknown(self, attributes: bytes) -> None:
        """They neither raise nor go round in circles."""
        (chunk,) = parse(message(inet_diag_msg(TCP_ESTABLISHED, 3) + attributes)).chunks
        assert chunk.cgroup_id(0) is None

    def test_a_dump_may_end_in_the_datagram_of_its_last_sockets(self) -> None:
        """NLMSG_DONE behind sockets ends the dump and keeps them."""
        datagram = parse(full_socket(TCP_ESTABLISHED, 11) + done())
        assert datagram.last
        assert [chunk.inodes() for chunk in datagram.chunks] == [[11]]

    def test_what_stands_behind_the_end_is_not_read(self) -> None:
        """The kernel puts nothing there."""
        datagram = parse(done() + full_socket(TCP_ESTABLISHED, 11))
        assert datagram == Datagram((), interrupted=False, last=True)

    def test_an_end_without_a_code_is_an_end(self) -> None:
        """Only a negative code is an error."""
        assert parse(message(b"", NLMSG_DONE)).last

    def test_an_end_with_an_error_code_is_that_error(self) -> None:
        """A dump that failed on its way says so in NLMSG_DONE."""
        with pytest.raises(SockDiagError) as caught:
            parse(full_socket(TCP_ESTABLISHED, 11) + done(-errno.ENOMEM))
        assert caught.value.errno == errno.ENOMEM

    @pytest.mark.parametrize("code", [errno.EPERM, errno.ENOENT])
    def test_a_refused_request_is_the_kernels_error(self, code: int) -> None:
        """EPERM comes of a security module, ENOENT of a kernel without the module inet_diag."""
        with pytest.raises(SockDiagError) as caught:
            parse(error(-code))
        assert caught.value.errno == code

    @pytest.mark.parametrize("data", [error(0), message(b"", NLMSG_ERROR)], ids=["code 0", "no code"])
    def test_an_acknowledgement_is_no_answer_to_a_dump(self, data: bytes) -> None:
        """NLMSG_ERROR with 0 acknowledges, which was not asked for."""
        with pytest.raises(SockDiagError) as caught:
            parse(data)
        assert caught.value.errno == errno.EBADMSG

    def test_an_error_for_another_request_is_passed_over(self) -> None:
        """It answers an earlier dump."""
        assert parse(error(-errno.EBUSY, sequence=1), sequence=2) == Datagram((), interrupted=False, last=False)

    def test_a_noop_is_passed_over(self) -> None:
        """NLMSG_NOOP holds no socket."""
        datagram = parse(message(bytes(4), NLMSG_NOOP) + full_socket(TCP_ESTABLISHED, 11))
        assert [chunk.inodes() for chunk in datagram.chunks] == [[11]]

    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_an_interrupted_dump_says_so_and_keeps_its_sockets(self, position: int) -> None:
        """NLM_F_DUMP_INTR may stand on any message."""
        flags = [2, 2, 2]
        flags[position] |= inet_diag.NLM_F_DUMP_INTR
        datagram = parse(b"".join(full_socket(TCP_ESTABLISHED, 10 + n, flags=flag) for n, flag in enumerate(flags)))
        assert datagram.interrupted
        assert sum(chunk.count for chunk in datagram.chunks) == 3

    def test_an_interruption_may_stand_on_the_end_alone(self) -> None:
        """The kernel sets the flag on whatever it writes after the change."""
        datagram = parse(done(flags=2 | inet_diag.NLM_F_DUMP_INTR))
        assert datagram.interrupted
        assert datagram.last

    def test_left_over_messages_do_not_mix_with_those_of_this_dump(self) -> None:
        """Messages with another sequence number are passed over one by one."""
        data = full_socket(1, 11, sequence=1) + full_socket(1, 22, sequence=2) + done(sequence=1)
        datagram = parse(data, sequence=2)
        assert [chunk.inodes() for chunk in datagram.chunks] == [[22]]
        assert not datagram.last

    def test_an_empty_datagram_holds_nothing(self) -> None:
        """No message, no end."""
        assert parse(b"") == Datagram((), interrupted=False, last=False)

    @pytest.mark.parametrize(
        "data",
        [
            bytes(7),
            full_socket(TCP_ESTABLISHED, 11) + bytes(8),
            struct.pack("=IHHII", 200, 18, 2, 1, 0) + bytes(100),
            struct.pack("=IHHII", 0, 18, 2, 1, 0) + bytes(72),
            struct.pack("=IHHII", 15, 18, 2, 1, 0) + bytes(72),
            message(bytes(40)),
        ],
        ids=[
            "truncated header",
            "truncated header behind a message",
            "message longer than the datagram",
            "length zero",
            "length below the header's",
            "too short for inet_diag_msg",
        ],
    )
    def test_bytes_that_are_no_messages_are_refused(self, data: bytes) -> None:
        """EBADMSG, whatever is wrong."""
        with pytest.raises(SockDiagError) as caught:
            parse(data)
        assert caught.value.errno == errno.EBADMSG

    @pytest.mark.parametrize("odd", [1, 2, 3])
    def test_messages_of_an_odd_size_are_filled_up(self, odd: int) -> None:
        """The last message of a datagram may lack its padding."""
        payload = inet_diag_msg(TCP_TIME_WAIT, 0) + bytes(odd)
        unpadded = struct.pack("=IHHII", 16 + len(payload), 18, 2, 1, 0) + payload
        padded = message(payload)
        (chunk,) = parse(padded + unpadded).chunks
        assert (chunk.count, chunk.stride) == (2, len(padded))
        assert chunk.states() == bytes([TCP_TIME_WAIT] * 2)


class TestColumns:
    """What is cut out of messages that lie one behind the other."""

    def test_queues_timers_and_cookies_are_those_of_each_socket(self) -> None:
        """One entry a message; of a cookie, the lower half names a socket for as long as anybody remembers it."""
        full = [
            full_socket(TCP_CLOSE_WAIT, 11, cookie=(7 << 32) + 1, receive_queue=25, write_queue=0),
            full_socket(TCP_LISTEN, 12, cookie=2, receive_queue=3, write_queue=128),
        ]
        (chunk,) = parse(b"".join(full)).chunks
        assert (chunk.receive_queues(), chunk.write_queues()) == ([25, 3], [0, 128])
        assert chunk.cookies() == [1, 2]
        minis = [mini_socket(TCP_TIME_WAIT, cookie=number, expires=1_000 * number) for number in (5, 60)]
        (chunk,) = parse(b"".join(minis)).chunks
        assert (chunk.cookies(), chunk.expires()) == ([5, 60], [5_000, 60_000])

    def test_both_ends_of_a_connection_are_told(self) -> None:
        """Ports in the order of the network; an IPv4 address takes the first four bytes of sixteen."""
        local, remote = ("10.0.0.1", 8080), ("10.0.0.2", 40_000)
        six = (("2001:db8::1", 443), ("2001:db8::2", 50_000))
        made = [
            full_socket(TCP_ESTABLISHED, 1, local=local, remote=remote),
            full_socket(TCP_ESTABLISHED, 2, local=six[0], remote=six[1]),
        ]
        (chunk,) = parse(b"".join(made)).chunks
        assert [chunk.family(index) for index in range(2)] == [socket.AF_INET, socket.AF_INET6]
        first, second = (chunk.connection(index) for index in range(2))
        assert struct.unpack("!HH", first[:4]) == (8080, 40_000)
        assert first[4:20] == socket.inet_aton("10.0.0.1") + bytes(12)
        assert first[20:] == socket.inet_aton("10.0.0.2") + bytes(12)
        assert second[4:20] + second[20:] == b"".join(socket.inet_pton(socket.AF_INET6, end[0]) for end in six)
        assert len(first) == inet_diag.CONNECTION_BYTES
        columns = (struct.unpack("=2I", column) for column in chunk.identifying())
        assert list(zip(*columns, strict=True)) == [identifying_words(first), identifying_words(second)]

    def test_the_other_way_round_is_another_connection(self) -> None:
        """Both ends may be on this host."""
        there, back = (
            parse(full_socket(TCP_ESTABLISHED, 1, local=one, remote=other)).chunks[0].connection(0)
            for one, other in ((("127.0.0.1", 1), ("127.0.0.1", 2)), (("127.0.0.1", 2), ("127.0.0.1", 1)))
        )
        assert there != back
        assert identifying_words(there) != identifying_words(back)

    def test_when_the_peer_was_last_heard_of_is_in_what_was_asked_for(self) -> None:
        """Milliseconds, in struct tcp_info; wherever it stands among the attributes."""
        (chunk,) = parse(full_socket(TCP_CLOSE_WAIT, 1, more=tcp_info(86_400_000))).chunks
        assert chunk.last_ack_received(0) == 86_400_000
        assert chunk.cgroup_id(0) == 1

    @pytest.mark.parametrize("more", [b"", tcp_info(5, length=56)], ids=["not asked for", "of an old kernel"])
    def test_without_it_is_not_known(self, more: bytes) -> None:
        """Not 0."""
        (chunk,) = parse(full_socket(TCP_CLOSE_WAIT, 1, more=more)).chunks
        assert chunk.last_ack_received(0) is None

    def test_a_listener_of_ipv6_has_a_message_of_another_length(self) -> None:
        """INET_DIAG_SKV6ONLY: it is in a chunk of its own, behind connections that may be to it."""
        six = full_socket(TCP_LISTEN, 2, local=("::", 80), remote=("::", 0), more=attribute(INET_DIAG_SKV6ONLY, b"\0"))
        first, second = parse(full_socket(TCP_LISTEN, 1) + six + full_socket(TCP_ESTABLISHED, 3)).chunks
        assert (first.inodes(), second.inodes()) == ([1, 3], [2])


states = st.integers(0, 255)
inodes = st.integers(0, 2**32 - 1)


class TestProperties:
    @properties
    @given(
        st.lists(st.tuples(states, inodes, st.sampled_from((2, 10))), min_size=1, max_size=30),
        st.none() | st.integers(0, 2**64 - 1),
    )
    def test_the_fast_path_and_the_generic_path_agree(
        self, made: list[tuple[int, int, int]], cgroup_id: int | None
    ) -> None:
        """The same messages are read alike, alone in a datagram or beside one of another length."""
        data = b"".join(full_socket(state, inode, cgroup_id, family) for state, inode, family in made)
        (uniform,) = parse(data).chunks
        mixed, stranger = parse(data + mini_socket(TCP_TIME_WAIT)).chunks
        assert stranger.count == 1
        assert columns(mixed) == columns(uniform)
        assert uniform.inodes() == [inode for _, inode, _ in made]

    @properties
    @given(st.lists(st.tuples(states, st.booleans()), min_size=1, max_size=30))
    def test_mini_sockets_are_read_alike_on_both_paths(self, made: list[tuple[int, bool]]) -> None:
        """However the lengths mix, each message is read once."""
        data = b"".join(mini_socket(state, mark=mark) for state, mark in made)
        read: list[int] = []
        for chunk in parse(data).chunks:
            assert chunk.are_mini_sockets
            read.extend(chunk.states())
        expected = [TCP_NEW_SYN_RECV if state == TCP_SYN_RECV else state for state, _ in made]
        assert Counter(read) == Counter(expected)

    @properties
    @given(st.binary(max_size=400))
    def test_any_bytes_are_refused_or_parsed(self, data: bytes) -> None:
        """No other exception leaves the parser."""
        touch(data)

    @properties
    @given(st.data())
    def test_any_damage_to_a_dump_is_refused_or_parsed(self, data: st.DataObject) -> None:
        """Bytes of a captured datagram are changed, which reaches deeper than bytes drawn at random."""
        names = [name for names in TRUTH["dumps"].values() for name in names]
        damaged = bytearray((FIXTURES / data.draw(st.sampled_from(names))).read_bytes()[:600])
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(damaged) - 1))
            damaged[at] = data.draw(st.integers(0, 255))
        touch(bytes(damaged))


def columns(chunk: Chunk) -> tuple[bytes, list[int], list[int | None]]:
    cgroups = [chunk.cgroup_id(index) for index in range(chunk.count)]
    return chunk.states(), chunk.inodes(), cgroups


def touch(data: bytes) -> None:
    """Parses, and reads every column; only SockDiagError may come of it."""
    try:
        datagram = parse(data)
    except SockDiagError:
        return
    for chunk in datagram.chunks:
        states, inodes, _ = columns(chunk)
        assert len(states) == len(inodes) == chunk.count


def test_a_full_socket_of_an_old_kernel_is_no_mini_socket() -> None:
    """Before Linux 5.7, and without CAP_NET_ADMIN, it has no attribute but INET_DIAG_SHUTDOWN: it is as long as a
    mini-socket with its mark."""
    old = message(inet_diag_msg(TCP_SYN_RECV, 4711) + attribute(INET_DIAG_SHUTDOWN, b"\0"))
    (full,) = chunks(old)
    (mini,) = chunks(mini_socket(TCP_SYN_RECV, mark=True))
    assert full.stride == mini.stride
    assert (full.are_mini_sockets, list(full.states())) == (False, [TCP_SYN_RECV])
    assert (mini.are_mini_sockets, list(mini.states())) == (True, [TCP_NEW_SYN_RECV])
