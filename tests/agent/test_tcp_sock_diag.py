"""The collector on this kernel: real sockets of real processes, in network namespaces of their own."""

from __future__ import annotations

import errno
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from loiter.limits import MAX_TIME_WAIT_GROUPS
from loiter_agent import close_waits
from loiter_agent.collectors import tcp_sock_diag
from loiter_agent.collectors.processes import ProcessScanner
from loiter_agent.collectors.tcp_sock_diag import SockDiagTcpCollector
from loiter_agent.inet_diag import ALL_STATES, TIME_WAIT_STATES, Chunk
from loiter_agent.open_namespace import OpenNamespace
from loiter_agent.procfs import Procfs
from loiter_agent.sample import (
    AcceptQueue,
    Ages,
    CloseWaitSockets,
    Peer,
    PortBudget,
    ProcessKey,
    ProcessSockets,
    TcpCounts,
    TcpSnapshot,
    TimeWaitGroup,
)
from loiter_agent.sock_diag import TornDumpError
from support.netns import Netns, netns
from support.programs import Program, leaklab, run, running, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="entering a network namespace takes root")

# Does what it is told, a line of Python at a time, and says when it is done.
PUPPET = """
import os, socket, sys
from socket import *
def listen(host="127.0.0.1", port=0, family=AF_INET):
    one = socket(family); one.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1); one.bind((host, port)); one.listen(4096)
    return one
names = dict(globals())
for line in sys.stdin:
    exec(line, names)
    print(names.pop("said", "done"), flush=True)
"""

INTERVAL = 10.0


def known_ages(detail: CloseWaitSockets) -> Ages:
    """The ages of sockets of which it is known since when they are in CLOSE_WAIT."""
    assert detail.ages is not None
    return detail.ages


# As /proc/net/tcp writes these states.
FIN_WAIT1_LAST_ACK_CLOSING = ("04", "09", "0B")
TIME_WAIT = "06"


class Puppet:
    """A process that makes and closes sockets when told."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.pid = program.pid

    def do(self, code: str) -> str:
        """Has it run a line of Python, and waits for it. What that puts into `said` is the answer."""
        assert self.program.process.stdin is not None
        self.program.process.stdin.write(code.encode() + b"\n")
        self.program.process.stdin.flush()
        answer = self.program.line()
        assert answer, self.program.logged()
        # Segments come a moment later where the machine is busy: until then a close is under way. Not for ever, though:
        # there are closes that the other end does not answer.
        deadline = time.monotonic() + 0.5
        while self._is_closing() and time.monotonic() < deadline:
            time.sleep(0.01)
        return answer

    def await_time_wait(self, count: int) -> None:
        """Waits until there are so many sockets in TIME_WAIT in its namespace."""
        wait_until(lambda: self._states().count(TIME_WAIT) == count, 20, f"{count} sockets in TIME_WAIT")

    def _is_closing(self) -> bool:
        return any(state in FIN_WAIT1_LAST_ACK_CLOSING for state in self._states())

    def _states(self) -> list[str]:
        texts = (Path(f"/proc/{self.pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
        return [line.split()[3] for text in texts for line in text.splitlines()]

    @property
    def key(self) -> ProcessKey:
        return ProcessKey(self.pid, Procfs().stat(self.pid).start_ticks)


class Sampled:
    """The collector on the whole machine, of which one namespace is looked at. Its clock is the test's."""

    def __init__(self) -> None:
        self.procfs = Procfs()
        self.scanner = ProcessScanner(self.procfs)
        self.now = 1_000.0
        self.collector = SockDiagTcpCollector(self.procfs, INTERVAL, clock=lambda: self.now)
        self.snapshot: TcpSnapshot | None = None

    def tick(self, detailed: bool = True) -> TcpSnapshot:
        self.now += INTERVAL
        self.snapshot = self.collector.collect(self.scanner.collect(), detailed)
        return self.snapshot

    def count(self) -> TcpCounts:
        self.now += INTERVAL
        return self.collector.count()

    def of(self, pid: int) -> ProcessSockets:
        """What a process is charged with."""
        assert self.snapshot is not None
        return next((sockets for key, sockets in self.snapshot.by_process.items() if key.pid == pid), ProcessSockets())

    def detail(self, pid: int) -> CloseWaitSockets:
        detail = self.of(pid).detail
        assert detail is not None
        return detail

    def time_wait(self, inside: Netns) -> list[TimeWaitGroup]:
        """The groups of one namespace."""
        assert self.snapshot is not None
        assert self.snapshot.time_wait is not None
        namespace = self.procfs.network_namespace(inside._pid)
        return [group for group in self.snapshot.time_wait if group.namespace == namespace]

    def ports(self, inside: Netns) -> list[PortBudget]:
        """The budgets of one namespace."""
        assert self.snapshot is not None
        assert self.snapshot.ports is not None
        namespace = self.procfs.network_namespace(inside._pid)
        return [budget for budget in self.snapshot.ports if budget.namespace == namespace]


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sampled]:
    # The kernel tells by its own clock since when nothing was sent, and the clock here is another one.
    monkeypatch.setattr(close_waits, "_ASKED_ABOUT", 0)
    one = Sampled()
    yield one
    one.collector.close()


