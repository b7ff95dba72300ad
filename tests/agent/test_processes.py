"""The scan of processes: what is read once, what is read each time, and what may be missing."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from loiter_agent.collectors.processes import ProcessScanner
from loiter_agent.procfs import ProcessStat, Procfs, Unreadable
from loiter_agent.sample import ProcessFds, ProcessKey
from support.proctree_fake import MAX_FDS, ProcTree


class PickyProcfs(Procfs):
    """Refuses some of the processes as the kernel refuses those of another user, and notes what it is asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.refused: set[int] = set()
        self.asked: list[str] = []

    def open_files_limit(self, pid: int) -> int | None:
        self.asked.append(f"{pid}/limits")
        return super().open_files_limit(pid)

    def network_namespace(self, pid: int) -> int:
        self.asked.append(f"{pid}/ns/net")
        if pid in self.refused:
            raise Unreadable("Permission denied")
        return super().network_namespace(pid)

    def fd_count(self, pid: int, by_stat: bool) -> int:
        self.asked.append(f"{pid}/fd")
        if pid in self.refused and not by_stat:
            raise Unreadable("Permission denied")
        return super().fd_count(pid, by_stat)


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


@pytest.fixture
def procfs(tree: ProcTree) -> PickyProcfs:
    return PickyProcfs(tree.root)


@pytest.fixture
def scanner(procfs: PickyProcfs) -> ProcessScanner:
    return ProcessScanner(procfs)


def test_each_process_is_reported_with_its_descriptors(tree: ProcTree, scanner: ProcessScanner) -> None:
    """By pid and start time, with the soft limit."""
    tree.add(10, 500, "nginx", fds={0: "/dev/null", 3: 77})
    tree.limit(10, "4096")
    key = ProcessKey(10, 500)
    scan = scanner.collect()
    assert scan.processes == {key: ProcessFds(key, "nginx", 2, 4096)}
    assert (scan.unreadable, scan.vanished, scan.namespaces) == (0, 0, 1)
    assert scan.by_pid() == {10: key}


def test_kernel_threads_are_left_out(tree: ProcTree, scanner: ProcessScanner) -> None:
    """They hold no descriptors, and are neither unreadable nor vanished."""
    tree.add(2, comm="kthreadd", kernel_thread=True)
    scan = scanner.collect()
    assert (dict(scan.processes), scan.unreadable, scan.vanished) == ({}, 0, 0)


def test_a_process_that_vanishes_is_counted_and_left_out(tree: ProcTree, scanner: ProcessScanner) -> None:
    """Wherever its files end."""
    tree.add(10)
    tree.add(11)
    (tree.root / "12").mkdir()
    (tree.root / "11/limits").unlink()
    scan = scanner.collect()
    assert list(scan.by_pid()) == [10]
    assert scan.vanished == 2


def test_an_unreadable_process_is_counted_and_kept(
    tree: ProcTree, procfs: PickyProcfs, scanner: ProcessScanner
) -> None:
    """Its descriptors are unknown, not 0; its name and limit are for all to read."""
    tree.add(10)
    tree.add(11, comm="secret")
    procfs.refused = {11}
    scan = scanner.collect()
    key = ProcessKey(11, 11)
    assert scan.processes[key] == ProcessFds(key, "secret", None, MAX_FDS, sockets_seen=False)
    assert scan.unreadable == 1
    assert scanner.collect().unreadable == 1


def test_unreadable_processes_are_not_tried_again(tree: ProcTree, procfs: PickyProcfs, scanner: ProcessScanner) -> None:
    """The kernel would refuse again."""
    tree.add(11)
    procfs.refused = {11}
    scanner.collect()
    procfs.asked.clear()
    scanner.collect()
    assert procfs.asked == []


def test_namespaces_are_counted_once(tree: ProcTree, scanner: ProcessScanner) -> None:
    """However many processes live in them."""
    for pid, namespace in ((1, "host"), (2, "host"), (3, "a"), (4, "b"), (5, "b")):
        tree.add(pid, namespace=namespace)
    assert scanner.collect().namespaces == 3


def test_namespaces_are_unknown_where_none_can_be_read(
    tree: ProcTree, procfs: PickyProcfs, scanner: ProcessScanner
) -> None:
    """Unknown is None."""
    tree.add(11)
    procfs.refused = {11}
    assert scanner.collect().namespaces is None


