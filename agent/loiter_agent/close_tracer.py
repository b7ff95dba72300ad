"""Tells exactly who closed a TCP connection, where the kernel can be asked to remember it.

A TIME_WAIT socket has no inode and no owner. What samples it sees whose a connection was only if that lived across a
tick. Here, a BPF program notes the process at the moment it closes.

That takes Linux 5.11 with BTF, CAP_BPF and CAP_PERFMON, and the host's pid namespace. Without, everything else works.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from mmap import mmap
from pathlib import Path
from typing import Final

from loiter_agent.procfs import parse_stat
from loiter_agent.sample import ProcessKey
from loiter_agent.tracing.btf import Btf
from loiter_agent.tracing.close_program import CONNECTION_BYTES, KEY, VALUE, Layout, close_program

_BTF: Final = Path("/sys/kernel/btf/vmlinux")
_NAME: Final = "loiter_close"  # in bpftool(8); at most 15 bytes
# The clock of /proc/PID/stat: USER_HZ is 100 on every architecture of 64 bits that has BPF.
_NANOSECONDS_PER_TICK: Final = 1_000_000_000 // 100
_SELF_TEST_SECONDS: Final = 5
# Bits of include/uapi/linux/capability.h. CAP_SYS_ADMIN stands for the other two.
_CAP_SYS_ADMIN: Final = 1 << 21
_CAP_PERFMON_AND_BPF: Final = 1 << 38 | 1 << 39


class CloseTracer:
    """Records which process closes which TCP connection, by a BPF program on inet_sock_set_state.

    "Closes" means: sends the first FIN, by close(), by shutdown(), or by ending. Only the side that did goes into
    TIME_WAIT. Of a socket that several processes hold, it is the one that shut it down, or else the last to close it.
    Not for use by two threads at once.
    """

    def __init__(self, entries: int = 65_536) -> None:
        """Loads and attaches the program, and tests it with a connection of its own.

        The map takes 120 bytes an entry of the kernel's memory: 7.5 MiB by default, which last for 1,092 closes a
        second for the 60 s of TIME_WAIT. After that the oldest are forgotten.

        Raises:
            OSError: `strerror` says why it can not be had.
        """
        with ExitStack() as stack:
            try:
                _check_capabilities(Path("/proc/self/status").read_bytes())
                layout = _layout(_BTF)
                # Not imported before: ctypes takes memory, which an agent that may not use it does not spend.
                from loiter_agent.tracing import bpf

                self._closes = bpf.LruHash(_NAME, KEY.size, VALUE.size, entries)
                stack.callback(self._closes.close)
                program = bpf.load_tracing_program(
                    _NAME, close_program(layout, self._closes.descriptor), layout.tracepoint
                )
                try:
                    stack.callback(os.close, bpf.attach(program))
                finally:
                    os.close(program)  # the attachment keeps it
                self._test()
            except OSError as error:
                # Not EACCES, which is also PermissionError, but the verifier's.
                needs = ": CAP_BPF and CAP_PERFMON are needed" if error.errno == errno.EPERM else ""
                raise OSError(error.errno, f"{error.strerror or error}{needs}") from None
            self._descriptors = stack.pop_all()

    def closing_processes(self, namespace: int, connections: Sequence[bytes]) -> list[ProcessKey | None]:
        """Returns the process that closed each connection; None where it is not known.

        Args:
            namespace: The inode number of the network namespace, as stat(2) of /proc/PID/ns/net gives it.
            connections: The first 36 bytes of struct inet_diag_sockid in include/uapi/linux/inet_diag.h of each:
                idiag_sport, idiag_dport, idiag_src, idiag_dst. Of an IPv4 socket, the first 4 bytes of an address
                are used and the others 0.

        Raises:
            OSError: After `close`.
            ValueError: A connection has not 36 bytes.
        """
        return [self._closing_process(namespace, connection) for connection in connections]

    def _closing_process(self, namespace: int, connection: bytes) -> ProcessKey | None:
        if len(connection) != CONNECTION_BYTES:
            raise ValueError(f"a connection is {CONNECTION_BYTES} bytes, not {len(connection)}")
        value = self._closes.get(KEY.pack(connection, namespace))
        if value is None:
            return None
        pid, _, start_nanoseconds = VALUE.unpack(value)
        return ProcessKey(pid, start_nanoseconds // _NANOSECONDS_PER_TICK)

    def close(self) -> None:
        """Detaches the program; the kernel frees it and the map. Closing twice is harmless."""
        self._descriptors.close()

    def _test(self) -> None:
        """Closes a connection of this process and looks it up. Raises OSError if that was not this process.

        The kernel's numbers are those of the initial pid namespace: in another one they would name strangers.
        """
        found = self._closing_process(os.stat("/proc/self/ns/net").st_ino, _closed_connection())
        own = ProcessKey(os.getpid(), parse_stat(Path("/proc/self/stat").read_bytes()).start_ticks)
        if found is None:
            raise OSError(errno.ENOTSUP, "a connection that was closed to test it was not recorded")
        if found != own:
            raise OSError(
                errno.ENOTSUP,
                f"the kernel's pid {found.pid} is {own.pid} here: the host's pid and time namespaces are needed",
            )


def _check_capabilities(status: bytes) -> None:
    """Raises OSError where they are missing, before memory is taken for what the kernel would refuse in the end.

    Reading the types takes 5 to 10 MB for a moment, and ctypes 0.4 MB for good.
    """
    effective = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith(b"CapEff:")), -1)
    if not effective & _CAP_SYS_ADMIN and effective & _CAP_PERFMON_AND_BPF != _CAP_PERFMON_AND_BPF:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _layout(btf: Path) -> Layout:
    """Reads the kernel's BTF: 5 to 10 MB, given back at once, and about 50 ms. Raises OSError."""
    try:
        size = btf.stat().st_size
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, f"this kernel has no BTF: {btf} is missing") from None
    # Memory that goes back to the kernel, which is not certain of what malloc() gave.
    with btf.open("rb", buffering=0) as file, mmap(-1, size) as data:
        view = memoryview(data)
        at = 0
        while at < size and (count := file.readinto(view[at:])):
            at += count
        view.release()
        return Layout.of(Btf(data))


def _closed_connection() -> bytes:
    """Closes a connection over loopback as a client, and returns how sock_diag(7) shows it. Leaves no TIME_WAIT."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        server_address = listener.getsockname()
        with socket.create_connection(server_address, _SELF_TEST_SECONDS) as client:
            port = client.getsockname()[1]
            accepted, _ = listener.accept()
            with accepted:
                client.shutdown(socket.SHUT_WR)
                # The answer to the client's FIN is an RST, which ends both sides for good.
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    address = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    return struct.pack("!HH", port, server_address[1]) + address + address
