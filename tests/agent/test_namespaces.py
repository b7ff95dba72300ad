"""Network namespaces as a procfs shows them: what is read from outside, and what is not to be had."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from loiter_agent import namespaces as namespaces_module
from loiter_agent.inet_diag import ALL_STATES, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_LISTEN
from loiter_agent.namespace_files import (
    NamespaceSettings,
    SockStat,
    count_reserved_ports,
    parse_port_range,
    parse_sock_stat,
    parse_time_wait_overflows,
    read_settings,
)
from loiter_agent.namespaces import Namespaces, _Attempts, parse_namespace_mounts
from loiter_agent.open_namespace import OpenNamespace
from loiter_agent.procfs import Procfs
from loiter_agent.sample import ProcessFds, ProcessKey
from support.namespace_reader import states
from support.proctree_fake import ProcTree

HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTENER = (
    "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 71 1 0 0 0 0 0 0\n"
)
TALKING = (
    "   1: 0100007F:1F90 0100007F:C350 08 00000000:00000001 00:00000000 00000000     0        0 72 1 0 0 0 0 0 0\n"
)
SOCKSTAT = "sockets: used 290\nTCP: inuse 3 orphan 1 tw 42 alloc 12 mem 3\nUDP: inuse 4 mem 0\n"
SOCKSTAT6 = "TCP6: inuse 2\nUDP6: inuse 1\n"
QUIET = "sockets: used 290\nTCP: inuse 0 orphan 1 tw 0 alloc 12 mem 3\n"


class Host:
    """A fake procfs with a namespace "host" of the agent's own, and others in which processes are."""

    def __init__(self, folder: Path) -> None:
        self.tree = ProcTree(folder)
        self.folder = folder / "namespaces"
        (self.tree.root / "self/ns").mkdir(parents=True)
        (self.folder / "host").touch()
        (self.tree.root / "self/ns/net").symlink_to(self.folder / "host")
        self.processes: list[ProcessFds] = []

    def add(self, pid: int, namespace: str, start_ticks: int | None = None) -> None:
        """Adds a process with a listener and a CLOSE_WAIT socket in /proc/PID/net/tcp."""
        self.tree.add(pid, start_ticks, namespace=namespace)
        self.tree.write(f"{pid}/net/tcp", HEADING + LISTENER + TALKING)
        self.tree.write(f"{pid}/net/sockstat", SOCKSTAT)
        key = ProcessKey(pid, start_ticks if start_ticks is not None else pid)
        self.processes.append(ProcessFds(key, "worker", None, None, namespace=self.inode(namespace)))

    def inode(self, namespace: str) -> int:
        """The inode number of a namespace."""
        return os.stat(self.folder / namespace).st_ino

    def open(self) -> Namespaces:
        """What is tested. Its namespaces can not be entered: they are files."""
        return Namespaces(Procfs(self.tree.root))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def namespaces(host: Host) -> Iterator[Namespaces]:
    opened = host.open()
    yield opened
    opened.close()


