"""Reads procfs, rooted at a path. Parsing is in functions of its own, apart from the reading.

Every method that reads a process raises ProcessVanished when it is gone and Unreadable when it may not be read:
OSErrors are translated here and nowhere else. Methods that read the host raise OSError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Final, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Parsed = TypeVar("_Parsed")

_PF_KTHREAD: Final = 0x0020_0000  # include/linux/sched.h


class ProcessVanished(OSError):
    """The process ended before or while it was read."""


class Unreadable(OSError):
    """The kernel refused: the file belongs to another user, or a security module or hidepid is in the way."""


def _refusing(parse: Callable[_Arguments, _Parsed]) -> Callable[_Arguments, _Parsed]:
    """Has a parser refuse by ValueError a text in which something is missing, as it does one with a wrong figure."""

    @wraps(parse)
    def refusing(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Parsed:
        try:
            return parse(*arguments, **options)
        except (LookupError, OverflowError):
            raise ValueError(f"{parse.__name__}: the text is cut off, or in a form that is not known") from None

    return refusing


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """Of /proc/PID/stat (proc_pid_stat(5)): the command name and the start time in clock ticks since boot."""

    comm: str
    start_ticks: int
    kernel_thread: bool
    zombie: bool


@_refusing
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


def parse_state(text: bytes) -> str:
    """Parses /proc/PID/stat or /proc/PID/task/TID/stat: the letter of the state."""
    start = text.rindex(b") ") + 2
    return text[start : start + 1].decode("ascii")


def parse_open_files_limits(text: bytes) -> tuple[int | None, int | None]:
    """Parses "Max open files" of /proc/PID/limits: soft and hard limit. None stands for "unlimited"."""
    for line in text.splitlines():
        if line.startswith(b"Max open files"):
            soft, hard = (None if limit == b"unlimited" else int(limit) for limit in line.split()[3:5])
            return soft, hard
    raise ValueError("no line 'Max open files'")


@dataclass(frozen=True, slots=True)
class SchedStat:
    """What became of a thread's wish to run: seconds that it ran, seconds that it waited, and how often it got to run.

    A wait is added when it ends. Waiting for a CPU quota to be filled up again is part of it.
    """

    ran: float
    waited: float
    timeslices: int


@_refusing
def parse_schedstat(text: bytes) -> SchedStat | None:
    """Parses a schedstat file (Documentation/scheduler/sched-stats.rst of the kernel), which is in nanoseconds.

    None where all is 0: the kernel is built without CONFIG_SCHED_INFO, or the thread has not run yet.
    """
    ran, waited, timeslices = map(int, text.split())
    return SchedStat(ran / 1e9, waited / 1e9, timeslices) if ran or waited or timeslices else None


def parse_wait_channel(text: bytes) -> str | None:
    """Parses a wchan file (proc_pid_wchan(5)): the kernel function a thread sleeps in.

    None where it says "0": the thread runs, or the reader has no right to know.
    """
    name = text.strip()
    return None if name in (b"", b"0") else name.decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class Pressure:
    """The line "some" of a PSI file (Documentation/accounting/psi.rst of the kernel).

    `avg10` is the share of the last ten seconds in which some task waited, from 0 to 1; `total` the seconds in all.
    """

    avg10: float
    total: float


@_refusing
def parse_pressure(text: bytes) -> Pressure:
    """Parses a file of /proc/pressure, or cpu.pressure, io.pressure of a cgroup."""
    for line in text.splitlines():
        if line.startswith(b"some "):
            fields = dict(word.split(b"=", 1) for word in line.split()[1:])
            return Pressure(float(fields[b"avg10"]) / 100, int(fields[b"total"]) / 1e6)
    raise ValueError("no line 'some'")


@dataclass(frozen=True, slots=True)
class Throttling:
    """What a CPU quota did to a cgroup: periods in which it had something to run, those in which it was held back.

    `seconds` is added up over the processors it was held back on: it may grow by more than a second in a second.
    """

    periods: int
    throttled_periods: int
    seconds: float


@_refusing
def parse_throttling(text: bytes) -> Throttling | None:
    """Parses cpu.stat of a cgroup: `throttled_usec` of version 2, `throttled_time`, in nanoseconds, of version 1.

    None where the file says nothing of it: the root of version 2, and where the cpu controller is not on.
    """
    fields = dict(line.split() for line in text.splitlines())
    if b"nr_throttled" not in fields:
        return None
    version_2 = b"throttled_usec" in fields
    seconds = int(fields[b"throttled_usec"]) / 1e6 if version_2 else int(fields[b"throttled_time"]) / 1e9
    return Throttling(int(fields[b"nr_periods"]), int(fields[b"nr_throttled"]), seconds)


def parse_file_nr(text: bytes) -> tuple[int, int]:
    """Parses /proc/sys/fs/file-nr: allocated file handles and their limit. The second field is always 0."""
    allocated, _, limit = text.split()
    return int(allocated), int(limit)


@_refusing
def parse_unified_cgroup(text: bytes) -> str | None:
    """Parses /proc/PID/cgroup: the path in the v2 hierarchy (cgroups(7)). None on a host without one."""
    return _cgroup_path(text, b"0::")


@_refusing
def parse_systemd_cgroup(text: bytes) -> str | None:
    """Parses /proc/PID/cgroup: the path in which systemd keeps its units.

    That is the v2 path, or on a host with v1 hierarchies, where the v2 path is absent or "/", the one of the
    hierarchy named systemd.
    """
    unified = _cgroup_path(text, b"0::")
    return unified if unified not in (None, "/") else _cgroup_path(text, b"name=systemd:") or unified


@_refusing
def parse_cgroups(text: bytes) -> list[str]:
    """Parses /proc/PID/cgroup: the paths in all hierarchies."""
    return [os.fsdecode(line.split(b":", 2)[2]) for line in text.splitlines()]


def parse_cpu_cgroup(text: bytes) -> str | None:
    """Parses /proc/PID/cgroup: the path in the v1 hierarchy that has the cpu controller. None where there is none."""
    for line in text.splitlines():
        _, controllers, path = line.split(b":", 2)
        if b"cpu" in controllers.split(b","):
            return os.fsdecode(path)
    return None


def _cgroup_path(text: bytes, hierarchy: bytes) -> str | None:
    for line in text.splitlines():
        if line.startswith(b"0::") if hierarchy == b"0::" else b":" + hierarchy in line:
            return os.fsdecode(line.split(b":", 2)[2])
    return None


def parse_cgroup2_mount(mountinfo: bytes) -> Path | None:
    """Finds where the v2 hierarchy is mounted, in /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    mount = parse_cgroup_mount(mountinfo)
    return mount.point if mount is not None else None


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """Where a cgroup hierarchy is mounted. `root` is the cgroup that is seen there: "/", or a container's own."""

    point: Path
    root: str

    def folders(self, cgroup: str) -> list[Path]:
        """The folders of a cgroup and its ancestors, innermost first, as far as they are seen; without the root's."""
        root = PurePosixPath(self.root)
        path = PurePosixPath(cgroup)
        if ".." in path.parts or not path.is_relative_to(root):  # above what the reader's cgroup namespace shows
            return []
        inner = path.relative_to(root)
        return [self.point / part for part in (inner, *inner.parents) if part != PurePosixPath()]


