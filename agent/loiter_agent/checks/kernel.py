"""What the kernel answers: sockets, their ages and cgroups, and how many descriptors a process has. It is asked."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from loiter_agent.checks.finding import Finding, State
from loiter_agent.inet_diag import INET_DIAG_INFO, TCP_CLOSE_WAIT
from loiter_agent.procfs import Procfs
from loiter_agent.sock_diag import SockDiag, TornDumpError

_RESET: Final = struct.pack("@ii", 1, 0)  # SO_LINGER: closing leaves no TIME_WAIT
_TIMEOUT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What sock_diag tells of a CLOSE_WAIT socket of our own."""

    age_known: bool
    cgroup_id: int | None


def check_kernel(procfs: Procfs) -> list[Finding]:
    """Asks for a socket that has just been put into CLOSE_WAIT, and for the descriptors of this process."""
    try:
        seen = _look_at_own_close_wait()
    except OSError as error:
        remedy = "allow AF_NETLINK (RestrictAddressFamilies=, seccomp), and load the modules tcp_diag and inet_diag"
        sockets = Finding(
            "sock_diag", State.LIMITED, f"refused ({error.strerror}): sockets are read by psutil, slower", remedy
        )
        return [sockets, *_unknown("CLOSE_WAIT details", "cgroups"), _fd_count(procfs)]
    if seen is None:
        finding = Finding(
            "sock_diag", State.LIMITED, "it does not list a socket of our own", "read the log of the agent"
        )
        return [finding, *_unknown("CLOSE_WAIT details", "cgroups"), _fd_count(procfs)]
    return [
        Finding("sock_diag", State.OK, "the kernel lists TCP sockets"),
        _close_wait_details(seen),
        _cgroups(procfs, seen),
        _fd_count(procfs),
    ]


def _look_at_own_close_wait() -> _Seen | None:
    """Puts a socket into CLOSE_WAIT and finds it in a dump. Raises OSError where that is refused."""
    diag = SockDiag()
    try:
        with _close_wait_socket() as own:
            inode = os.fstat(own.fileno()).st_ino & 0xFFFF_FFFF
            found = None
            with suppress(TornDumpError):
                for chunk in diag.dump(1 << TCP_CLOSE_WAIT, 1 << (INET_DIAG_INFO - 1)):
                    if inode in (inodes := chunk.inodes()):
                        index = inodes.index(inode)
                        found = _Seen(chunk.last_ack_received(index) is not None, chunk.cgroup_id(index))
            return found
    finally:
        diag.close()


@contextmanager
def _close_wait_socket() -> Iterator[socket.socket]:
    """A socket whose other side has closed."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1) as listener,
        socket.create_connection(listener.getsockname(), _TIMEOUT_SECONDS) as client,
        listener.accept()[0] as accepted,
    ):
        client.shutdown(socket.SHUT_WR)
        accepted.settimeout(_TIMEOUT_SECONDS)
        accepted.recv(1)
        for one in (client, accepted):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        yield accepted


def _close_wait_details(seen: _Seen) -> Finding:
    name = "CLOSE_WAIT details"
    if seen.age_known:
        return Finding(name, State.OK, "ages are known at first sight (INET_DIAG_INFO)")
    return Finding(name, State.LIMITED, "the kernel tells no ages: known from the first sample on", "a newer kernel")


def _cgroups(procfs: Procfs, seen: _Seen) -> Finding:
    if seen.cgroup_id is None:
        return Finding(
            "cgroups", State.LIMITED, "the kernel does not tell the cgroup of a socket", "Linux 5.7 or later"
        )
    if procfs.cgroup2_mount() is None:
        return Finding(
            "cgroups",
            State.LIMITED,
            "cgroup v2 is not mounted: owners are found by descriptors alone",
            "systemd.unified_cgroup_hierarchy=1 on the kernel's command line",
        )
    return Finding("cgroups", State.OK, "cgroup v2 is mounted, and sockets tell theirs (INET_DIAG_CGROUP_ID)")


def _fd_count(procfs: Procfs) -> Finding:
    if procfs.counts_fds_by_stat():
        return Finding("descriptor count", State.OK, "in one call for each process")
    return Finding("descriptor count", State.LIMITED, "by listing each descriptor, slower", "Linux 6.2 or later")


def _unknown(*names: str) -> list[Finding]:
    return [Finding(name, State.LIMITED, "not known without sock_diag") for name in names]