@pytest.fixture
def inside() -> Iterator[Netns]:
    with netns() as one:
        yield one


class Puppets:
    """Starts puppets and ends them with the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack, self._count = folder, stack, 0

    def __call__(self, inside: Netns) -> Puppet:
        self._count += 1
        log = self._folder / f"puppet{self._count}.log"
        return Puppet(self._stack.enter_context(running(inside.command([sys.executable, "-c", PUPPET]), log)))


@pytest.fixture
def puppets(tmp_path: Path) -> Iterator[Puppets]:
    with ExitStack() as stack:
        yield Puppets(tmp_path, stack)


def serve(puppet: Puppet, host: str = "127.0.0.1", family: str = "AF_INET") -> int:
    """Has a puppet listen, and returns the port."""
    return int(puppet.do(f"a = []; l = listen({host!r}, 0, {family}); said = l.getsockname()[1]"))


def connect(client: Puppet, server: Puppet, port: int, count: int = 1, host: str = "127.0.0.1") -> None:
    """Has one puppet connect and the other one accept."""
    client.do(f"c = globals().get('c', []) + [create_connection(({host!r}, {port})) for _ in range({count})]")
    server.do(f"a += [l.accept()[0] for _ in range({count})]")


class TestCloseWait:
    def test_the_kernel_tells_the_age_to_an_agent_that_starts_later(
        self, sampled: Sampled, inside: Netns, tmp_path: Path
    ) -> None:
        """Another collector on the same sockets, as after a restart: they are as old as they are, not new."""
        command = inside.command(leaklab("holder", "--close-wait", "5"))
        with running(command, tmp_path / "log") as holder:
            assert holder.line() == "ready 0"

            def seen_late() -> CloseWaitSockets:
                late = Sampled()
                try:
                    late.tick()
                    return late.detail(holder.pid)
                finally:
                    late.collector.close()

            wait_until(lambda: known_ages(seen_late()).p50 >= 0.5, 20, "half a second old")
            detail = seen_late()
            assert 0.5 <= known_ages(detail).p50 <= known_ages(detail).max < 60
            assert (detail.count, detail.survived) == (5, None)
            sampled.tick()
            first = known_ages(sampled.detail(holder.pid)).max
            sampled.tick()
            later = sampled.detail(holder.pid)
            assert known_ages(later).max == pytest.approx(first + INTERVAL, abs=0.2), "by its own clock from then on"
            assert later.survived == 1.0

    def test_sockets_that_come_later_are_as_old_as_their_first_tick(
        self, sampled: Sampled, inside: Netns, puppets: Puppets
    ) -> None:
        """And are told apart by the class of what they leave unread, the first of them with its data."""
        client, server = puppets(inside), puppets(inside)
        port = serve(server)
        connect(client, server, port, 3)
        sampled.tick()
        client.do("c[0].send(b'hello'); [one.shutdown(SHUT_WR) for one in c]")
        server.do("a[1].recv(9)")
        for settled in (0, 0, 3):
            sampled.tick()
            detail = sampled.detail(server.pid)
            assert (detail.count, detail.settled) == (3, settled)
        assert known_ages(detail).max == known_ages(detail).p50 == 2 * INTERVAL
        assert (detail.eof_read, detail.fin_unread, detail.data_unread) == (1, 1, 1)
        assert detail.client_side == 0
        assert detail.peers == (Peer("127.0.0.1", None, 3),)

    def test_a_clients_sockets_are_told_by_their_server(
        self, sampled: Sampled, inside: Netns, puppets: Puppets
    ) -> None:
        """A pool whose server hung up; what a TLS server says as it does is no data."""
        client, server = puppets(inside), puppets(inside)
        port = serve(server)
        connect(client, server, port, 3)
        server.do("a[0].send(bytes(24)); [one.shutdown(SHUT_WR) for one in a]")
        for _ in range(3):
            sampled.tick()
        detail = sampled.detail(client.pid)
        assert (detail.settled, detail.client_side, detail.fin_unread, detail.farewell_unread) == (3, 3, 2, 1)
        assert detail.peers == (Peer("127.0.0.1", port, 3),)

    def test_those_that_were_never_accepted_are_the_listeners(
        self, sampled: Sampled, inside: Netns, tmp_path: Path
    ) -> None:
        """With the depth of its queue and its backlog."""
        with running(inside.command(leaklab("deaf", "--pending", "12")), tmp_path / "log") as deaf:
            assert deaf.line() == "ready"
            for _ in range(3):
                sampled.tick()
            detail = sampled.detail(deaf.pid)
        assert (detail.count, detail.settled, detail.never_accepted, detail.eof_read) == (12, 12, 12, 0)
        assert detail.accept_queue == AcceptQueue(12, 12)
        assert sampled.of(deaf.pid).close_wait == 12

    def test_a_socket_that_was_passed_on_is_charged_to_who_holds_it(
        self, sampled: Sampled, inside: Netns, puppets: Puppets, tmp_path: Path
    ) -> None:
        """Over AF_UNIX, with SCM_RIGHTS (unix(7)): it does not matter who accepted it."""
        maker, user, client = puppets(inside), puppets(inside), puppets(inside)
        port = serve(maker)
        connect(client, maker, port, 4)
        client.do("[one.shutdown(SHUT_WR) for one in c]")
        sampled.tick()
        assert (sampled.of(maker.pid).close_wait, sampled.of(user.pid).close_wait) == (4, 0)
        address = str(tmp_path / "passing")
        user.do(f"u = socket(AF_UNIX, SOCK_DGRAM); u.bind({address!r})")
        passing = "send_fds(u, [b'x'], [one.fileno() for one in a[:3]]); [one.close() for one in a[:3]]"
        maker.do(f"u = socket(AF_UNIX, SOCK_DGRAM); u.connect({address!r}); {passing}")
        user.do("held = recv_fds(u, 1, 9)[1]")

        for _ in range(4):
            sampled.tick()
            assert sampled.of(maker.pid).close_wait + sampled.of(user.pid).close_wait <= 4
        assert (sampled.of(maker.pid).close_wait, sampled.of(user.pid).close_wait) == (1, 3)
        assert known_ages(sampled.detail(user.pid)).max >= 4 * INTERVAL, "as old as before"

    def test_twenty_thousand_sockets_of_one_process_are_all_charged_to_it(
        self, sampled: Sampled, inside: Netns, tmp_path: Path
    ) -> None:
        """In the first tick and in the next. As many as the limit of descriptors allows."""
        pairs = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 20)
        command = inside.command(leaklab("holder", "--close-wait", str(pairs)))
        with running(command, tmp_path / "log") as holder:
            assert holder.line() == "ready 0"
            for _ in range(2):
                sampled.tick()
                charged = sampled.of(holder.pid)
                assert (charged.close_wait, charged.total) == (pairs, 2 * pairs + 1)
                assert sampled.detail(holder.pid).count == pairs

    def test_a_process_that_ended_has_nothing(self, sampled: Sampled, inside: Netns, puppets: Puppets) -> None:
        """From the next tick on."""
        client, server = puppets(inside), puppets(inside)
        port = serve(server)
        connect(client, server, port, 4)
        client.do("[one.shutdown(SHUT_WR) for one in c]")
        sampled.tick()
        assert sampled.of(server.pid).close_wait == 4
        server.program.stop()
        snapshot = sampled.tick()
        assert server.pid not in {key.pid for key in snapshot.by_process}


def owners(groups: list[TimeWaitGroup]) -> dict[tuple[str | None, str | None, str, ProcessKey | None], int]:
    """How many sockets by destination, listener, how their owner was found, and owner."""
    return {(one.destination, one.listener, one.owner.how, one.owner.key): one.count for one in groups}


class TestHalfClosed:
    def test_a_connection_that_is_still_served_is_not_left_open_by_mistake(
        self, inside: Netns, puppets: Puppets
    ) -> None:
        """The client shuts down its side and reads on; another one is forgotten. By the kernel's clock, in seconds."""
        server, client = puppets(inside), puppets(inside)
        port = serve(server)
        connect(client, server, port, 2)
        client.do("[one.shutdown(SHUT_WR) for one in c]")
        server.do("[one.recv(1) for one in a]")
        one = Sampled()
        one.collector.close()
        one.collector = SockDiagTcpCollector(one.procfs, 1.0)

        def settled() -> int:
            server.do("a[0].send(b'more')")
            one.tick()
            return one.detail(server.pid).settled

        wait_until(settled, 20, "one of them stays for no reason")
        detail = one.detail(server.pid)
        one.collector.close()
        assert (detail.count, detail.settled, detail.eof_read) == (2, 1, 1)


