"""The readers of procfs: texts as the kernel writes them, and a tree with processes that come and go."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from loiter_agent.procfs import (
    CgroupMount,
    Pressure,
    ProcessStat,
    ProcessVanished,
    Procfs,
    SchedStat,
    Throttling,
    Unreadable,
    parse_cgroup2_mount,
    parse_cgroup_mount,
    parse_cgroups,
    parse_cpu_cgroup,
    parse_file_nr,
    parse_open_files_limits,
    parse_pressure,
    parse_schedstat,
    parse_socket_link,
    parse_stat,
    parse_state,
    parse_systemd_cgroup,
    parse_throttling,
    parse_unified_cgroup,
    parse_wait_channel,
)
from support.proctree_fake import BOOT_ID, ProcTree, limits, stat
from support.programs import wait_until

UNIFIED = b"0::/system.slice/nginx.service\n"
HYBRID = (
    b"12:pids:/system.slice/nginx.service\n"
    b"5:cpu,cpuacct:/\n"
    b"1:name=systemd:/system.slice/nginx.service\n"
    b"0::/system.slice/nginx.service\n"
)
HYBRID_ROOT = b"9:name=systemd:/system.slice/nginx.service\n8:pids:/\n0::/\n"
LEGACY = b"4:memory:/x\n1:name=systemd:/user.slice\n"

# Of a host with the hybrid layout of systemd.
MOUNTINFO = (
    b"24 29 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw\n"
    b"31 24 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:5 - tmpfs tmpfs ro,mode=755\n"
    b"32 31 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:6 - cgroup2 cgroup2 rw,nsdelegate\n"
    b"33 31 0:29 / /sys/fs/cgroup/systemd rw,nosuid shared:7 - cgroup cgroup rw,xattr,name=systemd\n"
)


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


@pytest.fixture
def procfs(tree: ProcTree) -> Procfs:
    return Procfs(tree.root)


class RefusingProcfs(Procfs):
    """Reads as a user without rights would: the kernel says EACCES."""

    def _read(self, name: str) -> bytes:
        raise PermissionError(13, "Permission denied", name)


class TestStat:
    @pytest.mark.parametrize(
        ("name", "comm"),
        [
            (b"nginx", "nginx"),
            (b"tmux: server", "tmux: server"),
            (b"a) S 1 (b", "a) S 1 (b"),
            (b"((sd-pam))", "((sd-pam))"),
            (b"two\nlines", "two\nlines"),
            (b"caf\xc3\xa9", "café"),
            (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2),
            (b"", ""),
            (b") ", ") "),
        ],
    )
    def test_a_name_may_hold_any_byte(self, name: bytes, comm: str) -> None:
        """It ends at the last parenthesis, whatever it holds; bytes that are not UTF-8 are replaced."""
        assert parse_stat(stat(42, name, 987_654)) == ProcessStat(comm, 987_654, kernel_thread=False, zombie=False)

    def test_a_kernel_thread_is_told_by_its_flag(self) -> None:
        """PF_KTHREAD, in the ninth field."""
        assert parse_stat(stat(2, "kthreadd", 3, kernel_thread=True)).kernel_thread

    def test_a_zombie_is_told_by_its_state(self) -> None:
        """It holds nothing any more, and waits for its parent."""
        assert parse_stat(stat(7, "worker", 3).replace(b") S ", b") Z ")).zombie

    def test_the_text_of_this_process_parses(self) -> None:
        """The real thing."""
        own = Procfs().stat(os.getpid())
        assert own.start_ticks > 0
        assert not own.kernel_thread


class TestLimits:
    def test_both_limits_are_read(self) -> None:
        """The soft one first."""
        assert parse_open_files_limits(limits("1024", "4096").encode()) == (1024, 4096)

    def test_unlimited_is_none(self) -> None:
        """There is no number to compare with."""
        assert parse_open_files_limits(limits("1024", "unlimited").encode()) == (1024, None)
        assert parse_open_files_limits(limits("unlimited", "unlimited").encode()) == (None, None)

    def test_a_text_without_the_line_is_refused(self) -> None:
        """Rather than taken as no limit."""
        with pytest.raises(ValueError, match="Max open files"):
            parse_open_files_limits(b"Max cpu time              unlimited            unlimited            seconds\n")


class TestHostFiles:
    def test_file_nr_yields_allocated_and_limit(self) -> None:
        """The second field has been 0 since Linux 2.6."""
        assert parse_file_nr(b"1952\t0\t9223372036854775807\n") == (1952, 2**63 - 1)


class TestThreads:
    @pytest.mark.parametrize("name", [b"worker", b"a) S 1 (b", b") R ", b""])
    def test_the_state_follows_the_name(self, name: bytes) -> None:
        """Which may look like the rest of the line."""
        assert parse_state(b"42 (" + name + b") D 1 42") == "D"

    def test_schedstat_is_in_seconds(self) -> None:
        """Nanoseconds run and waited, and how often."""
        assert parse_schedstat(b"2500000000 500000000 17\n") == SchedStat(2.5, 0.5, 17)

    def test_schedstat_without_figures_is_unknown(self) -> None:
        """Zeros are what a kernel without CONFIG_SCHED_INFO writes."""
        assert parse_schedstat(b"0 0 0\n") is None

    @pytest.mark.parametrize(
        ("text", "name"), [(b"futex_do_wait", "futex_do_wait"), (b"0", None), (b"", None), (b"0\n", None)]
    )
    def test_a_wait_channel_is_a_function_or_unknown(self, text: bytes, name: str | None) -> None:
        """ "0" stands for running, and for no right to know."""
        assert parse_wait_channel(text) == name

    def test_a_thread_on_a_lock_is_seen_to_sleep_there(self) -> None:
        """The real thing: a thread of this process."""
        lock = threading.Lock()
        with lock:
            thread = threading.Thread(target=lock.acquire)
            thread.start()
            assert thread.native_id is not None
            procfs, pid, native_id = Procfs(), os.getpid(), thread.native_id
            wait_until(lambda: procfs.thread_state(pid, native_id) == "S", 10, "the thread sleeps")
            assert {pid, native_id} <= set(procfs.threads(pid))
            channel = procfs.wait_channel(pid, native_id)
            assert channel is None or "futex" in channel
        thread.join()

    def test_the_time_a_thread_ran_is_counted(self) -> None:
        """The real thing: this thread."""
        schedstat = Procfs().schedstat(os.getpid(), threading.get_native_id())
        if schedstat is None:
            pytest.skip("this kernel keeps no such figures (CONFIG_SCHED_INFO)")
        assert schedstat.ran > 0
        assert schedstat.timeslices > 0


class TestPressure:
    def test_the_share_of_some_is_read(self) -> None:
        """Not that of "full"; the share from 0 to 1, the total in seconds."""
        text = b"some avg10=12.50 avg60=0.40 avg300=0.19 total=2500000\nfull avg10=99.00 avg60=0 avg300=0 total=9\n"
        assert parse_pressure(text) == Pressure(0.125, 2.5)

    def test_a_text_without_the_line_is_refused(self) -> None:
        """Rather than taken as no pressure."""
        with pytest.raises(ValueError, match="some"):
            parse_pressure(b"full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")

    def test_without_a_file_it_is_unknown(self, tree: ProcTree, procfs: Procfs) -> None:
        """PSI is an option of the kernel. One that was started without it has files that can not be read."""
        file = tree.root / "pressure/io"
        assert procfs.pressure_at(file) is None
        tree.write("pressure/io", "")
        assert procfs.pressure_at(file) is None
        tree.write("pressure/io", "some avg10=1.00 avg60=0.40 avg300=0.19 total=7\n")
        assert procfs.pressure_at(file) == Pressure(0.01, 7e-6)

    def test_pressure_of_this_host_parses(self) -> None:
        """The real thing, where there is one."""
        pressure = Procfs().pressure_at(Path("/proc/pressure/cpu"))
        assert pressure is None or 0 <= pressure.avg10 <= 1


class TestThrottling:
    @pytest.mark.parametrize(
        ("text", "throttling"),
        [
            (b"usage_usec 9\nnr_periods 20\nnr_throttled 19\nthrottled_usec 1900000\n", Throttling(20, 19, 1.9)),
            (b"nr_periods 20\nnr_throttled 19\nthrottled_time 1900000000\nnr_bursts 0\n", Throttling(20, 19, 1.9)),
            (b"usage_usec 9\nuser_usec 4\nsystem_usec 5\n", None),
            (b"", None),
        ],
    )
    def test_both_versions_tell_in_seconds(self, text: bytes, throttling: Throttling | None) -> None:
        """Microseconds in version 2, nanoseconds in version 1; nothing where the controller is off."""
        assert parse_throttling(text) == throttling


class TestCgroups:
    @pytest.mark.parametrize(
        ("text", "unified", "systemd"),
        [
            (UNIFIED, "/system.slice/nginx.service", "/system.slice/nginx.service"),
            (HYBRID, "/system.slice/nginx.service", "/system.slice/nginx.service"),
            (HYBRID_ROOT, "/", "/system.slice/nginx.service"),
            (LEGACY, None, "/user.slice"),
            (b"0::/\n", "/", "/"),
            (b"4:memory:/x\n", None, None),
            (b"", None, None),
            (b"0::/a:b/c\n", "/a:b/c", "/a:b/c"),
            (b"0::/caf\xe9\n", "/caf\udce9", "/caf\udce9"),
        ],
    )
    def test_the_path_is_found_on_every_layout(self, text: bytes, unified: str | None, systemd: str | None) -> None:
        """Unified, hybrid and legacy hosts; a path may hold colons and bytes that are not UTF-8."""
        assert parse_unified_cgroup(text) == unified
        assert parse_systemd_cgroup(text) == systemd

    def test_the_unified_hierarchy_is_found_among_the_mounts(self) -> None:
        """By the type of the file system, with any number of optional fields before it."""
        assert parse_cgroup2_mount(MOUNTINFO) == Path("/sys/fs/cgroup/unified")
        assert parse_cgroup2_mount(b"30 20 0:26 / /cg rw - cgroup2 none rw\n") == Path("/cg")
        assert parse_cgroup2_mount(b"30 20 0:26 / /a\\040b\\134c rw - cgroup2 none rw\n") == Path("/a b\\c")
        assert parse_cgroup2_mount(b"30 20 0:26 / /cg rw shared:1 master:2 - cgroup2 none rw\n") == Path("/cg")

    def test_without_the_unified_hierarchy_there_is_no_mount(self) -> None:
        """A mount of version 1 is none."""
        assert parse_cgroup2_mount(b"33 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n") is None

    def test_the_hierarchy_with_the_cpu_controller_is_found(self) -> None:
        """By the controller, which may share a hierarchy; cpuset and cpuacct are others."""
        assert parse_cpu_cgroup(b"9:cpuset:/a\n7:cpuacct:/b\n5:cpu,cpuacct:/c\n0::/d\n") == "/c"
        assert parse_cpu_cgroup(b"9:cpuset:/a\n1:name=cpu:/b\n0::/d\n") is None
        mounts = MOUNTINFO + (
            b"34 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
            b"35 31 0:31 /docker/7 /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        )
        assert parse_cgroup_mount(mounts, "cpu") == CgroupMount(Path("/sys/fs/cgroup/cpu,cpuacct"), "/docker/7")
        assert parse_cgroup_mount(MOUNTINFO, "cpu") is None
        assert parse_cgroup_mount(mounts) == CgroupMount(Path("/sys/fs/cgroup/unified"), "/")

    def test_all_paths_of_a_process_are_listed(self) -> None:
        """In the order of the file."""
        assert parse_cgroups(HYBRID_ROOT) == ["/system.slice/nginx.service", "/", "/"]

    @pytest.mark.parametrize(
        ("root", "cgroup", "folders"),
        [
            ("/", "/a/b", ["/m/a/b", "/m/a"]),
            ("/", "/", []),
            ("/docker/7", "/docker/7/x", ["/m/x"]),
            ("/docker/7", "/docker/7", []),
            ("/docker/7", "/docker/77", []),
            ("/", "/../b", []),
        ],
    )
    def test_a_cgroup_is_a_folder_and_its_ancestors(self, root: str, cgroup: str, folders: list[str]) -> None:
        """Without the root, which is the whole host or all that is seen of it; none where it is out of sight."""
        assert [str(folder) for folder in CgroupMount(Path("/m"), root).folders(cgroup)] == folders


class TestSocketLinks:
    @pytest.mark.parametrize(
        ("link", "inode"),
        [
            ("socket:[4294967295]", 4_294_967_295),
            ("pipe:[7]", None),
            ("anon_inode:[eventpoll]", None),
            ("/tmp/socket:[7]", None),
            ("/dev/null", None),
        ],
    )
    def test_only_sockets_have_an_inode(self, link: str, inode: int | None) -> None:
        """A file may be called like one, but its path begins with a slash."""
        assert parse_socket_link(link) == inode


class TestTree:
    def test_processes_are_listed_by_ascending_pid(self, tree: ProcTree, procfs: Procfs) -> None:
        """By number, and nothing but numbers."""
        for pid in (100, 20, 3):
            tree.add(pid)
        assert procfs.pids() == [3, 20, 100]

    def test_the_host_is_read(self, procfs: Procfs) -> None:
        """Each file by its method."""
        assert procfs.boot_id() == BOOT_ID
        assert procfs.file_nr() == (1952, 2**63 - 1)
        assert procfs.resident_bytes() == 250 * os.sysconf("SC_PAGE_SIZE")

    def test_a_process_is_read(self, tree: ProcTree, procfs: Procfs) -> None:
        """Each file by its method."""
        tree.add(42, 777, "my worker", fds={0: "/dev/null", 3: 9001}, cgroup="/app.slice")
        assert procfs.stat(42) == ProcessStat("my worker", 777, kernel_thread=False, zombie=False)
        assert procfs.open_files_limits(42) == (1024, 1_048_576)
        assert procfs.cgroup(42) == b"0::/app.slice\n"
        assert procfs.fd_count(42, by_stat=False) == 2
        with procfs.fd_folder(42) as folder:
            inodes = {fd: procfs.socket_inode(folder, fd) for fd in procfs.fds(folder)}
        assert inodes == {"0": None, "3": 9001}

    def test_a_program_and_its_arguments_are_read(self, tree: ProcTree, procfs: Procfs) -> None:
        """An argument may be empty, or hold bytes that are not UTF-8; a process may have none at all."""
        tree.add(42)
        tree.program(42, "/usr/bin/x", "x", "", "caf\udce9")
        assert procfs.executable(42) == "/usr/bin/x"
        assert procfs.command_line(42) == ["x", "", "caf\udce9"]
        tree.write("42/cmdline", "")
        assert procfs.command_line(42) == []

    def test_processes_of_one_namespace_share_its_inode(self, tree: ProcTree, procfs: Procfs) -> None:
        """And those of another have another."""
        tree.add(1)
        tree.add(2)
        tree.add(3, namespace="container")
        assert procfs.network_namespace(1) == procfs.network_namespace(2)
        assert procfs.network_namespace(1) != procfs.network_namespace(3)

    def test_a_long_file_is_read_whole(self, tree: ProcTree, procfs: Procfs) -> None:
        """More than one read of 64 KiB."""
        content = b"0::/" + b"x" * 200_000 + b"\n"
        tree.write("42/cgroup", content)
        assert procfs.cgroup(42) == content

    def test_a_vanished_process_is_told_by_every_reader(self, procfs: Procfs) -> None:
        """ENOENT is ProcessVanished, whatever was to be read."""
        with pytest.raises(ProcessVanished):
            procfs.stat(42)
        with pytest.raises(ProcessVanished):
            procfs.open_files_limits(42)
        with pytest.raises(ProcessVanished):
            procfs.cgroup(42)
        with pytest.raises(ProcessVanished):
            procfs.network_namespace(42)
        with pytest.raises(ProcessVanished):
            procfs.fd_count(42, by_stat=False)
        with pytest.raises(ProcessVanished), procfs.fd_folder(42):
            pass

    def test_a_descriptor_that_closes_meanwhile_is_no_socket(self, tree: ProcTree, procfs: Procfs) -> None:
        """Between listing and reading, which is normal."""
        tree.add(42, fds={3: 9001})
        with procfs.fd_folder(42) as folder:
            (fd,) = procfs.fds(folder)
            (tree.root / "42/fd" / fd).unlink()
            assert procfs.socket_inode(folder, fd) is None

    def test_a_refused_file_is_unreadable(self, tree: ProcTree) -> None:
        """EACCES is Unreadable, not a vanished process."""
        with pytest.raises(Unreadable):
            RefusingProcfs(tree.root).stat(42)

    def test_an_error_of_the_host_is_passed_on(self, tree: ProcTree) -> None:
        """Files of the host belong to no process: OSError stays what it is."""
        (tree.root / "sys/fs/file-nr").unlink()
        with pytest.raises(FileNotFoundError):
            Procfs(tree.root).file_nr()
        with pytest.raises(PermissionError):
            RefusingProcfs(tree.root).file_nr()

    def test_the_folder_is_closed_in_any_case(self, tree: ProcTree, procfs: Procfs) -> None:
        """No descriptor of ours is left open by an error."""
        tree.add(42)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(RuntimeError), procfs.fd_folder(42):
            raise RuntimeError
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_tree_that_is_no_procfs_counts_by_listing(self, procfs: Procfs) -> None:
        """The size of a folder elsewhere is no number of descriptors."""
        assert not procfs.counts_fds_by_stat()

    def test_both_ways_to_count_agree_on_real_procfs(self) -> None:
        """Listing opens a descriptor of its own for the folder."""
        procfs = Procfs()
        if not procfs.counts_fds_by_stat():
            pytest.skip("this kernel does not tell the number by stat (Linux 6.2 does)")
        assert procfs.fd_count(os.getpid(), by_stat=False) == procfs.fd_count(os.getpid(), by_stat=True) + 1
