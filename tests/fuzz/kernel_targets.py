"""What the kernel is read by: netlink messages and the text of procfs, whatever bytes they hold."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fuzz.oracle import is_refusal
from loiter_agent import namespace_files, procfs
from loiter_agent.identity import app_name, container_of, service_unit
from loiter_agent.inet_diag import Chunk, SockDiagError, identifying_words, parse_datagram
from loiter_agent.namespaces import parse_namespace_mounts
from loiter_agent.places import destination_text, local_port, peer_of, place_of, same_connection
from loiter_agent.proc_net_tcp import encode

SEQUENCE: Final = 1


def netlink(data: bytes) -> None:
    """A datagram of a dump. It is refused by SockDiagError, or every socket in it can be looked at."""
    try:
        datagram = parse_datagram(memoryview(data), SEQUENCE)
    except SockDiagError as error:
        is_refusal(error)
        return
    # A message that is not a multiple of four long is filled up to one.
    assert sum(chunk.count * chunk.stride for chunk in datagram.chunks) <= len(data) + 3
    for chunk in datagram.chunks:
        look_at(chunk)


def look_at(chunk: Chunk) -> None:
    """Reads all that a chunk has to say."""
    assert chunk.count * chunk.stride == len(chunk.view)
    columns = (
        chunk.states(),
        chunk.inodes(),
        chunk.cookies(),
        chunk.receive_queues(),
        chunk.write_queues(),
        chunk.expires(),
    )
    assert {len(column) for column in columns} == {chunk.count}
    assert {len(words) for words in chunk.identifying()} == {4 * chunk.count}
    for index in range(chunk.count):
        connection = chunk.connection(index)
        identifying_words(connection)
        cgroup, acked, sent = chunk.cgroup_id(index), chunk.last_ack_received(index), chunk.last_data_sent(index)
        assert all(value is None or value >= 0 for value in (cgroup, acked, sent))
        accepted = local_port(connection) < peer_of(connection)[1]
        place = place_of(1, 2, chunk.family(index), connection, accepted, cgroup)
        # An IPv4 address of more than four bytes can look like one in an IPv6 socket.
        assert same_connection(place, connection) or chunk.family(index) != socket.AF_INET6
        assert destination_text(place).isprintable()


def proc_net_tcp(data: bytes) -> None:
    """/proc/PID/net/tcp or tcp6, by the first byte. It is refused by ValueError, or reads as a dump would."""
    family = socket.AF_INET6 if data[:1] == b"6" else socket.AF_INET
    try:
        chunks = encode(data[1:], family)
    except ValueError:
        return
    for chunk in chunks:
        look_at(chunk)


def _limits(text: bytes) -> None:
    soft, hard = procfs.parse_open_files_limits(text)
    assert all(limit is None or isinstance(limit, int) for limit in (soft, hard))


def _cgroup(text: bytes) -> None:
    paths = [procfs.parse_unified_cgroup(text), procfs.parse_systemd_cgroup(text), procfs.parse_cpu_cgroup(text)]
    for path in (*procfs.parse_cgroups(text), *(path for path in paths if path is not None)):
        container_of(path)
        procfs.CgroupMount(Path("/sys/fs/cgroup"), "/").folders(path)


def _mountinfo(text: bytes) -> None:
    for controller in (None, "cpu", "pids"):
        procfs.parse_cgroup_mount(text, controller)
    procfs.parse_cgroup2_mount(text)
    procfs.parse_hidepid(text, "/proc")
    assert all(inode >= 0 and path for inode, path in parse_namespace_mounts(text))


def _stat(text: bytes) -> None:
    procfs.parse_stat(text)
    assert len(procfs.parse_state(text)) <= 1


def _sockstat(text: bytes) -> None:
    sockstat, _, sockstat6 = text.partition(b"\0")
    namespace_files.parse_sock_stat(sockstat, sockstat6 or None)


def _reserved_ports(text: bytes) -> None:
    assert namespace_files.count_reserved_ports(text, (32_768, 60_999)) >= 0


# By the first byte of an input, modulo their number.
PROC_FILES: Final[tuple[Callable[[bytes], object], ...]] = (
    _stat,
    _limits,
    _cgroup,
    _mountinfo,
    _sockstat,
    _reserved_ports,
    procfs.parse_schedstat,
    procfs.parse_wait_channel,
    procfs.parse_pressure,
    procfs.parse_throttling,
    procfs.parse_file_nr,
    namespace_files.parse_time_wait_overflows,
    namespace_files.parse_port_range,
)


def proc_text(data: bytes) -> None:
    """A file of procfs, by the first byte. ValueError is what a parser may raise, and nothing else."""
    try:
        PROC_FILES[data[0] % len(PROC_FILES) if data else 0](data[1:])
    except ValueError:
        return


def names(data: bytes) -> None:
    """What a process says it is: cgroup, executable, command name and arguments, with NUL between. All have a name."""
    cgroup, executable, comm, *arguments = map(os.fsdecode, (data + b"\0\0").split(b"\0"))
    container = container_of(cgroup)
    assert container is None or container.id
    service_unit(cgroup)
    assert isinstance(app_name(cgroup, executable, arguments, comm), str)
