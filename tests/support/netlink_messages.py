"""Builds the bytes of NETLINK_SOCK_DIAG answers, as the kernel lays them out."""

from __future__ import annotations

import socket
import struct

from loiter_agent.inet_diag import TCPDIAG_GETSOCK, Chunk, parse_datagram

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_MULTI = 0x2

INET_DIAG_SHUTDOWN = 8
INET_DIAG_MARK = 15
INET_DIAG_CGROUP_ID = 21


def message(payload: bytes, kind: int = TCPDIAG_GETSOCK, sequence: int = 1, flags: int = NLM_F_MULTI) -> bytes:
    """A netlink message, filled up to a multiple of four."""
    header = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 4711)
    return (header + payload).ljust((16 + len(payload) + 3) & ~3, b"\0")


def attribute(kind: int, payload: bytes) -> bytes:
    """A struct rtattr with its payload."""
    return (struct.pack("=HH", 4 + len(payload), kind) + payload).ljust((4 + len(payload) + 3) & ~3, b"\0")


def inet_diag_msg(state: int, inode: int, family: int = socket.AF_INET) -> bytes:
    """A struct inet_diag_msg between two ports of the loopback address."""
    ports = struct.pack("!HH", 8080, 40000)
    host = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    head = struct.pack("=BBBB", family, state, 0, 0)
    return head + ports + host + host + bytes(4 + 8) + struct.pack("=IIIII", 0, 0, 0, 0, inode)


def full_socket(
    state: int,
    inode: int,
    cgroup_id: int | None = 1,
    family: int = socket.AF_INET,
    sequence: int = 1,
    flags: int = NLM_F_MULTI,
) -> bytes:
    """The message of a socket that a file may refer to. All come with these attributes in Linux 5.7 and later."""
    attributes = attribute(INET_DIAG_SHUTDOWN, b"\0") + attribute(INET_DIAG_MARK, bytes(4))
    if cgroup_id is not None:
        attributes += attribute(INET_DIAG_CGROUP_ID, struct.pack("=Q", cgroup_id))
    return message(inet_diag_msg(state, inode, family) + attributes, sequence=sequence, flags=flags)


def mini_socket(state: int, sequence: int = 1, mark: bool = False) -> bytes:
    """The message of a request or TIME_WAIT socket. Those who have CAP_NET_ADMIN see its mark."""
    attributes = attribute(INET_DIAG_MARK, bytes(4)) if mark else b""
    return message(inet_diag_msg(state, 0) + attributes, sequence=sequence)


def done(code: int = 0, sequence: int = 1, flags: int = NLM_F_MULTI) -> bytes:
    """The message that ends a dump: 0, or a negative errno."""
    return message(struct.pack("=i", code), NLMSG_DONE, sequence, flags)


def error(code: int, sequence: int = 1) -> bytes:
    """The message that refuses a request with a negative errno; it holds the header of the request."""
    request = struct.pack("=IHHII", 76, TCPDIAG_GETSOCK, 0x301, sequence, 0)
    return message(struct.pack("=i", code) + request, NLMSG_ERROR, sequence, flags=0)


def chunks(*messages: bytes) -> tuple[Chunk, ...]:
    """What the parser makes of a datagram with these messages."""
    return parse_datagram(memoryview(b"".join(messages)), 1).chunks