class TestTimeWait:
    def test_a_client_that_closes_first_is_known_by_the_last_tick(
        self, sampled: Sampled, inside: Netns, puppets: Puppets
    ) -> None:
        """Its sockets are by destination, and so many a second of the last minute."""
        client, server = puppets(inside), puppets(inside)
        port = serve(server)
        connect(client, server, port, 6)
        sampled.tick()
        client.do("[one.close() for one in c[:5]]")
        server.do("[one.close() for one in a]")
        client.do("c[5].close()")  # here the server was first
        client.await_time_wait(6)
        sampled.tick()
        assert owners(sampled.time_wait(inside)) == {
            (f"127.0.0.1:{port}", None, "exact", client.key): 5,
            (None, f"127.0.0.1:{port}", "exact", server.key): 1,
        }
        assert {one.count: one.closes_per_second for one in sampled.time_wait(inside)} == {5: 5 / 60, 1: 1 / 60}
        assert (sampled.of(client.pid).time_wait, sampled.of(server.pid).time_wait) == (5, 1)

    def test_a_worker_is_told_from_the_one_that_listens(
        self, sampled: Sampled, inside: Netns, puppets: Puppets, tmp_path: Path
    ) -> None:
        """As with pre-forked workers: the parent holds the listener, too, but was never seen to accept."""
        parent, worker, client = puppets(inside), puppets(inside), puppets(inside)
        port = serve(parent)
        share(parent, worker, "l", tmp_path)
        worker.do("l = socket(fileno=got); a = []")
        connect(client, worker, port, 4)
        sampled.tick()
        worker.do("[one.close() for one in a]")
        client.do("[one.close() for one in c]; c = []")
        connect(client, worker, port, 3)
        worker.do("[one.close() for one in a[4:]]")
        client.do("[one.close() for one in c]")
        client.await_time_wait(7)
        sampled.tick()
        listener = f"127.0.0.1:{port}"
        assert owners(sampled.time_wait(inside)) == {
            (None, listener, "exact", worker.key): 4,
            (None, listener, "listener", worker.key): 3,
        }
        sampled.tick()
        assert sum(owners(sampled.time_wait(inside)).values()) == 7, "found once, and kept"

    def test_of_several_listeners_on_one_port_none_is_picked(
        self, sampled: Sampled, inside: Netns, puppets: Puppets
    ) -> None:
        """SO_REUSEPORT: the kernel does not say which of them accepted."""
        first, second, client = puppets(inside), puppets(inside), puppets(inside)
        reused = "l = socket(); l.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1); l.bind(('127.0.0.1', {})); l.listen(64)"
        port = int(first.do(f"{reused.format(0)}; said = l.getsockname()[1]"))
        second.do(reused.format(port))
        client.do(f"c = [create_connection(('127.0.0.1', {port})) for _ in range(20)]")
        for server in (first, second):
            server.do("l.setblocking(False); a = []")
            server.do("exec('try:\\n while True: a.append(l.accept()[0])\\nexcept BlockingIOError: pass')")
            server.do("[one.close() for one in a]")
        client.do("[one.close() for one in c]")
        client.await_time_wait(20)
        sampled.tick()
        (group,) = sampled.time_wait(inside)
        assert (group.count, group.owner.how, group.owner.key) == (20, "listener", None)
        assert set(group.owner.members) == {first.key, second.key}

    def test_the_owner_that_ended_is_not_replaced(self, sampled: Sampled, inside: Netns, puppets: Puppets) -> None:
        """By who has all live connections to the same destination, say. Nor when asked again."""
        server, ended, other = puppets(inside), puppets(inside), puppets(inside)
        port = serve(server)
        connect(ended, server, port, 5)
        connect(other, server, port, 50)
        sampled.tick()
        ended.program.stop()
        server.do("[one.close() for one in a[:5]]")
        server.await_time_wait(5)
        for _ in range(60):
            sampled.tick()
        group = (f"127.0.0.1:{port}", None, "unattributed", None)
        assert owners(sampled.time_wait(inside)) == {group: 5}

    def test_who_has_all_live_connections_is_taken_for_the_owner_of_short_ones(
        self, sampled: Sampled, inside: Netns, puppets: Puppets
    ) -> None:
        """Those that no tick saw; as soon as enough is known."""
        server, client = puppets(inside), puppets(inside)
        port = serve(server)
        sampled.tick()
        connect(client, server, port, 3)
        client.do("[one.close() for one in c]; c = []")
        server.do("[one.close() for one in a]")
        server.await_time_wait(3)
        sampled.tick()
        group = (f"127.0.0.1:{port}", None)
        assert owners(sampled.time_wait(inside)) == {(*group, "unattributed", None): 3}
        connect(client, server, port, 20)
        sampled.tick()
        assert owners(sampled.time_wait(inside)) == {(*group, "destination", client.key): 3}

    def test_the_cgroup_is_known_of_what_its_process_let_go_of(
        self, sampled: Sampled, inside: Netns, puppets: Puppets
    ) -> None:
        """Closed before the first tick, with data that the peer does not read: it is nobody's, but of a cgroup."""
        mount = sampled.procfs.cgroup2_mount()
        if mount is None:
            pytest.skip("no unified hierarchy of cgroups")
        folder = mount / f"loiter-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            pytest.skip(f"no cgroup to be made: {error}")
        try:
            server, client = puppets(inside), puppets(inside)
            (folder / "cgroup.procs").write_text(str(client.pid))
            port = serve(server)
            connect(client, server, port)
            client.do("c[0].setblocking(False)")
            client.do("exec('try:\\n while True: c[0].send(bytes(65536))\\nexcept BlockingIOError: pass')")
            client.do("c[0].close()")
            sampled.tick()
            server.do("exec('while a[0].recv(1 << 20): pass')")
            server.do("a[0].close()")

            def closed() -> bool:
                sampled.tick()
                return bool(sampled.time_wait(inside))

            wait_until(closed, 20, "in TIME_WAIT")
            destination = f"127.0.0.1:{port}"
            assert owners(sampled.time_wait(inside)) == {(destination, None, "cgroup", client.key): 1}
        finally:
            for puppet in (server, client):
                puppet.program.stop()
            wait_until(lambda: not (folder / "cgroup.procs").read_text(), 20, "the cgroup is empty")
            folder.rmdir()

    def test_a_mapped_connection_is_found_like_any_other(
        self, sampled: Sampled, inside: Netns, puppets: Puppets
    ) -> None:
        """A listener of IPv6 with clients of IPv4: both ends are written as IPv4."""
        server, client = puppets(inside), puppets(inside)
        port = serve(server, "::", "AF_INET6")
        connect(client, server, port, 4)
        sampled.tick()
        client.do("[one.close() for one in c[:2]]")
        server.do("[one.close() for one in a]")
        client.do("[one.close() for one in c]")
        client.await_time_wait(4)
        sampled.tick()
        assert owners(sampled.time_wait(inside)) == {
            (f"127.0.0.1:{port}", None, "exact", client.key): 2,
            (None, f"127.0.0.1:{port}", "exact", server.key): 2,
        }

    def test_groups_over_the_limit_are_added_up(self, sampled: Sampled, inside: Netns, puppets: Puppets) -> None:
        """A crawler: more destinations than are told apart, and none of its sockets is dropped."""
        server, client = puppets(inside), puppets(inside)
        port = serve(server, "0.0.0.0")
        for host in range(1, 151):
            connect(client, server, port, 1 + (host == 7), f"127.0.1.{host}")
        sampled.tick()
        client.do("[one.close() for one in c]")
        server.do("[one.close() for one in a]")
        states = inside.command(["ss", "-Htan", "state", "time-wait"])
        wait_until(lambda: run(states).stdout.count("\n") == 151, 20, "all are in TIME_WAIT")
        snapshot = sampled.tick()
        assert snapshot.time_wait is not None
        assert len(snapshot.time_wait) <= MAX_TIME_WAIT_GROUPS
        assert sum(group.count for group in snapshot.time_wait) == snapshot.states.time_wait
        assert sampled.of(client.pid).time_wait == 151
        assert sampled.time_wait(inside)[0].destination == f"127.0.1.7:{port}"
        rest = [group for group in snapshot.time_wait if group.destination is group.listener is None]
        assert {group.owner.how for group in rest if group.count >= 50} == {"exact"}