def parse_cgroup_mount(mountinfo: bytes, controller: str | None = None) -> CgroupMount | None:
    """Finds the v1 hierarchy that has a controller, or with None the v2 hierarchy, in /proc/PID/mountinfo."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(b" - ")
        file_system, *options = right.split() or [b""]
        if controller is None:
            found = file_system == b"cgroup2"
        else:
            found = file_system == b"cgroup" and controller.encode() in b",".join(options).split(b",")
        if found:
            root, point = (_unescaped(field) for field in left.split()[3:5])
            return CgroupMount(Path(point), root)
    return None


@_refusing
def parse_hidepid(mountinfo: bytes, root: str) -> bool:
    """Finds out, in /proc/PID/mountinfo, whether the procfs mounted at `root` leaves other users' processes out.

    That is hidepid=invisible (2) and ptraceable (4); with noaccess (1) they are listed, but can not be read.
    """
    hides = False
    for line in mountinfo.splitlines():  # of several at one place, the last is on top
        left, _, right = line.partition(b" - ")
        file_system, *options = right.split() or [b""]
        if file_system == b"proc" and _unescaped(left.split()[4]) == root:
            hides = re.search(rb"\bhidepid=(2|4|invisible|ptraceable)\b", b" ".join(options)) is not None
    return hides


def _unescaped(field: bytes) -> str:
    """Undoes the octal escapes of mountinfo."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), field))


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

    def open_files_limits(self, pid: int) -> tuple[int | None, int | None]:
        """Reads the soft and the hard limit on open files; None stands for "unlimited"."""
        text = self._read_process(pid, "limits")
        if not text:  # the process is being released
            raise ProcessVanished(f"{pid}/limits is empty")
        return parse_open_files_limits(text)

    def threads(self, pid: int) -> list[int]:
        """Lists the threads of a process, by ascending id; the main thread has the id of the process."""
        with _translated:
            return sorted(map(int, os.listdir(f"{self._root}/{pid}/task")))

    def thread_state(self, pid: int, thread: int) -> str:
        """Reads what a thread does: the letter of its state (proc_pid_stat(5))."""
        return parse_state(self._read_process(pid, f"task/{thread}/stat"))

    def schedstat(self, pid: int, thread: int) -> SchedStat | None:
        """Reads how long a thread has run and waited for a processor since it started. Needs no rights."""
        return parse_schedstat(self._read_process(pid, f"task/{thread}/schedstat"))

    def wait_channel(self, pid: int, thread: int) -> str | None:
        """Reads the kernel function a thread sleeps in; None where it runs, or where that may not be known."""
        return parse_wait_channel(self._read_process(pid, f"task/{thread}/wchan"))

    def executable(self, pid: int) -> str:
        """Reads the path of the program a process executes; " (deleted)" follows where it has been unlinked."""
        with _translated:
            return os.readlink(f"{self._root}/{pid}/exe")

    def command_line(self, pid: int) -> list[str]:
        """Reads the arguments of a process, its name first. A process may write over them."""
        text = self._read_process(pid, "cmdline")
        return [os.fsdecode(word) for word in text.removesuffix(b"\0").split(b"\0")] if text else []

    def cgroup(self, pid: int) -> bytes:
        """Reads /proc/PID/cgroup, for parse_unified_cgroup and parse_systemd_cgroup."""
        return self._read_process(pid, "cgroup")

    def network_namespace(self, pid: int) -> int:
        """Reads the inode number of the process's network namespace (namespaces(7))."""
        with _translated:
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
        with _translated:
            folder = f"{self._root}/{pid}/fd"
            return os.stat(folder).st_size if by_stat else len(os.listdir(folder))

    @contextmanager
    def fd_folder(self, pid: int) -> Iterator[int]:
        """Opens /proc/PID/fd. The handle stays bound to this process, even if its pid is given to another."""
        with _translated:
            handle = os.open(f"{self._root}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield handle
        finally:
            os.close(handle)

    def fds(self, folder: int) -> list[str]:
        """Lists the descriptors in a folder that `fd_folder` opened."""
        with _translated:
            return os.listdir(folder)

    def socket_inode(self, folder: int, fd: str) -> int | None:
        """Reads what a descriptor refers to: the inode of a socket, None for anything else or a closed descriptor."""
        try:
            return parse_socket_link(os.readlink(fd, dir_fd=folder))
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise Unreadable(str(error)) from None

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

    def pressure_at(self, file: Path) -> Pressure | None:
        """Reads a pressure file, such as cpu.pressure of a cgroup; None where there is none or it can not be read."""
        text = self._optional(file)
        return None if not text else parse_pressure(text)

    def throttling_at(self, file: Path) -> Throttling | None:
        """Reads cpu.stat of a cgroup; None where there is none, or it can not be read, or has no such figures."""
        text = self._optional(file)
        return None if text is None else parse_throttling(text)

    def cgroup_mount(self, controller: str | None = None) -> CgroupMount | None:
        """Finds where the reader sees the v1 hierarchy with a controller, or with None the v2 hierarchy."""
        return parse_cgroup_mount(self._read("self/mountinfo"), controller)

    def cgroup2_mount(self) -> Path | None:
        """Finds where the reader sees the v2 cgroup hierarchy; None where it is not mounted."""
        return parse_cgroup2_mount(self._read("self/mountinfo"))

    def hides_processes(self) -> bool:
        """Tells whether other users' processes are left out of `pids` (the mount option hidepid of proc(5))."""
        try:
            return parse_hidepid(self._read("self/mountinfo"), self._root)
        except OSError:
            return False

    def resident_bytes(self) -> int:
        """Reads the reader's own resident memory."""
        return int(self._read("self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _optional(self, path: str | Path) -> bytes | None:
        try:
            return _contents(path)
        except OSError:  # ENOTSUP too: the kernel was started with psi=0
            return None

    def _read_process(self, pid: int, name: str) -> bytes:
        with _translated:
            return self._read(f"{pid}/{name}")

    def _read(self, name: str) -> bytes:
        return _contents(f"{self._root}/{name}")


def _contents(path: str | Path) -> bytes:
    # System calls and no file object, which costs as much again: some ticks read thousands of files, which are small.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(file, 65_536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(file)


class _Translation:
    """Translates OSErrors of files of a process. A class, since a generator costs as much again as a small file."""

    def __enter__(self) -> None:
        """Does nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raises the translation."""
        if isinstance(error, FileNotFoundError | ProcessLookupError):
            raise ProcessVanished(str(error)) from None
        if isinstance(error, PermissionError):
            raise Unreadable(str(error)) from None


_translated: Final = _Translation()
