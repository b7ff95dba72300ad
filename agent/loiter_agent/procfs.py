"""Reads procfs, rooted at a path. Parsing is in functions of its own, apart from the reading.

Every method that reads a process raises ProcessVanished when it is gone and Unreadable when it may not be read:
OSErrors are translated here and nowhere else. Methods that read the host raise OSError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PF_KTHREAD: Final = 0x0020_0000  # include/linux/sched.h


class ProcessVanished(OSError):
    """The process ended before or while it was read."""


class Unreadable(OSError):
    """The kernel refused: the file belongs to another user, or a security module or hidepid is in the way."""


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """Of /proc/PID/stat (proc_pid_stat(5)): the command name and the start time in clock ticks since boot."""

    comm: str
    start_ticks: int
    kernel_thread: bool
    zombie: bool


def parse_stat(text: bytes) -> ProcessStat:
    """Parses /proc/PID/stat. The name may hold spaces, parentheses and any other byte but NUL."""
    start, end = text.index(b"("), text.rindex(b")")
    fields = text[end + 2 :].split()
    return ProcessStat(
        comm=text[start + 1 : end].decode("utf-8", "replace"),
        start_ticks=int(fields[19]),
        kernel_thread=bool(int(fields[6]) & _PF_KTHREAD),
        zombie=fields[0] in (b"Z", b"X"),
    )


def parse_open_files_limit(text: bytes) -> int | None:
    """Parses the soft limit of "Max open files" from /proc/PID/limits. None stands for "unlimited"."""
    for line in text.splitlines():
        if line.startswith(b"Max open files"):
            soft = line[len(b"Max open files") :].split()[0]
            return None if soft == b"unlimited" else int(soft)
    raise ValueError("no line 'Max open files'")


def parse_time_wait(text: bytes) -> int:
    """Parses /proc/net/sockstat: how many TIME_WAIT and orphaned FIN_WAIT2 mini-sockets there are."""
    for line in text.splitlines():
        if line.startswith(b"TCP:"):
            words = line.split()
            return int(words[words.index(b"tw") + 1])
    raise ValueError("no line 'TCP:'")


def parse_file_nr(text: bytes) -> tuple[int, int]:
    """Parses /proc/sys/fs/file-nr: allocated file handles and their limit. The second field is always 0."""
    allocated, _, limit = text.split()
    return int(allocated), int(limit)


def parse_unified_cgroup(text: bytes) -> str | None:
    """Parses /proc/PID/cgroup: the path in the v2 hierarchy (cgroups(7)). None on a host without one."""
    return _cgroup_path(text, b"0::")


def parse_systemd_cgroup(text: bytes) -> str | None:
    """Parses /proc/PID/cgroup: the path in which systemd keeps its units.

    That is the v2 path, or on a host with v1 hierarchies, where the v2 path is absent or "/", the one of the
    hierarchy named systemd.
    """
    unified = _cgroup_path(text, b"0::")
    return unified if unified not in (None, "/") else _cgroup_path(text, b"name=systemd:") or unified


def _cgroup_path(text: bytes, hierarchy: bytes) -> str | None:
    for line in text.splitlines():
        if line.startswith(b"0::") if hierarchy == b"0::" else b":" + hierarchy in line:
            return os.fsdecode(line.split(b":", 2)[2])
    return None


def parse_cgroup2_mount(mountinfo: bytes) -> Path | None:
    """Finds where the v2 hierarchy is mounted, in /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(b" - ")
        if right.startswith(b"cgroup2 "):
            path = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), left.split()[4])
            return Path(os.fsdecode(path))
    return None


def parse_socket_link(link: str) -> int | None:
    """Parses the target of /proc/PID/fd/N: the inode of a socket, None for anything else."""
    return int(link[8:-1]) if link.startswith("socket:[") else None


