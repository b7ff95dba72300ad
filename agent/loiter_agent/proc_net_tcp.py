"""The text of /proc/PID/net/tcp and tcp6, turned into the bytes that sock_diag would have sent. Pure: no I/O.

The columns are those of the kernel's Documentation/networking/proc_net_tcp.rst, as get_tcp4_sock(),
get_timewait4_sock() and get_openreq4() in net/ipv4/tcp_ipv4.c print them; the bytes are struct inet_diag_msg, see
`inet_diag`. What the text does not have is 0: the interface, the cgroup, and of a listener how many may wait to be
accepted.
"""

from __future__ import annotations

import os
import socket
import struct
import zlib
from typing import Final

from loiter_agent.inet_diag import (
    ALL_STATES,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCPDIAG_GETSOCK,
    Chunk,
)

_NLM_F_MULTI: Final = 0x2
_INET_DIAG_SHUTDOWN: Final = 8

# struct nlmsghdr: length, type, flags, sequence, port id.
_NLMSGHDR: Final = struct.Struct("=IHHII")
# struct inet_diag_msg up to the addresses, the addresses, and what is behind them from the interface on.
_HEAD: Final = struct.Struct("=BBBB")
_PORTS: Final = struct.Struct(">HH")
_TAIL: Final = struct.Struct("=IIIIIIII")
_ADDRESS_BYTES: Final = 16
# An empty mask, filled up to a multiple of four: that the attribute is there tells a full socket from a mini-socket.
_SHUTDOWN: Final = struct.pack("=HHB3x", 5, _INET_DIAG_SHUTDOWN, 0)

_MINI_BYTES: Final = 88
_FULL_BYTES: Final = _MINI_BYTES + len(_SHUTDOWN)
_MINI_HEADER: Final = _NLMSGHDR.pack(_MINI_BYTES, TCPDIAG_GETSOCK, _NLM_F_MULTI, 0, 0)
_FULL_HEADER: Final = _NLMSGHDR.pack(_FULL_BYTES, TCPDIAG_GETSOCK, _NLM_F_MULTI, 0, 0)

_FIELDS: Final = 12  # the least: TIME_WAIT sockets have no more
_MAX_QUEUE: Final = 0xFFFF_FFFF

# Values of the timer column; icsk_probes_out is shown for those two, the retransmissions for the first.
_RETRANSMIT_TIMER: Final = 1
_TIME_WAIT_TIMER: Final = 3
_PROBING_TIMERS: Final = (2, 4)

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


def encode(text: bytes, family: int, states: int = ALL_STATES) -> list[Chunk]:
    """Turns the text of the file of one family, AF_INET or AF_INET6, into chunks: full sockets, then mini-sockets.

    `states` is a bit mask as of `inet_diag.dump_request`; sockets in other states are left out.

    The kernel's cookie of a socket is not in the text. In its place is a hash of the ports and addresses: it is the
    same as long as the connection lasts, and when a later one has the same ends.

    Raises:
        ValueError: The text is no such file, or is cut off.
    """
    try:
        return _encode(text, family, states)
    except struct.error as error:  # a figure that no such field can hold
        raise ValueError(str(error)) from None


def _encode(text: bytes, family: int, states: int) -> list[Chunk]:
    full: list[bytes] = []
    mini: list[bytes] = []
    for line in _lines(text):
        fields = line.split()
        if len(fields) < _FIELDS or len(fields[3]) != 2:
            raise ValueError(f"no line of /proc/net/tcp: {line[:80]!r}")
        state, timer = int(fields[3], 16), int(fields[5][:2], 16)
        # A request socket has no inode; the full sockets in this state, those of TCP Fast Open, do once accepted.
        is_request = state == TCP_SYN_RECV and int(fields[9]) == 0
        if not _wanted(state, is_request, states):
            continue
        message = _message(fields, family, state, timer)
        if is_request or timer == _TIME_WAIT_TIMER:
            mini.append(_MINI_HEADER + message)
        else:
            full.append(_FULL_HEADER + message + _SHUTDOWN)
    return [
        Chunk(memoryview(b"".join(messages)), stride, len(messages))
        for messages, stride in ((full, _FULL_BYTES), (mini, _MINI_BYTES))
        if messages
    ]


def _lines(text: bytes) -> list[bytes]:
    if not text.endswith(b"\n"):
        raise ValueError("the last line is cut off")
    heading, *lines = text.splitlines()
    if heading.split()[:1] != [b"sl"]:
        raise ValueError(f"no heading of /proc/net/tcp: {heading[:80]!r}")
    return lines


def _wanted(state: int, is_request: bool, states: int) -> bool:
    # As inet_diag_dump_icsk() in net/ipv4/inet_diag.c: who asks for SYN_RECV is given request sockets too.
    mask = 1 << state | (1 << TCP_NEW_SYN_RECV if is_request else 0)
    return bool(states & mask)


def _message(fields: list[bytes], family: int, state: int, timer: int) -> bytes:
    """Builds a struct inet_diag_msg from the columns of one line."""
    words = 1 if family == socket.AF_INET else 4
    local, local_port = _end(fields[1], words)
    remote, remote_port = _end(fields[2], words)
    write_queue, _, receive_queue = fields[4].partition(b":")
    ticks = int(fields[5][3:], 16)
    ends = _PORTS.pack(local_port, remote_port) + local + remote
    return (
        _HEAD.pack(family, state, timer, _retransmissions(fields, timer))
        + ends
        + _TAIL.pack(
            0,
            _cookie(ends),
            0,
            ticks * 1_000 // _CLOCK_TICKS if timer else 0,
            int(receive_queue, 16) & _MAX_QUEUE,
            int(write_queue, 16) & _MAX_QUEUE,
            int(fields[7]),
            int(fields[9]) & 0xFFFF_FFFF,  # as wide as in inet_diag_msg
        )
    )


def _end(field: bytes, words: int) -> tuple[bytes, int]:
    """Parses "0100007F:1F90": the address, each word of it printed as a number of this machine, and the port."""
    address, _, port = field.partition(b":")
    if len(address) != 8 * words or len(port) != 4:
        raise ValueError(f"no address and port: {field[:80]!r}")
    numbers = (int(address[at : at + 8], 16) for at in range(0, 8 * words, 8))
    return struct.pack(f"={words}I", *numbers).ljust(_ADDRESS_BYTES, b"\0"), int(port, 16)


def _retransmissions(fields: list[bytes], timer: int) -> int:
    if timer == _RETRANSMIT_TIMER:
        return min(int(fields[6], 16), 255)
    return min(int(fields[8]), 255) if timer in _PROBING_TIMERS else 0


def _cookie(ends: bytes) -> int:
    # Not by hashlib, which loads OpenSSL: 3.4 MB of memory on every host.
    return zlib.crc32(ends)