def share(giver: Puppet, taker: Puppet, name: str, folder: Path) -> None:
    """Has one puppet pass a socket to another one, and keep it: the descriptor is `got` there."""
    address = str(folder / "sharing")
    taker.do(f"u = socket(AF_UNIX, SOCK_DGRAM); u.bind({address!r})")
    giver.do(f"u = socket(AF_UNIX, SOCK_DGRAM); u.connect({address!r}); send_fds(u, [b'x'], [{name}.fileno()])")
    taker.do("got = recv_fds(u, 1, 1)[1][0]")


class TestPorts:
    def test_each_namespace_has_a_budget_of_its_own(self, sampled: Sampled, puppets: Puppets) -> None:
        """With its own range, its own reserved ports and its own settings."""
        with netns() as one, netns() as other:
            for inside, first, reserved in ((one, 20_000, "20000-20099"), (other, 30_000, "")):
                client, server = puppets(inside), puppets(inside)
                sysctls = "/proc/sys/net/ipv4"
                client.do(f"open('{sysctls}/ip_local_port_range', 'w').write('{first} {first + 999}')")
                client.do(f"open('{sysctls}/ip_local_reserved_ports', 'w').write('{reserved}\\n')")
                client.do(f"open('{sysctls}/tcp_tw_reuse', 'w').write('0')")
                server.do("a = []; l = listen('127.0.0.1', 8080)")
                connect(client, server, 8080, 10)
                client.do("[one.close() for one in c[:4]]")
                server.do("[one.close() for one in a[:4]]")
            sampled.tick()
            (first_budget,), (second,) = sampled.ports(one), sampled.ports(other)
        for budget, available in ((first_budget, 900), (second, 1_000)):
            assert (budget.source, budget.destination) == ("127.0.0.1", "127.0.0.1:8080")
            assert (budget.used, budget.time_wait, budget.available) == (10, 4, available)
            assert budget.exhausting_connects_per_second == available / 60

    def test_ports_that_run_out_are_forecast(self, sampled: Sampled, inside: Netns, puppets: Puppets) -> None:
        """Ten more connections each ten seconds, 50 ports: 30 s from the second ten on. Then it is now."""
        client, server = puppets(inside), puppets(inside)
        client.do("open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('20000 20049')")
        server.do("a = []; l = listen('127.0.0.1', 8080)")
        connect(client, server, 8080, 10)
        sampled.tick()
        connect(client, server, 8080, 10)
        sampled.tick()
        (budget,) = sampled.ports(inside)
        assert (budget.used, budget.connects_per_second, budget.exhausted_in_seconds) == (20, 1.0, 30.0)
        assert budget.owner == client.key
        assert sampled.of(client.pid).ports_share == 0.4
        connect(client, server, 8080, 30)
        sampled.tick()
        assert sampled.ports(inside)[0].exhausted_in_seconds == 0.0
        assert client.do(
            "exec('try:\\n create_connection((\"127.0.0.1\", 8080)); said = 0\\nexcept OSError as e: said = e.errno')"
        ) == str(errno.EADDRNOTAVAIL)

    def test_accepted_connections_of_an_ipv6_listener_are_no_opened_ones(
        self, sampled: Sampled, inside: Netns, puppets: Puppets
    ) -> None:
        """Messages of its listener are longer than those of the connections, which come in the same datagram."""
        client, server = puppets(inside), puppets(inside)
        server.do("more = listen()")
        port = serve(server, "::", "AF_INET6")
        connect(client, server, port, 5)
        sampled.tick()
        assert [(budget.destination, budget.owner) for budget in sampled.ports(inside)] == [
            (f"127.0.0.1:{port}", client.key)
        ]


