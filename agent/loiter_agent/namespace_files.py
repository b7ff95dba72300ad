"""Files of procfs that differ from network namespace to network namespace: counters and settings of TCP."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

_READ_BYTES: Final = 65_536
# What the wire takes; the kernel takes negative values of some settings, too.
_LARGEST: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class SockStat:
    """What /proc/PID/net/sockstat and sockstat6 tell about TCP, in constant time.

    `inuse` counts the listeners and the full sockets that have a peer, of IPv4 and IPv6, with or without a process;
    not those that are just bound, nor request sockets. `tw` counts the mini-sockets of TIME_WAIT and FIN_WAIT2.
    `orphan`, the full sockets that no process holds, is of the whole host: sockstat_seq_show() in net/ipv4/proc.c.
    """

    inuse: int
    orphan: int
    tw: int


@dataclass(frozen=True, slots=True)
class NamespaceSettings:
    """Settings of one network namespace (tcp(7), ip(7), Documentation/networking/ip-sysctl.rst). None: unknown.

    `port_range` is the first and the last ephemeral port, `reserved_ports` how many between them are reserved.
    `tw_reuse_delay_ms` is the least age of a TIME_WAIT socket that can be used again; Linux 6.14 and later.
    """

    port_range: tuple[int, int] | None
    reserved_ports: int | None
    tw_reuse: int | None
    tw_reuse_delay_ms: int | None
    max_tw_buckets: int | None


def parse_sock_stat(sockstat: bytes, sockstat6: bytes | None) -> SockStat:
    """Parses net/sockstat and net/sockstat6. There is no such file as the second on a kernel without IPv6.

    Raises ValueError where a figure is not there.
    """
    tcp = _figures(sockstat, b"TCP:")
    inuse6 = _figures(sockstat6, b"TCP6:")[b"inuse"] if sockstat6 is not None else 0
    return SockStat(tcp[b"inuse"] + inuse6, tcp[b"orphan"], tcp[b"tw"])


def _figures(text: bytes, title: bytes) -> dict[bytes, int]:
    for line in text.splitlines():
        words = line.split()
        if words[:1] == [title]:
            figures = dict(zip(words[1::2], map(int, words[2::2]), strict=True))
            if figures.keys() >= ({b"inuse", b"orphan", b"tw"} if title == b"TCP:" else {b"inuse"}):
                return figures
    raise ValueError(f"no line {title.decode()!r} that is whole")


def parse_time_wait_overflows(netstat: bytes) -> int | None:
    """Parses net/netstat: how many sockets were not kept in TIME_WAIT because tcp_max_tw_buckets was reached.

    A line of names comes before each line of figures. None where the kernel does not count this.
    """
    lines = [line.split() for line in netstat.splitlines() if line.startswith(b"TcpExt:")]
    if len(lines) != 2 or len(lines[0]) != len(lines[1]):
        raise ValueError("no two lines 'TcpExt:' that match")
    figures = dict(zip(*lines, strict=True))
    value = figures.get(b"TCPTimeWaitOverflow")
    return int(value) if value is not None else None


def parse_port_range(text: bytes) -> tuple[int, int]:
    """Parses ip_local_port_range: the first and the last port."""
    first, last = text.split()
    return int(first), int(last)


def count_reserved_ports(text: bytes, port_range: tuple[int, int]) -> int:
    """Parses ip_local_reserved_ports, such as "8080,9148-9150", and counts the ports that are within a range."""
    count = 0
    for part in text.strip().split(b","):
        if not part:
            continue
        first, _, last = part.partition(b"-")
        lowest, highest = max(int(first), port_range[0]), min(int(last or first), port_range[1])
        count += max(0, highest - lowest + 1)
    return count


def read_settings(root: str) -> NamespaceSettings:
    """Reads the settings of the reader's own network namespace from a procfs. What can not be read is None."""
    sysctls = f"{root}/sys/net/ipv4"
    port_range = reserved = None
    try:
        port_range = parse_port_range(read_file(f"{sysctls}/ip_local_port_range"))
        reserved = count_reserved_ports(read_file(f"{sysctls}/ip_local_reserved_ports"), port_range)
    except (OSError, ValueError):
        pass  # whichever was not reached is unknown
    return NamespaceSettings(
        port_range,
        reserved,
        tw_reuse=_number(f"{sysctls}/tcp_tw_reuse"),
        tw_reuse_delay_ms=_number(f"{sysctls}/tcp_tw_reuse_delay"),
        max_tw_buckets=_number(f"{sysctls}/tcp_max_tw_buckets"),
    )


def _number(path: str) -> int | None:
    try:
        number = int(read_file(path))
    except (OSError, ValueError):
        return None
    return number if 0 <= number <= _LARGEST else None


def read_file(path: str) -> bytes:
    """Reads a file of procfs whole. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(handle, _READ_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def reread(handle: int) -> bytes:
    """Reads a short file of procfs that is kept open, from its start. It makes its text anew."""
    return os.pread(handle, _READ_BYTES, 0)