def test_a_steady_process_costs_one_count_a_scan(tree: ProcTree, procfs: PickyProcfs, scanner: ProcessScanner) -> None:
    """Limit and namespace are read when it is first seen."""
    tree.add(10, fds={3: 77})
    scanner.collect()
    procfs.asked.clear()
    tree.fds(10, {3: 77, 4: 78, 5: 79})
    assert [process.fd_open for process in scanner.collect().processes.values()] == [3]
    assert procfs.asked == ["10/fd"]


def test_a_process_that_executes_another_program_is_looked_at_anew(tree: ProcTree, scanner: ProcessScanner) -> None:
    """Its name changes while pid and start time stay."""
    tree.add(10, 500, "sh")
    scanner.collect()
    tree.name(10, "server", 500)
    tree.limit(10, "65536")
    (process,) = scanner.collect().processes.values()
    assert (process.comm, process.fd_limit) == ("server", 65536)


def test_a_reused_pid_is_another_process(tree: ProcTree, scanner: ProcessScanner) -> None:
    """The start time tells them apart."""
    tree.add(10, 500)
    scanner.collect()
    tree.remove(10)
    tree.add(10, 900, "other")
    tree.limit(10, "77")
    (process,) = scanner.collect().processes.values()
    assert (process.key, process.fd_limit) == (ProcessKey(10, 900), 77)


def test_the_limit_can_be_read_anew(tree: ProcTree, scanner: ProcessScanner) -> None:
    """It can be changed from outside at any time; None when the process is gone."""
    tree.add(10)
    scanner.collect()
    tree.limit(10, "99")
    assert scanner.fd_limit(ProcessKey(10, 10)) == 99
    tree.remove(10)
    assert scanner.fd_limit(ProcessKey(10, 10)) is None


def test_an_unlimited_process_has_no_limit(tree: ProcTree, scanner: ProcessScanner) -> None:
    """None, which is no number to compare with."""
    tree.add(10)
    tree.limit(10, "unlimited")
    (process,) = scanner.collect().processes.values()
    assert process.fd_limit is None


def test_without_procfs_the_scan_fails(tmp_path: Path) -> None:
    """That is an error of the host, not of a process."""
    scanner = ProcessScanner(Procfs(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError):
        scanner.collect()


def test_this_process_is_found_on_the_real_procfs() -> None:
    """With the limit that getrlimit() tells, and about as many descriptors as its folder lists."""
    scan = ProcessScanner(Procfs()).collect()
    process = scan.processes[scan.by_pid()[os.getpid()]]
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert process.fd_limit == (None if soft == resource.RLIM_INFINITY else soft)
    assert process.fd_open is not None
    assert process.fd_open > 0
    assert scan.namespaces is not None


def test_a_process_that_hides_even_its_name_is_counted(tree: ProcTree, procfs: PickyProcfs) -> None:
    """procfs mounted with hidepid=1: others' processes are listed, and nothing of them can be read."""

    class Hiding(PickyProcfs):
        def stat(self, pid: int) -> ProcessStat:
            if pid == 20:
                raise Unreadable("Operation not permitted")
            return super().stat(pid)

    tree.add(10)
    tree.add(20)
    scan = ProcessScanner(Hiding(procfs.root)).collect()
    assert [key.pid for key in scan.processes] == [10]
    assert scan.unreadable == 1


def test_a_process_that_is_being_released_has_vanished(tree: ProcTree, scanner: ProcessScanner) -> None:
    """Its limits read as an empty file, which must not fail the scan."""
    tree.add(10)
    tree.add(20)
    tree.write("20/limits", "")
    scan = scanner.collect()
    assert [key.pid for key in scan.processes] == [10]
    assert scan.vanished == 1


def test_the_sockets_of_another_network_namespace_are_not_seen(tree: ProcTree, scanner: ProcessScanner) -> None:
    """A tick reads those of the agent's own."""
    tree.add(10)
    tree.add(20)
    (tree.root / "self/ns").mkdir(parents=True)
    (tree.root / "self/ns/net").hardlink_to(tree.root / "10/ns/net")
    (tree.root / "20/ns/net").unlink()
    (tree.root / "20/ns/net").write_text("another")
    assert {key.pid: one.sockets_seen for key, one in scanner.collect().processes.items()} == {10: True, 20: False}


def test_zombies_are_left_out(tree: ProcTree, scanner: ProcessScanner) -> None:
    """They hold nothing, and have not vanished: they wait for their parents."""
    tree.add(10)
    tree.write("10/stat", (tree.root / "10/stat").read_bytes().replace(b") S ", b") Z "))
    scan = scanner.collect()
    assert (dict(scan.processes), scan.unreadable, scan.vanished) == ({}, 0, 0)
