"""The scan of processes: what is read once, what is read each time, and what may be missing."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from loiter_agent.collectors.processes import ProcessScanner
from loiter_agent.procfs import ProcessStat, Procfs, Unreadable
from loiter_agent.sample import ProcessFds, ProcessKey
from support.proctree_fake import MAX_FDS, MAX_FDS_HARD, ProcTree


class PickyProcfs(Procfs):
    """Refuses some of the processes as the kernel refuses those of another user, and notes what it is asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.refused: set[int] = set()
        self.asked: list[str] = []

    def open_files_limits(self, pid: int) -> tuple[int | None, int | None]:
        self.asked.append(f"{pid}/limits")
        return super().open_files_limits(pid)

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
    """By pid and start time, with both limits and the network namespace."""
    tree.add(10, 500, "nginx", fds={0: "/dev/null", 3: 77})
    tree.limit(10, "4096", "8192")
    key, namespace = ProcessKey(10, 500), tree.namespace_id("host")
    scan = scanner.collect()
    assert scan.processes == {key: ProcessFds(key, "nginx", 2, 4096, 8192, namespace)}
    assert (scan.unreadable, scan.vanished, scan.namespaces) == (0, 0, {namespace: key})
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
    assert scan.processes[key] == ProcessFds(key, "secret", None, MAX_FDS, MAX_FDS_HARD, None, readable=False)
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


def test_each_namespace_is_known_by_its_oldest_process(tree: ProcTree, scanner: ProcessScanner) -> None:
    """By start time, not by pid: pids are reused. The lower pid decides among those of the same clock tick."""
    for pid, start_ticks, namespace in ((1, 0, "host"), (2, 7, "a"), (3, 5, "a"), (4, 9, "b"), (5, 9, "b")):
        tree.add(pid, start_ticks, namespace=namespace)
    scan = scanner.collect()
    assert scan.namespaces == {
        tree.namespace_id("host"): ProcessKey(1, 0),
        tree.namespace_id("a"): ProcessKey(3, 5),
        tree.namespace_id("b"): ProcessKey(4, 9),
    }
    assert {key.pid: process.namespace for key, process in scan.processes.items()} == {
        1: tree.namespace_id("host"),
        2: tree.namespace_id("a"),
        3: tree.namespace_id("a"),
        4: tree.namespace_id("b"),
        5: tree.namespace_id("b"),
    }


def test_no_namespace_is_known_where_none_can_be_read(
    tree: ProcTree, procfs: PickyProcfs, scanner: ProcessScanner
) -> None:
    """And that of the process is None."""
    tree.add(11)
    procfs.refused = {11}
    scan = scanner.collect()
    assert scan.namespaces == {}
    assert scan.processes[ProcessKey(11, 11)].namespace is None


def test_a_process_that_changes_its_namespace_is_found_out(tree: ProcTree, scanner: ProcessScanner) -> None:
    """setns(2) does not show: it is looked at anew once in thirty scans."""
    tree.add(10)
    assert list(scanner.collect().namespaces) == [tree.namespace_id("host")]
    tree.namespace(10, "container")
    seen = [next(iter(scanner.collect().namespaces)) for _ in range(30)]
    assert set(seen) == {tree.namespace_id("host"), tree.namespace_id("container")}
    assert seen[-1] == tree.namespace_id("container")


def test_processes_take_turns_in_being_looked_at_anew(
    tree: ProcTree, procfs: PickyProcfs, scanner: ProcessScanner
) -> None:
    """Each once in thirty scans, and no more than its share in one."""
    for pid in range(100, 160):
        tree.add(pid)
    scanner.collect()
    for _ in range(30):
        procfs.asked.clear()
        scanner.collect()
        assert len([name for name in procfs.asked if name.endswith("ns/net")]) == 2


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
    tree.limit(10, "99", "100")
    assert scanner.fd_limits(ProcessKey(10, 10)) == (99, 100)
    tree.remove(10)
    assert scanner.fd_limits(ProcessKey(10, 10)) == (None, None)


def test_an_unlimited_process_has_no_limit(tree: ProcTree, scanner: ProcessScanner) -> None:
    """None, which is no number to compare with."""
    tree.add(10)
    tree.limit(10, "unlimited", "unlimited")
    (process,) = scanner.collect().processes.values()
    assert (process.fd_limit, process.fd_limit_hard) == (None, None)


def test_without_procfs_the_scan_fails(tmp_path: Path) -> None:
    """That is an error of the host, not of a process."""
    scanner = ProcessScanner(Procfs(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError):
        scanner.collect()


def test_this_process_is_found_on_the_real_procfs() -> None:
    """With the limit that getrlimit() tells, and about as many descriptors as its folder lists."""
    scan = ProcessScanner(Procfs()).collect()
    process = scan.processes[scan.by_pid()[os.getpid()]]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (process.fd_limit, process.fd_limit_hard) == tuple(
        None if limit == resource.RLIM_INFINITY else limit for limit in limits
    )
    assert process.fd_open is not None
    assert process.fd_open > 0
    assert process.namespace == os.stat("/proc/self/ns/net").st_ino
    assert process.namespace in scan.namespaces


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


def test_a_namespace_may_be_known_of_a_process_that_can_not_be_looked_into(
    tree: ProcTree, scanner: ProcessScanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CAP_SYS_PTRACE alone reads the link, and does not open the folder of another user."""
    tree.add(10)
    monkeypatch.setattr(os, "access", lambda *_args, **_options: False)
    scan = scanner.collect()
    (process,) = scan.processes.values()
    assert (process.namespace, process.readable) == (tree.namespace_id("host"), False)
    assert scan.unreadable == 1


def test_zombies_are_left_out(tree: ProcTree, scanner: ProcessScanner) -> None:
    """They hold nothing, and have not vanished: they wait for their parents."""
    tree.add(10)
    tree.write("10/stat", (tree.root / "10/stat").read_bytes().replace(b") S ", b") Z "))
    scan = scanner.collect()
    assert (dict(scan.processes), scan.unreadable, scan.vanished) == ({}, 0, 0)
