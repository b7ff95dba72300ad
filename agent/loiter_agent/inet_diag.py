"""The bytes of NETLINK_SOCK_DIAG for TCP: builds dump requests and parses what comes back. Pure: no I/O.

Layouts are those of the kernel's include/uapi/linux/netlink.h and include/uapi/linux/inet_diag.h
(https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/inet_diag.h); see also
sock_diag(7). All integers are in the machine's byte order but ports and addresses, which are in network order.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# enum in include/net/tcp_states.h
TCP_ESTABLISHED: Final = 1
TCP_SYN_SENT: Final = 2
TCP_SYN_RECV: Final = 3
TCP_FIN_WAIT1: Final = 4
TCP_FIN_WAIT2: Final = 5
TCP_TIME_WAIT: Final = 6
TCP_CLOSE: Final = 7
TCP_CLOSE_WAIT: Final = 8
TCP_LAST_ACK: Final = 9
TCP_LISTEN: Final = 10
TCP_CLOSING: Final = 11
TCP_NEW_SYN_RECV: Final = 12
TCP_BOUND_INACTIVE: Final = 13

ALL_STATES: Final = (1 << (TCP_BOUND_INACTIVE + 1)) - 2
TIME_WAIT_STATES: Final = 1 << TCP_TIME_WAIT

TCPDIAG_GETSOCK: Final = 18
NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300

# Extensions that may be asked for: the bit of extension N is 1 << (N - 1).
INET_DIAG_INFO: Final = 2
_INET_DIAG_SHUTDOWN: Final = 8
_INET_DIAG_CGROUP_ID: Final = 21

_NLMSGHDR: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_INET_DIAG_REQ: Final = struct.Struct("=BBBB48xII")  # family, src_len, dst_len, extensions, id, states, dbs
_FIND_REQ: Final = struct.Struct("=BBBB48sII")  # the same, with the id of one socket
_RTATTR: Final = struct.Struct("=HH")  # length, type
_CONNECTION: Final = struct.Struct("=9I")
_ERROR: Final = struct.Struct("=i")
_MAX_ERRNO: Final = 4_095  # include/linux/err.h

_HEADER: Final = _NLMSGHDR.size
_DIAG_MSG: Final = 72  # sizeof(struct inet_diag_msg)
_STATE_AT: Final = _HEADER + 1
# struct inet_diag_sockid without the interface and the cookie: ports and addresses.
_CONNECTION_AT: Final = _HEADER + 4
CONNECTION_BYTES: Final = 36
SOCKET_ID_BYTES: Final = 48  # sizeof(struct inet_diag_sockid)
# Columns, as numbers of 32-bit words from the start of a message.
_PORTS: Final = 5  # source and destination
# Both ports, and of the peer's address the word that holds it in IPv4 and the last one in IPv6.
_IDENTIFYING: Final = (_PORTS, 10, 13)
_COOKIE: Final = 15  # the lower half
_EXPIRES: Final = 17
_RQUEUE: Final = 18
_WQUEUE: Final = 19
_INODE: Final = 21
# tcpi_last_data_sent, tcpi_last_data_recv and tcpi_last_ack_recv in struct tcp_info (include/uapi/linux/tcp.h).
_TCPI_LAST_DATA_SENT_AT: Final = 44
_TCPI_LAST_DATA_RECV_AT: Final = 52
_TCPI_LAST_ACK_RECV_AT: Final = 56
_ATTRIBUTES_AT: Final = _HEADER + _DIAG_MSG

_MINI_SOCKET_STATES: Final = bytes.maketrans(bytes([TCP_SYN_RECV]), bytes([TCP_NEW_SYN_RECV]))
_FULL_SOCKET_STATES: Final = bytes.maketrans(bytes([TCP_CLOSE]), bytes([TCP_BOUND_INACTIVE]))


class SockDiagError(OSError):
    """The kernel refused a dump, or sent what is no dump. `errno` is the kernel's, or EBADMSG."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Messages of one length, one behind the other: columns can be cut out of them without looking at each.

    `view` holds `count` messages of `stride` bytes, each a struct nlmsghdr, a struct inet_diag_msg and attributes. It
    is valid until the next datagram is received.
    """

    view: memoryview
    stride: int
    count: int

    def states(self) -> bytes:
        """The TCP state, a byte for each socket, with the two states told apart that a dump sends under another name.

        Request sockets are sent as TCP_SYN_RECV (inet_req_diag_fill() in net/ipv4/inet_diag.c). A socket in TCP_CLOSE
        is in none of the tables that a dump walks but that of bound ports, where it counts as TCP_BOUND_INACTIVE.
        """
        states = bytes(self.view[_STATE_AT :: self.stride])
        return states.translate(_MINI_SOCKET_STATES if self.are_mini_sockets else _FULL_SOCKET_STATES)

    def inodes(self) -> list[int]:
        """The inode of each socket, 0 where no file refers to it."""
        return self._words(_INODE).tolist()

    def cookies(self) -> list[int]:
        """The lower 32 bits of each socket's cookie, which names it for as long as it lives.

        Cookies are counted up from the boot on, so these are not used twice before four thousand million sockets.
        """
        return self._words(_COOKIE).tolist()

    def receive_queues(self) -> list[int]:
        """Bytes of each socket that were not read, a FIN counting as one; of a listener, its accept queue."""
        return self._words(_RQUEUE).tolist()

    def write_queues(self) -> list[int]:
        """Bytes that the peer has not acknowledged; of a listener, how long its accept queue may be."""
        return self._words(_WQUEUE).tolist()

    def expires(self) -> list[int]:
        """Milliseconds until each socket's timer runs out: of TIME_WAIT, how long it stays."""
        return self._words(_EXPIRES).tolist()

    def identifying(self) -> tuple[bytes, bytes, bytes]:
        """Three columns of 32-bit words that tell the connections to one local address apart: `identifying_words`."""
        ports, ipv4, ipv6 = (self._words(word).tobytes() for word in _IDENTIFYING)
        return ports, ipv4, ipv6

    def connection(self, index: int) -> bytes:
        """The ports and addresses of one socket: CONNECTION_BYTES bytes, as in struct inet_diag_sockid."""
        at = index * self.stride + _CONNECTION_AT
        return bytes(self.view[at : at + CONNECTION_BYTES])

    def socket_id(self, index: int) -> bytes:
        """What names one socket to `find_request`: SOCKET_ID_BYTES bytes, a struct inet_diag_sockid."""
        at = index * self.stride + _CONNECTION_AT
        return bytes(self.view[at : at + SOCKET_ID_BYTES])

    def alone(self, index: int) -> Chunk:
        """One socket in a chunk of its own, which remains valid."""
        at = index * self.stride
        return Chunk(memoryview(bytes(self.view[at : at + self.stride])), self.stride, 1)

    def family(self, index: int) -> int:
        """AF_INET or AF_INET6."""
        return self.view[index * self.stride + _HEADER]

    def last_ack_received(self, index: int) -> int | None:
        """Milliseconds since the peer last acknowledged; None where INET_DIAG_INFO was not asked for."""
        return self._info(index, _TCPI_LAST_ACK_RECV_AT)

    def last_data_sent(self, index: int) -> int | None:
        """Milliseconds since data was last sent, keepalives not counted; None as of `last_ack_received`."""
        return self._info(index, _TCPI_LAST_DATA_SENT_AT)

    def last_data_received(self, index: int) -> int | None:
        """Milliseconds since data was last received; None as of `last_ack_received`."""
        return self._info(index, _TCPI_LAST_DATA_RECV_AT)

    def _info(self, index: int, offset: int) -> int | None:
        at = index * self.stride
        info = _attribute(self.view[at : at + self.stride], INET_DIAG_INFO)
        if info is None or len(info) < offset + 4:
            return None
        return int.from_bytes(info[offset : offset + 4], sys.byteorder)

    def _words(self, word: int) -> memoryview:
        return self.view.cast("I")[word :: self.stride // 4]

    def cgroup_id(self, index: int) -> int | None:
        """The cgroup-v2 id of one socket: the inode number of the cgroup's folder. None before Linux 5.7."""
        at = index * self.stride
        value = _attribute(self.view[at : at + self.stride], _INET_DIAG_CGROUP_ID)
        return int.from_bytes(value, sys.byteorder) if value is not None and len(value) == 8 else None

    @property
    def are_mini_sockets(self) -> bool:
        """Whether these are request or TIME_WAIT sockets, which lack the attributes that every full socket has.

        struct request_sock and struct inet_timewait_sock are no full sockets (sk_fullsock() in include/net/sock.h).
        For full sockets, net/ipv4/inet_diag.c puts INET_DIAG_SHUTDOWN first; for the others INET_DIAG_MARK, or nothing.
        """
        if self.stride < _ATTRIBUTES_AT + _RTATTR.size:
            return True
        kind: int = _RTATTR.unpack_from(self.view, _ATTRIBUTES_AT)[1]
        return kind != _INET_DIAG_SHUTDOWN


@dataclass(frozen=True, slots=True)
class Datagram:
    """One datagram of a dump. `interrupted`: NLM_F_DUMP_INTR was set. `last`: the dump ends here."""

    chunks: tuple[Chunk, ...]
    interrupted: bool
    last: bool


def identifying_words(connection: bytes) -> tuple[int, ...]:
    """The words of a connection that `Chunk.identifying` gives the columns of."""
    words = _CONNECTION.unpack(connection)
    return tuple(words[word - _PORTS] for word in _IDENTIFYING)


def dump_request(states: int, sequence: int, extensions: int = 0) -> bytes:
    """Builds a request for all TCP sockets in the states of a bit mask, IPv4 and IPv6 in one walk of the table.

    Uses TCPDIAG_GETSOCK, the older of the two request types: it takes no family and so dumps both, which halves what
    walking the hash table costs. `extensions` is a bit mask of what is to come along, such as
    1 << (INET_DIAG_INFO - 1); each full socket comes with its cgroup id all the same.
    """
    length = _HEADER + _INET_DIAG_REQ.size
    header = _NLMSGHDR.pack(length, TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0)
    return header + _INET_DIAG_REQ.pack(0, 0, 0, extensions, states, 0)


def find_request(family: int, socket_id: bytes, sequence: int, extensions: int) -> bytes:
    """Builds a request for one socket, by its `Chunk.socket_id`: the kernel looks it up without a walk.

    It is answered by one message, or by NLMSG_ERROR with ENOENT where the socket is gone.
    """
    length = _HEADER + _INET_DIAG_REQ.size
    header = _NLMSGHDR.pack(length, TCPDIAG_GETSOCK, NLM_F_REQUEST, sequence, 0)
    return header + _FIND_REQ.pack(family, 0, 0, extensions, socket_id, ALL_STATES, 0)


def parse_datagram(data: memoryview, sequence: int) -> Datagram:
    """Parses one datagram that answers the request with this sequence number.

    Messages with another sequence number are left over from an earlier dump and passed over.

    Raises:
        SockDiagError: NLMSG_ERROR, NLMSG_DONE with an error, or bytes that are no messages.
    """
    chunk = _uniform(data, sequence)
    if chunk is not None:
        return Datagram((chunk,), interrupted=False, last=False)
    by_length: dict[int, list[memoryview]] = {}
    interrupted = last = False
    for kind, flags, message in _messages(data, sequence):
        interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
        if kind == NLMSG_NOOP:
            continue
        if kind in (NLMSG_ERROR, NLMSG_DONE):
            _raise_if_error(kind, message)
            last = True
            break
        if len(message) < _ATTRIBUTES_AT:
            raise SockDiagError(errno.EBADMSG, f"a message of {len(message)} bytes is too short for inet_diag_msg")
        by_length.setdefault(len(message), []).append(message)
    chunks = tuple(
        Chunk(memoryview(b"".join(messages)), length, len(messages)) for length, messages in by_length.items()
    )
    return Datagram(chunks, interrupted, last)


def _uniform(data: memoryview, sequence: int) -> Chunk | None:
    """Recognizes a datagram whose messages are all of one length and kind: nearly all datagrams of a large dump."""
    if len(data) < _ATTRIBUTES_AT or len(data) % 4:
        return None
    length, kind, flags, first_sequence, _ = _NLMSGHDR.unpack_from(data)
    if kind != TCPDIAG_GETSOCK or flags & NLM_F_DUMP_INTR or first_sequence != sequence:
        return None
    count = len(data) // length if length >= _ATTRIBUTES_AT and length % 4 == 0 else 0
    if count * length != len(data):
        return None
    words = data.cast("I")
    step = length // 4
    # The first three words of every message: length, type and flags, sequence.
    for word in range(3):
        if words[word::step].tobytes() != words[word : word + 1].tobytes() * count:
            return None
    return Chunk(data, length, count)


def _messages(data: memoryview, sequence: int) -> Iterator[tuple[int, int, memoryview]]:
    """Yields type, flags and bytes of each message, cut to a multiple of four."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER:
            raise SockDiagError(errno.EBADMSG, f"{len(data) - at} bytes are left over, too few for a netlink header")
        length, kind, flags, message_sequence, _ = _NLMSGHDR.unpack_from(data, at)
        if length < _HEADER or at + length > len(data):
            raise SockDiagError(errno.EBADMSG, f"a message of {length} bytes does not fit the {len(data) - at} left")
        padded = (length + 3) & ~3
        if message_sequence == sequence:
            message = data[at : at + padded]
            if len(message) < padded:
                message = memoryview(bytes(message).ljust(padded, b"\0"))
            yield kind, flags, message
        at += padded


def _raise_if_error(kind: int, message: memoryview) -> None:
    if len(message) >= _HEADER + _ERROR.size:
        (code,) = _ERROR.unpack_from(message, _HEADER)
        if code < -_MAX_ERRNO:
            raise SockDiagError(errno.EBADMSG, f"the kernel answered a dump request with {code}, which is no errno")
        if code < 0:
            raise SockDiagError(-code, os.strerror(-code))
    if kind == NLMSG_ERROR:
        raise SockDiagError(errno.EBADMSG, "the kernel answered a dump request with an acknowledgement")


def _attribute(message: memoryview, wanted: int) -> memoryview | None:
    """Finds the value of an attribute of a message."""
    at = _ATTRIBUTES_AT
    while at + _RTATTR.size <= len(message):
        length, kind = _RTATTR.unpack_from(message, at)
        if length < _RTATTR.size or at + length > len(message):
            return None
        if kind == wanted:
            return message[at + _RTATTR.size : at + length]
        at += (length + 3) & ~3
    return None