class TestTornDumps:
    """The kernel says that a dump may have lost a part. Real dumps, with an end that is made up."""

    @contextmanager
    def torn(self, monkeypatch: pytest.MonkeyPatch, times: int, states: int | None = None) -> Iterator[list[int]]:
        """Tears so many dumps after their last chunk: all, or those of a mask."""
        seen: list[int] = []
        dump = OpenNamespace.dump

        def tearing(self: OpenNamespace, mask: int, extensions: int = 0) -> Iterator[Chunk]:
            seen.append(mask)
            yield from dump(self, mask, extensions)
            if self.own and (states is None or mask == states) and seen.count(mask) <= times:
                raise TornDumpError

        with monkeypatch.context() as patch:
            patch.setattr(OpenNamespace, "dump", tearing)
            yield seen

    def test_it_is_read_again_and_nothing_counts_twice(
        self, sampled: Sampled, inside: Netns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Twice torn, then whole."""
        counts = ("--established", "20", "--close-wait", "30", "--time-wait", "40")
        with running(inside.command(leaklab("holder", *counts)), tmp_path / "log") as holder:
            assert holder.line() == "ready 0"
            with self.torn(monkeypatch, 2):
                snapshot = sampled.tick()
            charged = sampled.of(holder.pid)
            assert (charged.established, charged.close_wait, charged.total) == (40, 30, 1 + 40 + 60)
            assert sum(group.count for group in sampled.time_wait(inside)) == 40
            assert not snapshot.torn

    def test_one_that_stays_torn_is_said_and_counts_once(
        self, sampled: Sampled, inside: Netns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last attempt is what counts."""
        counts = ("--established", "20", "--close-wait", "30", "--time-wait", "40")
        with running(inside.command(leaklab("holder", *counts)), tmp_path / "log") as holder:
            assert holder.line() == "ready 0"
            with self.torn(monkeypatch, 99):
                snapshot = sampled.tick()
            assert snapshot.torn
            assert sampled.of(holder.pid).total == 1 + 40 + 60
            assert sum(group.count for group in sampled.time_wait(inside)) == 40

    def test_a_torn_half_does_not_cost_the_other_half(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """TIME_WAIT sockets have a dump of their own where they are many."""
        monkeypatch.setattr(tcp_sock_diag, "_SPLIT_FROM_TIME_WAIT", 0)
        sampled = Sampled()
        try:
            whole = ALL_STATES & ~TIME_WAIT_STATES
            with self.torn(monkeypatch, 99, whole) as seen:
                assert sampled.tick().torn
            own = [mask for mask in seen if mask in (whole, TIME_WAIT_STATES)]
            assert own[:2] == [whole, TIME_WAIT_STATES]
        finally:
            sampled.collector.close()


def test_closes_that_time_wait_has_no_room_for_are_counted_by_the_second(
    sampled: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how much the kernel's count grew since the last tick; in the first tick that is not known."""
    counts = iter((7, 27, 20))
    monkeypatch.setattr(OpenNamespace, "time_wait_overflows", property(lambda _: next(counts)))
    found = [sampled.tick().time_wait_limits for _ in range(3)]
    assert [one.overflows for one in found if one] == [7, 27, 20]
    assert [one.overflows_per_second for one in found if one] == [None, 20 / INTERVAL, 0.0], "a new count is no fall"


class TestWithoutDetail:
    """What is left out to keep within the budget is unknown, and learnt anew afterwards."""

    def test_sockets_are_charged_and_not_looked_into(
        self, sampled: Sampled, inside: Netns, puppets: Puppets, tmp_path: Path
    ) -> None:
        """Those that nobody accepted, too: a count that fell would look like a leak that is over."""
        client, server = puppets(inside), puppets(inside)
        port = serve(server)
        connect(client, server, port, 4)
        client.do("[one.shutdown(SHUT_WR) for one in c]")
        with running(inside.command(leaklab("deaf", "--pending", "12")), tmp_path / "log") as deaf:
            assert deaf.line() == "ready"
            sampled.tick()
            before = {pid: sampled.of(pid) for pid in (client.pid, server.pid, deaf.pid)}
            snapshot = sampled.tick(detailed=False)
            after = {pid: sampled.of(pid) for pid in before}
        for pid, sockets in before.items():
            assert (after[pid].close_wait, after[pid].total) == (sockets.close_wait, sockets.total)
            assert (after[pid].detail, after[pid].time_wait) == (None, None)
        assert after[server.pid].close_wait == 4
        assert after[deaf.pid].close_wait == 12
        assert (snapshot.states.close_wait or 0) >= 16

    def test_nobody_is_found_to_be_the_owner_of_time_wait_sockets(
        self, sampled: Sampled, inside: Netns, puppets: Puppets
    ) -> None:
        """Though ports are counted. Nor is somebody found later by connections of long ago."""
        client, server = puppets(inside), puppets(inside)
        port = serve(server)
        connect(client, server, port, 30)
        for _ in range(3):
            sampled.tick()
        group = (f"127.0.0.1:{port}", None, "unattributed", None)
        client.do("[one.close() for one in c[:5]]")
        server.do("[one.close() for one in a[:5]]")
        sampled.tick(detailed=False)
        assert owners(sampled.time_wait(inside)) == {group: 5}
        assert [(one.time_wait, one.used) for one in sampled.ports(inside)] == [(5, 30)]
        sampled.count()
        client.do("[one.close() for one in c[5:10]]")
        server.do("[one.close() for one in a[5:10]]")
        sampled.tick()
        assert owners(sampled.time_wait(inside)) == {group: 10}

    @pytest.mark.parametrize("counts_only", [False, True])
    def test_sockets_that_stay_keep_their_age_and_new_ones_get_it_from_the_kernel(
        self, sampled: Sampled, inside: Netns, puppets: Puppets, counts_only: bool
    ) -> None:
        """They came while nobody looked: the first tick that does is not since when they are there."""
        client, server = puppets(inside), puppets(inside)
        port = serve(server)
        connect(client, server, port, 4)
        client.do("c[0].shutdown(SHUT_WR)")
        sampled.tick()
        sampled.tick()
        assert known_ages(sampled.detail(server.pid)).max >= INTERVAL
        client.do("[one.shutdown(SHUT_WR) for one in c[1:]]")
        shut = time.monotonic()
        for _ in range(2):
            if counts_only:
                sampled.count()
            else:
                sampled.tick(detailed=False)
        time.sleep(max(0.0, 0.3 - (time.monotonic() - shut)))  # the kernel tells the age by its own clock
        sampled.tick()
        detail = sampled.detail(server.pid)
        assert detail.of_unknown_age == 0
        assert detail.survived is None, "there is no tick before with which to compare"
        assert detail.turns_over is False
        ages = known_ages(detail)
        assert ages.max >= 4 * INTERVAL
        assert 0.2 <= ages.p50 < INTERVAL
        sampled.tick()
        assert sampled.detail(server.pid).survived == 1.0

    def test_counts_are_those_of_the_whole_host(self, sampled: Sampled, inside: Netns, tmp_path: Path) -> None:
        """Of the namespaces that are known, the agent's own or not."""
        with running(inside.command(leaklab("holder", "--close-wait", "1000")), tmp_path / "log") as holder:
            assert holder.line() == "ready 0"
            full = sampled.tick()
            counted = sampled.count()
        assert (counted.sampler, counted.namespaces_unread, counted.states.close) == ("sock_diag", 0, None)
        # What else runs on the machine opens and closes meanwhile.
        assert (full.states.close_wait or 0) >= 1_000
        assert (counted.states.close_wait or 0) >= 1_000
        wait_until(lambda: (sampled.count().states.close_wait or 0) < 1_000, 20, "its sockets are gone")

    def test_a_namespace_is_not_kept_alive_by_counting(self, sampled: Sampled) -> None:
        """When its last process has ended, it is closed."""
        with netns() as passing:
            sampled.tick()
            number = sampled.procfs.network_namespace(passing._pid)
            assert number in sampled.collector._namespaces._others
            sampled.count()
            assert sampled.collector._namespaces._others[number].entered
        sampled.count()
        assert number not in sampled.collector._namespaces._others