class Procfs:
    """A procfs mount."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        """Takes the mount point; tests give a tree of their own."""
        self.root = root
        self._root = str(root)

    def pids(self) -> list[int]:
        """Lists the processes, by ascending pid."""
        return sorted(int(name) for name in os.listdir(self._root) if name.isdigit())

    def stat(self, pid: int) -> ProcessStat:
        """Reads /proc/PID/stat."""
        return parse_stat(self._read_process(pid, "stat"))

    def open_files_limit(self, pid: int) -> int | None:
        """Reads the soft limit on open files; None stands for "unlimited"."""
        text = self._read_process(pid, "limits")
        if not text:  # the process is being released
            raise ProcessVanished(f"{pid}/limits is empty")
        return parse_open_files_limit(text)

    def cgroup(self, pid: int) -> bytes:
        """Reads /proc/PID/cgroup, for parse_unified_cgroup and parse_systemd_cgroup."""
        return self._read_process(pid, "cgroup")

    def network_namespace(self, pid: int) -> int:
        """Reads the inode number of the process's network namespace (namespaces(7))."""
        with _translated():
            return os.stat(f"{self._root}/{pid}/ns/net").st_ino

    def owner(self, pid: int) -> int | None:
        """Reads the effective user id of a process; None where it is gone."""
        try:
            return os.stat(f"{self._root}/{pid}").st_uid
        except OSError:
            return None

    def counts_fds_by_stat(self) -> bool:
        """Tells whether the size of /proc/PID/fd is the number of descriptors: real procfs, Linux 6.2 and later."""
        try:
            return os.stat(f"{self._root}/self/fd").st_size > 0
        except OSError:
            return False

    def fd_count(self, pid: int, by_stat: bool) -> int:
        """Counts open descriptors: in one stat call where `counts_fds_by_stat` holds, else by listing them.

        The stat call needs no rights over the process; the listing does.
        """
        with _translated():
            folder = f"{self._root}/{pid}/fd"
            return os.stat(folder).st_size if by_stat else len(os.listdir(folder))

    @contextmanager
    def fd_folder(self, pid: int) -> Iterator[int]:
        """Opens /proc/PID/fd. The handle stays bound to this process, even if its pid is given to another."""
        with _translated():
            handle = os.open(f"{self._root}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield handle
        finally:
            os.close(handle)

    def fds(self, folder: int) -> list[str]:
        """Lists the descriptors in a folder that `fd_folder` opened."""
        with _translated():
            return os.listdir(folder)

    def socket_inode(self, folder: int, fd: str) -> int | None:
        """Reads what a descriptor refers to: the inode of a socket, None for anything else or a closed descriptor."""
        try:
            return parse_socket_link(os.readlink(fd, dir_fd=folder))
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise Unreadable(str(error)) from None

    def time_wait(self) -> int:
        """Reads how many mini-sockets the reader's own network namespace has, in constant time."""
        return parse_time_wait(self._read("net/sockstat"))

    def own_network_namespace(self) -> int | None:
        """Reads the inode number of the reader's own network namespace; None where it can not be read."""
        try:
            return os.stat(f"{self._root}/self/ns/net").st_ino
        except OSError:
            return None

    def file_nr(self) -> tuple[int, int]:
        """Reads allocated file handles and their limit."""
        return parse_file_nr(self._read("sys/fs/file-nr"))

    def boot_id(self) -> str:
        """Reads the boot's UUID."""
        return self._read("sys/kernel/random/boot_id").decode("ascii").strip()

    def cgroup2_mount(self) -> Path | None:
        """Finds where the reader sees the v2 cgroup hierarchy; None where it is not mounted."""
        return parse_cgroup2_mount(self._read("self/mountinfo"))

    def resident_bytes(self) -> int:
        """Reads the reader's own resident memory."""
        return int(self._read("self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _read_process(self, pid: int, name: str) -> bytes:
        with _translated():
            return self._read(f"{pid}/{name}")

    def _read(self, name: str) -> bytes:
        # Unbuffered: procfs makes the text anew for each open file, and most fit one read.
        with open(f"{self._root}/{name}", "rb", buffering=0) as file:
            parts = []
            while part := file.read(65_536):
                parts.append(part)
            return b"".join(parts)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessVanished(str(error)) from None
    except PermissionError as error:
        raise Unreadable(str(error)) from None
