"""A /proc tree in a folder of the test's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from loiter_agent.procfs import Procfs

BOOT_ID = "8f0b6f6e-5d0e-4f6b-9d3c-0a1b2c3d4e5f"
MAX_FDS = 1_024
MAX_FDS_HARD = 1_048_576


class ProcTree:
    """A tree that a Procfs can be rooted at. It has no self/fd, so descriptors are counted by listing them."""

    def __init__(self, root: Path) -> None:
        """Makes a tree without processes."""
        self.root = root / "proc"
        self.cgroups = root / "cgroup"
        self._namespaces = root / "namespaces"
        for folder in (self.root / "self", self.cgroups, self._namespaces):
            folder.mkdir(parents=True)
        self.write("self/mountinfo", f"30 20 0:26 / {self.cgroups} rw shared:9 - cgroup2 cgroup2 rw\n")
        self.write("self/statm", "1000 250 100 1 0 500 0\n")
        self.write("sys/kernel/random/boot_id", f"{BOOT_ID}\n")
        self.write("sys/fs/file-nr", "1952\t0\t9223372036854775807\n")
        self.write("net/sockstat", "sockets: used 290\nTCP: inuse 7 orphan 1 tw 42 alloc 12 mem 3\nUDP: inuse 4\n")

    def write(self, name: str, content: str | bytes) -> None:
        """Writes one file."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def add(
        self,
        pid: int,
        start_ticks: int | None = None,
        comm: str | bytes = "worker",
        fds: Mapping[int, int | str] | None = None,
        namespace: str = "host",
        cgroup: str = "/",
        kernel_thread: bool = False,
    ) -> None:
        """Adds a process. `fds` maps descriptors to inodes of sockets, or to the target of some other link."""
        self.name(pid, comm, start_ticks if start_ticks is not None else pid, kernel_thread)
        self.limit(pid, str(MAX_FDS))
        self.write(f"{pid}/cgroup", f"0::{cgroup}\n")
        (self.cgroups / cgroup.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self.namespace(pid, namespace)
        self.fds(pid, fds or {})

    def name(self, pid: int, comm: str | bytes, start_ticks: int, kernel_thread: bool = False) -> None:
        """Writes the stat file of a process."""
        self.write(f"{pid}/stat", stat(pid, comm, start_ticks, kernel_thread))

    def limit(self, pid: int, soft: str, hard: str = str(MAX_FDS_HARD)) -> None:
        """Writes the limits of a process."""
        self.write(f"{pid}/limits", limits(soft, hard))

    def namespace(self, pid: int, namespace: str) -> None:
        """Moves a process to a network namespace."""
        (self._namespaces / namespace).touch()
        link = self.root / str(pid) / "ns/net"
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self._namespaces / namespace)

    def namespace_id(self, namespace: str) -> int:
        """The inode number of a network namespace."""
        return os.stat(self._namespaces / namespace).st_ino

    def program(self, pid: int, executable: str, *arguments: str) -> None:
        """Makes a process execute a program. Its first argument is the program's own name."""
        link = self.root / str(pid) / "exe"
        link.unlink(missing_ok=True)
        link.symlink_to(executable)
        self.write(f"{pid}/cmdline", b"".join(os.fsencode(argument) + b"\0" for argument in arguments))

    def thread(
        self,
        pid: int,
        thread: int,
        state: str = "S",
        wait_channel: str = "0",
        ran: float = 1.0,
        waited: float = 0.0,
        timeslices: int = 10,
    ) -> None:
        """Writes the files of a thread. `ran` and `waited` are in seconds."""
        self.write(f"{pid}/task/{thread}/stat", stat(thread, "worker", 1).replace(b") S ", b") %b " % state.encode()))
        self.write(f"{pid}/task/{thread}/schedstat", f"{ran * 1e9:.0f} {waited * 1e9:.0f} {timeslices}\n")
        self.write(f"{pid}/task/{thread}/wchan", wait_channel)

    def add_cpu_hierarchy(self) -> Path:
        """Mounts a v1 hierarchy with the cpu controller, and returns its folder."""
        folder = self.root.parent / "cgroup-cpu"
        folder.mkdir()
        mounts = (self.root / "self/mountinfo").read_text()
        self.write("self/mountinfo", f"{mounts}33 20 0:30 / {folder} rw - cgroup cgroup rw,cpu,cpuacct\n")
        return folder

    def fds(self, pid: int, fds: Mapping[int, int | str]) -> None:
        """Opens these descriptors and closes all others."""
        folder = self.root / str(pid) / "fd"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for fd, target in fds.items():
            (folder / str(fd)).symlink_to(f"socket:[{target}]" if isinstance(target, int) else target)

    def cgroup_id(self, cgroup: str) -> int:
        """The id of a cgroup: the inode number of its folder."""
        return os.stat(self.cgroups / cgroup.lstrip("/")).st_ino

    def remove(self, pid: int) -> None:
        """Ends a process."""
        shutil.rmtree(self.root / str(pid))


class CountingProcfs(Procfs):
    """Notes which descriptors are read, and of which processes."""

    def __init__(self, root: Path) -> None:
        """Starts with nothing noted."""
        super().__init__(root)
        self.folders: list[int] = []
        self.links = 0

    def fds(self, folder: int) -> list[str]:
        """Notes the process."""
        self.folders.append(int(os.readlink(f"/proc/self/fd/{folder}").split("/")[-2]))
        return super().fds(folder)

    def socket_inode(self, folder: int, fd: str) -> int | None:
        """Notes that a descriptor is read."""
        self.links += 1
        return super().socket_inode(folder, fd)

    def forget(self) -> None:
        """Starts over."""
        self.folders.clear()
        self.links = 0


def stat(pid: int, comm: str | bytes, start_ticks: int, kernel_thread: bool = False) -> bytes:
    """The text of /proc/PID/stat."""
    name = comm.encode() if isinstance(comm, str) else comm
    flags = 0x0020_8040 if kernel_thread else 0x0040_0100
    rest = f"S 1 {pid} {pid} 0 -1 {flags} 10 20 0 0 3 4 0 0 20 0 1 0 {start_ticks} 12345678 250 18446744073709551615"
    return b"%d (%b) %b 1 1 0 0 0 0\n" % (pid, name, rest.encode())


def limits(soft: str, hard: str = str(MAX_FDS_HARD)) -> str:
    """The text of /proc/PID/limits, with the lines around the one that matters."""
    return (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max cpu time              unlimited            unlimited            seconds   \n"
        f"Max open files            {soft:<20} {hard:<20} files     \n"
        "Max locked memory         8388608              8388608              bytes     \n"
    )
