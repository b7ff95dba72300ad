"""Network namespaces of this kernel: found, read, and let go of."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from loiter_agent.inet_diag import ALL_STATES, TCP_ESTABLISHED, TCP_LISTEN, TCP_TIME_WAIT
from loiter_agent.namespaces import Namespaces, OpenNamespace
from loiter_agent.procfs import Procfs
from support.namespace_reader import count, processes, states
from support.netns import Netns, netns
from support.programs import ROOT, Program, leaklab, run, running, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="entering a network namespace takes root")

READER = ROOT / "tests/support/namespace_reader.py"
SS_STATES = {"ESTAB": 1, "FIN-WAIT-1": 4, "FIN-WAIT-2": 5, "TIME-WAIT": 6, "CLOSE-WAIT": 8, "LISTEN": 10}

MOVES = """
import ctypes, socket, sys
print("ready", flush=True)
sys.stdin.readline()
assert ctypes.CDLL(None).unshare(0x40000000) == 0
listener = socket.socket()
listener.bind(("", 0))
listener.listen()
print("moved", flush=True)
sys.stdin.read()
"""


class Found:
    """The namespaces of this machine as a sampler that goes on sees them."""

    def __init__(self) -> None:
        self.procfs = Procfs()
        self.namespaces = Namespaces(self.procfs)

    def refresh(self) -> dict[int, OpenNamespace]:
        """By inode number."""
        return {one.id: one for one in self.namespaces.refresh(processes(self.procfs))}

    def of(self, pid: int) -> OpenNamespace:
        """The one that a process is in."""
        return self.refresh()[self.procfs.network_namespace(pid)]


@pytest.fixture
def found() -> Iterator[Found]:
    one = Found()
    yield one
    one.namespaces.close()


@contextmanager
def holder(inside: Netns, folder: Path, *counts: str) -> Iterator[Program]:
    """Sockets that are held still in a namespace."""
    with running(inside.command(leaklab("holder", *counts)), folder / f"{'-'.join(counts)}.log") as program:
        assert program.line() == "ready 0", program.logged()
        yield program


def ss(inside: Netns) -> dict[int, int]:
    """Sockets by state, as ss(8) counts them."""
    done = run(inside.command(["ss", "-tan"]))
    assert done.returncode == 0, done.stderr
    return dict(Counter(SS_STATES[line.split()[0]] for line in done.stdout.splitlines()[1:]))


def ip(*words: str) -> None:
    done = run(["ip", *words])
    assert done.returncode == 0, done.stderr


def test_sockets_of_another_namespace_are_those_that_ss_counts_there(found: Found, tmp_path: Path) -> None:
    """And the thread that asks stays where it is."""
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with (
        netns() as inside,
        holder(inside, tmp_path, "--established", "7", "--close-wait", "5", "--time-wait", "3") as it,
    ):
        box = found.of(it.pid)
        assert (box.own, box.how, box.name) == (False, "sock_diag", "")
        assert states(box) == ss(inside)
        stat = box.sock_stat()
        assert stat is not None
        assert (stat.inuse, stat.tw) == (1 + 2 * 7 + 2 * 5, 3)
        assert box.idle_sockets() is None
        assert box.time_wait_overflows == 0
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def test_the_own_namespace_is_first_and_the_only_one_of_its_own(found: Found) -> None:
    """It is read although nothing had to be entered."""
    first, *others = found.refresh().values()
    assert first.own
    assert not any(one.own for one in others)
    assert first.id == os.stat("/proc/self/ns/net").st_ino
    assert first.settings is not None
    assert first.settings.port_range is not None
    assert first.time_wait_overflows is not None


def test_an_idle_namespace_is_known_without_a_dump(found: Found, tmp_path: Path) -> None:
    """One without sockets, one with listeners alone; not one with a connection, nor one with TIME_WAIT."""
    with ExitStack() as stack:
        empty, listening, talking, closed = (stack.enter_context(netns()) for _ in range(4))
        stack.enter_context(holder(listening, tmp_path))
        stack.enter_context(holder(listening, tmp_path, "--ipv6"))
        stack.enter_context(holder(talking, tmp_path, "--established", "1"))
        log = tmp_path / "closed.log"
        passing = Program(closed.command(leaklab("holder", "--time-wait", "1")), log)
        assert passing.line() == "ready 0"
        passing.stop()

        assert found.of(empty._pid).idle_sockets() == []
        sockets = found.of(listening._pid).idle_sockets()
        assert sockets is not None
        assert count(sockets) == {TCP_LISTEN: 2}
        assert {chunk.family(index) for chunk in sockets for index in range(chunk.count)} == {
            socket.AF_INET,
            socket.AF_INET6,
        }
        assert found.of(talking._pid).idle_sockets() is None
        after = found.of(closed._pid)
        assert after.idle_sockets() is None
        assert states(after) == {TCP_TIME_WAIT: 1}


def test_settings_are_those_of_the_namespace(found: Found) -> None:
    """And are read again after a while."""
    with netns() as inside:
        write = 'echo "$1" > /proc/sys/net/ipv4/ip_local_port_range; echo "$2" > /proc/sys/net/ipv4/tcp_tw_reuse'
        assert run(inside.command(["sh", "-c", write, "sh", "20000 20999", "1"])).returncode == 0
        assert run(inside.command(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=20990-30000"])).returncode == 0
        settings = found.of(inside._pid).settings
        assert settings is not None
        assert (settings.port_range, settings.reserved_ports, settings.tw_reuse) == ((20_000, 20_999), 10, 1)
        assert run(inside.command(["sh", "-c", write, "sh", "20000 20499", "0"])).returncode == 0
        for _ in range(30):
            settings = found.of(inside._pid).settings
        assert settings is not None
        assert (settings.port_range, settings.reserved_ports, settings.tw_reuse) == ((20_000, 20_499), 0, 0)


def test_a_namespace_that_a_bind_mount_alone_keeps_is_read_by_its_name(found: Found, tmp_path: Path) -> None:
    """It comes and goes with `ip netns add` and `ip netns delete`; a socket may be left in it."""
    name = f"loiter-test-{os.getpid()}"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        program = Program(["ip", "netns", "exec", name, *leaklab("holder", "--time-wait", "4")], tmp_path / "log")
        assert program.line() == "ready 0", program.logged()
        program.stop()
        (box,) = [one for one in found.refresh().values() if one.name == name]
        assert (box.member, box.how) == (None, "sock_diag")
        assert states(box) == {TCP_TIME_WAIT: 4}
    finally:
        ip("netns", "delete", name)
    assert name not in {one.name for one in found.refresh().values()}
    assert box.how is None


def test_a_process_that_moves_to_a_namespace_of_its_own_is_followed(found: Found, tmp_path: Path) -> None:
    """Its name and its pid are what they were."""
    with running([sys.executable, "-c", MOVES], tmp_path / "log") as program:
        assert program.line() == "ready"
        assert found.of(program.pid).own
        assert program.process.stdin is not None
        program.process.stdin.write(b"go\n")
        program.process.stdin.flush()
        assert program.line() == "moved"
        box = found.of(program.pid)
        assert not box.own
        assert box.member is not None
        assert box.member.pid == program.pid
        assert states(box) == {TCP_LISTEN: 1}


def test_a_namespace_dies_with_its_last_process(found: Found, tmp_path: Path) -> None:
    """The agent looks into it and does not keep it: a veth pair with one end in there is gone."""
    with netns() as outer:
        with netns() as inner, holder(inner, tmp_path, "--established", "3") as it:
            link = ["ip", "link", "add", "marker", "type", "veth", "peer", "name", "inside", "netns", str(inner._pid)]
            made = run(outer.command(link))
            if made.returncode:
                pytest.skip(f"no veth on this kernel: {made.stderr}")
            box = found.of(it.pid)
            assert states(box)[TCP_ESTABLISHED] == 6
        marker = outer.command(["ip", "link", "show", "marker"])
        assert run(marker).returncode == 0  # our descriptors hold it
        assert box.id not in found.refresh()
        assert box.how is None
        wait_until(lambda: run(marker).returncode != 0, 20, "the namespace is gone")


def test_namespaces_that_come_and_go_leave_nothing_behind(found: Found) -> None:
    """Numbers may be used again; descriptors and threads are given back."""
    found.refresh()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with netns() as inside:
            box = found.of(inside._pid)
            assert (box.how, box.idle_sockets()) == ("sock_diag", [])
        found.refresh()
    assert len(os.listdir("/proc/self/fd")) == before
    assert "setns" not in {thread.name for thread in threading.enumerate()}


def test_a_dump_that_is_given_up_does_not_lead_out_of_the_namespace(found: Found, tmp_path: Path) -> None:
    """The socket is opened anew, in there."""
    with netns() as inside, holder(inside, tmp_path, "--established", "600") as it:
        box = found.of(it.pid)
        dump = box.dump(ALL_STATES)
        next(dump)
        dump.close()
        assert states(box) == {TCP_LISTEN: 1, TCP_ESTABLISHED: 1_200}


def read_without(*capabilities: str) -> tuple[list[dict[str, object]], str]:
    """What the reader finds, as root that lacks some capabilities, and what it logs."""
    lacking = ",".join(f"-{one}" for one in capabilities)
    done = subprocess.run(
        ["setpriv", f"--bounding-set={lacking}", f"--inh-caps={lacking}", sys.executable, READER],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_without_the_right_to_enter_procfs_tells_the_same(tmp_path: Path) -> None:
    """Without CAP_SYS_ADMIN, with those that reading other users' descriptors takes. Said in one line of the log."""
    name = f"loiter-test-{os.getpid()}"
    with ExitStack() as stack:
        boxes = [stack.enter_context(netns()) for _ in range(2)]
        counts = ("--established", "7", "--close-wait", "5", "--time-wait", "3")
        held = [stack.enter_context(holder(boxes[0], tmp_path, *counts))]
        held.append(stack.enter_context(holder(boxes[0], tmp_path, "--ipv6", *counts)))
        ip("netns", "add", name)
        stack.callback(ip, "netns", "delete", name)

        read, log = read_without("sys_admin")
        by_id = {one["id"]: one for one in read}
        first = by_id[Procfs().network_namespace(held[0].pid)]
        expected = ss(boxes[0])
    assert (first["how"], first["settings"]) == ("procfs", False)
    assert {int(state): number for state, number in first["states"].items()} == expected  # type: ignore[attr-defined]
    assert sum(expected.values()) == 2 * (1 + 14 + 10 + 3)
    assert [(one["how"], one["states"]) for one in read if one["name"] == name] == [(None, None)]
    assert [one["how"] for one in read if one["own"]] == ["sock_diag"]
    assert log.count("can not be entered") == 1
    assert "Traceback" not in log