class TestWithoutTheRightToEnter:
    def test_a_namespace_is_read_through_its_oldest_process(self, host: Host, namespaces: Namespaces) -> None:
        """Its sockets come in the same form as those of sock_diag."""
        host.add(300, "box", start_ticks=5_000)
        host.add(200, "box", start_ticks=7_000)
        own, box = namespaces.refresh(host.processes)
        assert (own.own, own.how, box.own, box.how) == (True, "sock_diag", False, "procfs")
        assert (box.id, box.name, box.member) == (host.inode("box"), "", ProcessKey(300, 5_000))
        assert states(box) == {TCP_LISTEN: 1, TCP_CLOSE_WAIT: 1}
        (chunk,) = box.dump(1 << TCP_CLOSE_WAIT)
        assert chunk.inodes() == [72]
        assert box.sock_stat() == SockStat(inuse=3, orphan=1, tw=42)
        assert box.settings is None
        assert box.idle_sockets() is None

    def test_both_families_are_read(self, host: Host, namespaces: Namespaces) -> None:
        """A kernel without IPv6 has no tcp6."""
        host.add(300, "box")
        words = "00000000000000000000000001000000"
        line = LISTENER.replace("0100007F", words).replace(" 00000000:0000", " " + "0" * 32 + ":0000")
        host.tree.write("300/net/tcp6", HEADING + line)
        host.tree.write("300/net/sockstat6", SOCKSTAT6)
        _, box = namespaces.refresh(host.processes)
        assert states(box) == {TCP_LISTEN: 2, TCP_CLOSE_WAIT: 1}
        assert {chunk.family(0) for chunk in box.dump(ALL_STATES)} == {socket.AF_INET, socket.AF_INET6}
        assert box.sock_stat() == SockStat(inuse=5, orphan=1, tw=42)

    def test_when_a_process_ends_the_next_one_is_asked(self, host: Host, namespaces: Namespaces) -> None:
        """And when none is left, that is an error of this namespace."""
        host.add(300, "box")
        host.add(301, "box")
        _, box = namespaces.refresh(host.processes)
        host.tree.remove(300)
        assert states(box) == {TCP_LISTEN: 1, TCP_CLOSE_WAIT: 1}
        host.tree.remove(301)
        with pytest.raises(OSError, match="no process is left"):
            list(box.dump(ALL_STATES))
        assert box.sock_stat() is None
        assert box.idle_sockets() is None

    def test_a_process_that_has_moved_does_not_speak_for_the_namespace(
        self, host: Host, namespaces: Namespaces
    ) -> None:
        """Its net/tcp is that of where it is now."""
        host.add(300, "box")
        _, box = namespaces.refresh(host.processes)
        (host.folder / "elsewhere").touch()
        (host.tree.root / "300/ns/net").unlink()
        (host.tree.root / "300/ns/net").symlink_to(host.folder / "elsewhere")
        with pytest.raises(OSError, match="no process is left"):
            list(box.dump(ALL_STATES))

    def test_a_namespace_without_sockets_is_idle(self, host: Host, namespaces: Namespaces) -> None:
        """Two short files tell; the orphans there are those of the whole host."""
        host.add(300, "box")
        host.tree.write("300/net/sockstat", QUIET)
        own, box = namespaces.refresh(host.processes)
        assert box.idle_sockets() == []
        assert own.idle_sockets() is None

    def test_a_torn_text_is_an_error_of_this_namespace(self, host: Host, namespaces: Namespaces) -> None:
        """And at the next refresh it is read again."""
        host.add(300, "box")
        host.tree.write("300/net/tcp", HEADING + LISTENER[:40])
        _, box = namespaces.refresh(host.processes)
        with pytest.raises(OSError, match="/proc/PID/net/tcp"):
            list(box.dump(ALL_STATES))
        host.tree.write("300/net/tcp", HEADING + LISTENER)
        _, box = namespaces.refresh(host.processes)
        assert states(box) == {TCP_LISTEN: 1}

    def test_what_only_a_bind_mount_keeps_is_not_read(self, host: Host, namespaces: Namespaces) -> None:
        """It is there, with its name, and said to be unread."""
        host.tree.write("self/mountinfo", "36 35 0:4 net:[77] /nowhere/blue rw shared:1 - nsfs nsfs rw\n")
        _, blue = namespaces.refresh([])
        assert (blue.id, blue.name, blue.member, blue.how) == (77, "blue", None, None)
        assert (blue.sock_stat(), blue.idle_sockets(), blue.settings, blue.time_wait_overflows) == (None,) * 4
        with pytest.raises(OSError, match="can not be read"):
            list(blue.dump(ALL_STATES))

    def test_a_namespace_that_nothing_keeps_is_forgotten(self, host: Host, namespaces: Namespaces) -> None:
        """One that comes back under the same number is looked at anew."""
        host.add(300, "box")
        assert len(namespaces.refresh(host.processes)) == 2
        assert len(namespaces.refresh([])) == 1
        assert [one.how for one in namespaces.refresh(host.processes)] == ["sock_diag", "procfs"]

    def test_it_is_said_once_for_all(
        self, host: Host, namespaces: Namespaces, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One line, however many namespaces there are and however often they are tried."""
        for number in range(5):
            host.add(300 + number, f"box{number}")
        with caplog.at_level(logging.INFO):
            for _ in range(10):
                namespaces.refresh(host.processes)
        assert [record.getMessage() for record in caplog.records] == [
            "5 other network namespaces can not be entered (Invalid argument); their sockets are read from"
            " /proc/PID/net/tcp, at a higher cost, and not at all where they have no process"
        ]

    def test_a_namespace_that_has_just_gone_is_nothing_to_be_told_of(
        self, host: Host, namespaces: Namespaces, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A container that ended between the scan and the refresh."""
        host.add(300, "box")
        host.tree.remove(300)
        with caplog.at_level(logging.INFO):
            namespaces.refresh(host.processes)
        assert caplog.records == []


class TestWhichNamespaces:
    def test_the_own_comes_first_and_is_counted_once(self, host: Host, namespaces: Namespaces) -> None:
        """Processes in it are its members."""
        host.add(300, "host", start_ticks=9)
        (own,) = namespaces.refresh(host.processes)
        assert (own.id, own.member) == (host.inode("host"), ProcessKey(300, 9))

    def test_processes_of_unknown_namespace_are_in_none(self, namespaces: Namespaces) -> None:
        """Their namespace was not ours to read."""
        (own,) = namespaces.refresh([ProcessFds(ProcessKey(300, 9), "worker", None, None, namespace=None)])
        assert own.member is None

    def test_without_the_own_number_there_is_only_the_own(self, host: Host) -> None:
        """The others could not be told from it."""
        (host.tree.root / "self/ns/net").unlink()
        host.add(300, "box")
        namespaces = host.open()
        (own,) = namespaces.refresh(host.processes)
        assert own.own
        namespaces.close()

    def test_those_over_the_limit_are_not_read(
        self, host: Host, namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is always the same ones that are."""
        monkeypatch.setattr(namespaces_module, "MAX_NAMESPACES", 3)
        for number in range(3):
            host.add(300 + number, f"box{number}")
        first = host.processes[1:]
        held = {one.id for one in namespaces.refresh(first)[1:]}
        after = namespaces.refresh(host.processes)
        assert len(after) == 4
        assert {one.id for one in after[1:] if one.how} == held

    def test_the_first_process_of_the_host_is_in_the_hosts_namespace(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That of a container is not: its pid namespace is not the first one."""
        host.add(1, "host")
        (host.folder / "pids").touch()
        (host.tree.root / "1/ns/pid").symlink_to(host.folder / "pids")
        namespaces = host.open()
        assert [one.name for one in namespaces.refresh(host.processes)] == [""]
        namespaces.close()
        monkeypatch.setattr(namespaces_module, "_PID_NS_INIT_INO", host.inode("pids"))
        namespaces = host.open()
        assert [one.name for one in namespaces.refresh(host.processes)] == ["host"]
        namespaces.close()

    def test_bind_mounts_of_pid_1_are_found(self, host: Host, namespaces: Namespaces) -> None:
        """The agent may be in a mount namespace of its own."""
        host.tree.write("1/mountinfo", "36 35 0:4 net:[77] /run/netns/blue rw - nsfs nsfs rw\n")
        assert [one.name for one in namespaces.refresh([])] == ["", "blue"]

    def test_closing_twice_is_harmless(self, host: Host) -> None:
        """And lets go of every descriptor."""
        before = len(os.listdir("/proc/self/fd"))
        namespaces = host.open()
        host.add(300, "box")
        namespaces.refresh(host.processes)
        namespaces.close()
        namespaces.close()
        assert len(os.listdir("/proc/self/fd")) == before


class TestTheOwnNamespace:
    def test_its_settings_are_read_at_every_refresh(self, host: Host, namespaces: Namespaces) -> None:
        """It takes no entering."""
        (own,) = namespaces.refresh([])
        assert own.settings == NamespaceSettings(None, None, None, None, None)
        host.tree.write("sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
        host.tree.write("sys/net/ipv4/tcp_max_tw_buckets", "131072\n")
        (own,) = namespaces.refresh([])
        assert own.settings == NamespaceSettings((32_768, 60_999), None, None, None, 131_072)

    def test_its_overflows_are_read_when_they_are_asked_for(self, host: Host, namespaces: Namespaces) -> None:
        """None where they are not there."""
        (own,) = namespaces.refresh([])
        assert own.time_wait_overflows is None
        host.tree.write("net/netstat", "TcpExt: A TCPTimeWaitOverflow B\nTcpExt: 1 17 2\nIpExt: A\nIpExt: 1\n")
        assert own.time_wait_overflows == 17

    def test_a_socket_that_broke_is_opened_anew(self, namespaces: Namespaces) -> None:
        """At the refresh after the failure."""
        (own,) = namespaces.refresh([])
        own._reader.close()  # type: ignore[union-attr]
        with pytest.raises(OSError, match="Bad file descriptor"):
            list(own.dump(ALL_STATES))
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
            (own,) = namespaces.refresh([])
            assert states(own)[TCP_ESTABLISHED] >= 1


def test_the_distance_between_attempts_grows() -> None:
    """At once, then after 1, 2, 4 refreshes and so on up to 64."""
    attempts, made = _Attempts(), []
    for refresh in range(300):
        if attempts.due():
            made.append(refresh)
            attempts.failed()
    assert made == [0, 1, 3, 7, 15, 31, 63, 127, 191, 255]


class TestMounts:
    def test_mounts_of_network_namespaces_are_found(self) -> None:
        """Those of other kinds of namespaces, and other files, are not."""
        text = (
            b"22 1 0:20 / /proc rw - proc proc rw\n"
            b"36 35 0:4 net:[4026532177] /run/netns/blue rw shared:15 - nsfs nsfs rw\n"
            b"37 35 0:4 mnt:[4026532178] /run/mnt rw - nsfs nsfs rw\n"
            b"38 35 0:4 net:[4026532179] /run/docker/netns/1-a\\040b\\134 rw - nsfs nsfs rw\n"
            b"39 35 8:1 /net:[12] /srv rw - ext4 /dev/sda1 rw\n"
        )
        assert parse_namespace_mounts(text) == [
            (4_026_532_177, "/run/netns/blue"),
            (4_026_532_179, "/run/docker/netns/1-a b\\"),
        ]

    @pytest.mark.parametrize("text", [b"", b" net:[", b"1 net:[2]\n", b"1 2 3 net:[5] /a - ext4 x\n", b"- net:[5] -\n"])
    def test_what_is_no_such_mount_is_passed_over(self, text: bytes) -> None:
        """However little there is of it."""
        assert parse_namespace_mounts(text) == []

    def test_a_name_is_text(self, host: Host, namespaces: Namespaces) -> None:
        """Whatever bytes the file's name is of; a mount point that is gone keeps its name."""
        host.tree.write("self/mountinfo", b"36 35 0:4 net:[77] /run/netns/\xff\xfe//deleted rw - nsfs nsfs rw\n")
        _, one = namespaces.refresh([])
        assert one.name == "\ufffd\ufffd"


class TestFiles:
    def test_sockets_of_both_families_are_added_up(self) -> None:
        """TIME_WAIT and orphans come for both in the first."""
        assert parse_sock_stat(SOCKSTAT.encode(), SOCKSTAT6.encode()) == SockStat(5, 1, 42)
        assert parse_sock_stat(SOCKSTAT.encode(), None) == SockStat(3, 1, 42)

    @pytest.mark.parametrize(
        "text", [b"", b"TCP:\n", b"TCP: inuse 3\n", b"TCP: inuse x orphan 1 tw 1\n", b"TCP: inuse"]
    )
    def test_a_sockstat_without_the_figures_is_refused(self, text: bytes) -> None:
        """It is not taken for 0."""
        with pytest.raises(ValueError):  # noqa: PT011 - each has a message of its own
            parse_sock_stat(text, None)

    @pytest.mark.parametrize(
        ("text", "count"),
        [
            (b"\n", 0),
            (b"40000\n", 1),
            (b"8080,9148-9150\n", 0),
            (b"32000-32999,60999,61000-61005\n", 233),
            (b"1-65535\n", 28_232),
        ],
    )
    def test_reserved_ports_count_within_the_range(self, text: bytes, count: int) -> None:
        """Those outside of it take nothing away."""
        assert count_reserved_ports(text, parse_port_range(b"32768\t60999\n")) == count

    def test_overflows_are_found_by_name(self) -> None:
        """Kernels differ in what they count, and in which order."""
        assert parse_time_wait_overflows(b"TcpExt: B\nTcpExt: 2\n") is None
        with pytest.raises(ValueError, match="TcpExt"):
            parse_time_wait_overflows(b"TcpExt: A B\nTcpExt: 2\n")

    def test_a_setting_that_is_no_number_is_unknown(self, host: Host) -> None:
        """The others are read all the same."""
        host.tree.write("sys/net/ipv4/tcp_tw_reuse", "2\n")
        host.tree.write("sys/net/ipv4/tcp_tw_reuse_delay", "what\n")
        host.tree.write("sys/net/ipv4/ip_local_port_range", "1\n")
        assert read_settings(str(host.tree.root)) == NamespaceSettings(None, None, 2, None, None)

    @pytest.mark.parametrize("value", ["-1", "4294967296"])
    def test_a_setting_that_no_message_can_hold_is_unknown(self, host: Host, value: str) -> None:
        """The kernel takes -1 for tcp_max_tw_buckets. A report that could not be made would be lost whole."""
        for name in ("tcp_max_tw_buckets", "tcp_tw_reuse", "tcp_tw_reuse_delay"):
            host.tree.write(f"sys/net/ipv4/{name}", f"{value}\n")
        assert read_settings(str(host.tree.root)) == NamespaceSettings(None, None, None, None, None)

    def test_the_largest_setting_that_the_kernel_takes_is_read(self, host: Host) -> None:
        """It is an int there."""
        host.tree.write("sys/net/ipv4/tcp_max_tw_buckets", "2147483647\n")
        assert read_settings(str(host.tree.root)).max_tw_buckets == 2_147_483_647


def test_an_unknown_namespace_is_read_by_nobody(tmp_path: Path) -> None:
    """Before it is located it can not be read."""
    one = OpenNamespace(Procfs(tmp_path), 7, False, bytearray(8))
    assert (one.how, one.member, one.sock_stat()) == (None, None, None)
