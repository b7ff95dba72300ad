"""Builds the bytes of NETLINK_SOCK_DIAG answers, as the kernel lays them out."""

from __future__ import annotations

import socket
import struct
from typing import Final

from loiter_agent.inet_diag import TCPDIAG_GETSOCK, Chunk, parse_datagram

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_MULTI: Final = 0x2

INET_DIAG_INFO: Final = 2
INET_DIAG_SHUTDOWN: Final = 8
INET_DIAG_SKV6ONLY: Final = 11
INET_DIAG_MARK: Final = 15
INET_DIAG_CGROUP_ID: Final = 21

# An end of a connection: address and port.
End = tuple[str, int]
HERE: Final[End] = ("127.0.0.1", 8080)
THERE: Final[End] = ("127.0.0.1", 40000)


def message(payload: bytes, kind: int = TCPDIAG_GETSOCK, sequence: int = 1, flags: int = NLM_F_MULTI) -> bytes:
    """A netlink message, filled up to a multiple of four."""
    header = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 4711)
    return (header + payload).ljust((16 + len(payload) + 3) & ~3, b"\0")


def attribute(kind: int, payload: bytes) -> bytes:
    """A struct rtattr with its payload."""
    return (struct.pack("=HH", 4 + len(payload), kind) + payload).ljust((4 + len(payload) + 3) & ~3, b"\0")


def connection(local: End = HERE, remote: End = THERE) -> bytes:
    """Ports and addresses as struct inet_diag_sockid has them. IPv4 addresses take the first four of sixteen bytes."""
    return struct.pack("!HH", local[1], remote[1]) + _address(local[0]) + _address(remote[0])


def family_of(end: End) -> int:
    """The address family of an end, by how it is written."""
    return socket.AF_INET6 if ":" in end[0] else socket.AF_INET


def _address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text).ljust(16, b"\0")


def inet_diag_msg(
    state: int,
    inode: int,
    family: int = socket.AF_INET,
    *,
    local: End = HERE,
    remote: End = THERE,
    cookie: int = 0,
    expires: int = 0,
    receive_queue: int = 0,
    write_queue: int = 0,
) -> bytes:
    """A struct inet_diag_msg. `expires` is in milliseconds."""
    head = struct.pack("=BBBB", family, state, 0, 0) + connection(local, remote)
    interface_and_cookie = struct.pack("=IQ", 0, cookie)
    return head + interface_and_cookie + struct.pack("=IIIII", expires, receive_queue, write_queue, 0, inode)


def full_socket(
    state: int,
    inode: int,
    cgroup_id: int | None = 1,
    family: int | None = None,
    sequence: int = 1,
    flags: int = NLM_F_MULTI,
    *,
    local: End = HERE,
    remote: End = THERE,
    cookie: int = 0,
    receive_queue: int = 0,
    write_queue: int = 0,
    more: bytes = b"",
) -> bytes:
    """The message of a socket that a file may refer to. All come with these attributes in Linux 5.7 and later.

    `more` are further attributes, as those of an IPv6 listener, or those that were asked for.
    """
    attributes = attribute(INET_DIAG_SHUTDOWN, b"\0") + attribute(INET_DIAG_MARK, bytes(4))
    if cgroup_id is not None:
        attributes += attribute(INET_DIAG_CGROUP_ID, struct.pack("=Q", cgroup_id))
    body = inet_diag_msg(
        state,
        inode,
        family_of(local) if family is None else family,
        local=local,
        remote=remote,
        cookie=cookie,
        receive_queue=receive_queue,
        write_queue=write_queue,
    )
    return message(body + attributes + more, sequence=sequence, flags=flags)


def mini_socket(
    state: int,
    sequence: int = 1,
    mark: bool = False,
    *,
    local: End = HERE,
    remote: End = THERE,
    cookie: int = 0,
    expires: int = 0,
) -> bytes:
    """The message of a request or TIME_WAIT socket. Those who have CAP_NET_ADMIN see its mark."""
    attributes = attribute(INET_DIAG_MARK, bytes(4)) if mark else b""
    body = inet_diag_msg(state, 0, family_of(local), local=local, remote=remote, cookie=cookie, expires=expires)
    return message(body + attributes, sequence=sequence)


def tcp_info(last_ack_received: int, length: int = 104) -> bytes:
    """INET_DIAG_INFO with a struct tcp_info: tcpi_last_ack_recv is in milliseconds, and nothing else is set."""
    return attribute(INET_DIAG_INFO, (bytes(56) + struct.pack("=I", last_ack_received)).ljust(length, b"\0")[:length])


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
