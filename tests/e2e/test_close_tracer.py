"""Who closed, as the kernel tells it: real BPF, real connections, real processes.

A client is a program of its own (CLIENT), which closes in one of several ways; the test is the server.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from loiter_agent.close_tracer import CloseTracer
from loiter_agent.inet_diag import TIME_WAIT_STATES
from loiter_agent.procfs import parse_stat
from loiter_agent.sample import ProcessKey
from loiter_agent.sock_diag import SockDiag
from loiter_agent.tracing.bpf import load_tracing_program, system_call
from loiter_agent.tracing.btf import TYPEDEF, Btf
from loiter_agent.tracing.close_program import TRACEPOINT
from loiter_agent.tracing.instructions import assemble, leave
from support.netns import netns
from support.programs import BIN, Program, running, wait_until

# Arguments: family, the server's address and port, the client's port or 0, and how to close. Prints the client's port;
# closes when it reads a line, prints who should have closed, and waits for another one.
CLIENT = """
import os, signal, socket, sys

family, address, port, own_port, how = sys.argv[1:]
client = socket.socket(int(family))
client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
client.bind(("", int(own_port)))
client.connect((address, int(port)))
print(client.getsockname()[1], flush=True)
sys.stdin.readline()
closer = os.getpid()
if how == "close":
    client.close()
elif how == "shutdown":
    client.shutdown(socket.SHUT_WR)
elif how in ("child", "shutdown by a child"):
    # Nothing is sent while another process holds the socket: the last to close it counts, or who shuts it down.
    ready, go = os.pipe()
    closer = os.fork()
    if closer == 0:
        os.read(ready, 1)
        client.shutdown(socket.SHUT_WR) if how == "shutdown by a child" else client.close()
        os._exit(0)
    if how == "child":
        client.close()
    os.write(go, b"x")
    os.waitpid(closer, 0)
print(closer, flush=True)
if how == "exit":
    os._exit(0)
if how == "killed":
    os.kill(closer, signal.SIGKILL)
sys.stdin.readline()
"""

# Leaves a socket in flight in a message that nobody can receive any more: the kernel's garbage collector closes it.
LOSE_IN_FLIGHT = """
import array, socket, sys

port, own_port = map(int, sys.argv[1:])
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
client.bind(("127.0.0.1", own_port))
client.connect(("127.0.0.1", port))
left, right = socket.socketpair(socket.AF_UNIX)
for end in (left, right):
    end.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [left.fileno(), right.fileno()]))])
left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [client.fileno()]))])
client.close()
left.close()
right.close()
print("lost", flush=True)
sys.stdin.readline()
"""


def closers(tracer: CloseTracer, namespace: int, connections: Sequence[bytes]) -> list[int | None]:
    """The pids of the processes that closed connections."""
    return [None if process is None else process.pid for process in tracer.closing_processes(namespace, connections)]


@pytest.fixture(scope="module")
def tracer() -> Iterator[CloseTracer]:
    try:
        tracer = CloseTracer()
    except OSError as error:
        pytest.skip(f"no BPF here: {error}")
    yield tracer
    tracer.close()


OWN_NAMESPACE = os.stat("/proc/self/ns/net").st_ino


def _v4(client_port: int, server_port: int) -> bytes:
    """The id of a client's socket on loopback, as in struct inet_diag_sockid."""
    address = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    return struct.pack("!HH", client_port, server_port) + address * 2


def _time_wait(client_port: int, server_port: int) -> bytes:
    """The id of the client's TIME_WAIT socket, as sock_diag dumps it: 36 bytes."""
    diag = SockDiag()
    ports = struct.pack("!HH", client_port, server_port)

    def found() -> bytes | None:
        messages = [
            bytes(chunk.view[at : at + chunk.stride])
            for chunk in diag.dump(TIME_WAIT_STATES)
            for at in range(0, len(chunk.view), chunk.stride)
        ]
        # struct nlmsghdr and four bytes of struct inet_diag_msg, then struct inet_diag_sockid
        ids = [message[20:56] for message in messages if message[20:24] == ports]
        return ids[0] if ids else None

    try:
        wait_until(found, 10, f"TIME_WAIT of port {client_port}")
        return found() or b""
    finally:
        diag.close()


def _close(program: Program) -> int:
    """Has a client close. Returns the pid of who should have closed."""
    assert program.process.stdin is not None
    program.process.stdin.write(b"\n")
    program.process.stdin.flush()
    return int(program.line())


@contextmanager
def _client(
    log: Path, server: socket.socket, how: str, family: int = socket.AF_INET, address: str = "127.0.0.1", port: int = 0
) -> Iterator[tuple[Program, int, socket.socket]]:
    """Runs a client. Yields it, its port, and the accepted end of its connection."""
    server_port = server.getsockname()[1]
    words = [sys.executable, "-c", CLIENT, str(int(family)), address, str(server_port), str(port), how]
    with running(words, log) as program:
        client_port = int(program.line())
        accepted, _ = server.accept()
        with accepted:
            yield program, client_port, accepted


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::ffff:127.0.0.1"),
    ],
)
def test_the_owner_of_a_time_wait_socket_is_found(
    tracer: CloseTracer, tmp_path: Path, family: socket.AddressFamily, address: str
) -> None:
    """The kernel dumps IPv4, IPv6 and v4-mapped sockets in three ways; the program notes them in the same."""
    server_family = socket.AF_INET6 if address == "::1" else socket.AF_INET
    with (
        socket.create_server(("::1" if address == "::1" else "127.0.0.1", 0), family=server_family) as server,
        _client(tmp_path / "log", server, "close", family, address) as (program, port, accepted),
    ):
        assert _close(program) == program.pid
        assert accepted.recv(1) == b""
        accepted.close()
        connection = _time_wait(port, server.getsockname()[1])
        assert closers(tracer, OWN_NAMESPACE, [connection]) == [program.pid]


def test_a_server_that_closes_first_is_found_on_a_dual_stack_listener(tracer: CloseTracer, tmp_path: Path) -> None:
    """Of an accepted IPv4 connection, such a listener makes a v4-mapped socket."""
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        _client(tmp_path / "log", server, "close") as (program, port, accepted),
    ):
        accepted.shutdown(socket.SHUT_WR)
        _close(program)
        accepted.close()
        connection = _time_wait(server.getsockname()[1], port)
        assert connection[4:20] == bytes(10) + b"\xff\xff\x7f\0\0\1"
        assert closers(tracer, OWN_NAMESPACE, [connection]) == [os.getpid()]


@pytest.mark.parametrize("how", ["close", "shutdown", "child", "shutdown by a child", "exit", "killed"])
def test_every_way_to_close_is_charged_to_the_process_that_closed(
    tracer: CloseTracer, tmp_path: Path, how: str
) -> None:
    """A process that ends without closing is the one that closed, though the kernel does it for it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        _client(tmp_path / "log", server, how) as (program, port, accepted),
    ):
        closer = _close(program)
        assert (closer == program.pid) == ("child" not in how)
        assert accepted.recv(1) == b""
        assert closers(tracer, OWN_NAMESPACE, [_v4(port, server.getsockname()[1])]) == [closer]


def test_a_process_is_told_with_its_start_and_not_by_its_thread(tracer: CloseTracer) -> None:
    """As /proc/PID/stat has it: with the start, a process that got the pid of another one is told from it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        connection = _v4(client.getsockname()[1], server.getsockname()[1])
        thread = threading.Thread(target=client.close)
        thread.start()
        thread.join()
    own = ProcessKey(os.getpid(), parse_stat(Path("/proc/self/stat").read_bytes()).start_ticks)
    assert tracer.closing_processes(OWN_NAMESPACE, [connection]) == [own]


def test_who_is_closed_on_is_not_charged(tracer: CloseTracer, tmp_path: Path) -> None:
    """Nor is a connection that is still open, or one that was reset: none of them goes into TIME_WAIT."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        _client(tmp_path / "closed", server, "close") as (program, port, accepted),
        _client(tmp_path / "reset", server, "close") as (resetting, reset_port, unread),
    ):
        server_port = server.getsockname()[1]
        assert closers(tracer, OWN_NAMESPACE, [_v4(port, server_port)]) == [None]
        _close(program)
        accepted.close()
        unread.sendall(b"never read")
        _close(resetting)
        closed = [_v4(port, server_port), _v4(server_port, port), _v4(reset_port, server_port)]
        assert closers(tracer, OWN_NAMESPACE, closed) == [program.pid, None, None]


def _reset(accepted: socket.socket) -> None:
    """Ends a connection that the client has closed at once: its port can be used again."""
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    accepted.close()


def _collected(accepted: socket.socket) -> bool:
    """Has sockets in flight collected, as the kernel does when any Unix socket is closed. Says whether EOF came."""
    socket.socket(socket.AF_UNIX).close()
    try:
        return accepted.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def test_the_latest_of_connections_with_the_same_addresses_counts(tracer: CloseTracer, tmp_path: Path) -> None:
    """Who it was is also forgotten when it is the kernel that closes the next one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server_port = server.getsockname()[1]
        port = 0
        for log in ("first", "second"):
            with _client(tmp_path / log, server, "shutdown", port=port) as (program, port, accepted):
                assert _close(program) == program.pid
                _reset(accepted)
                assert closers(tracer, OWN_NAMESPACE, [_v4(port, server_port)]) == [program.pid]

        lose = [sys.executable, "-c", LOSE_IN_FLIGHT, str(server_port), str(port)]
        with running(lose, tmp_path / "lost") as program:
            assert program.line() == "lost"
            accepted, _ = server.accept()
            with accepted:
                wait_until(lambda: _collected(accepted), 30, "the garbage collector of sockets in flight")
                assert closers(tracer, OWN_NAMESPACE, [_v4(port, server_port)]) == [None]


@pytest.mark.skipif(os.geteuid() != 0, reason="root enters network namespaces")
def test_the_same_addresses_in_two_namespaces_are_two_connections(tracer: CloseTracer, tmp_path: Path) -> None:
    serve = (
        "import socket, sys; server = socket.create_server(('127.0.0.1', 7000)); print('up', flush=True);"
        "accepted, _ = server.accept(); accepted.recv(1); sys.stdin.readline()"
    )
    client = [sys.executable, "-c", CLIENT, "2", "127.0.0.1", "7000", "40000", "close"]
    with netns() as one, netns() as other:
        found = []
        for number, inside in enumerate((one, other)):
            with running(inside.command([sys.executable, "-c", serve]), tmp_path / f"server{number}") as server:
                assert server.line() == "up"
                with running(inside.command(client), tmp_path / f"client{number}") as program:
                    assert program.line() == "40000"
                    closer = _close(program)
                    found.append((os.stat(f"/proc/{closer}/ns/net").st_ino, closer))
        assert found[0] != found[1]
        for namespace, closer in found:
            assert closers(tracer, namespace, [_v4(40_000, 7_000)]) == [closer]
        assert closers(tracer, OWN_NAMESPACE, [_v4(40_000, 7_000)]) == [None]


def test_of_too_many_closes_the_latest_are_kept(tracer: CloseTracer) -> None:
    """Memory is bounded: two tracers side by side, and the smaller one forgets."""
    small = CloseTracer(entries=64)
    closed = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(300):
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
            closed.append(_v4(client.getsockname()[1], server.getsockname()[1]))
            client.shutdown(socket.SHUT_WR)
            _reset(accepted)
            client.close()
    kept = closers(small, OWN_NAMESPACE, closed[::-1])
    small.close()
    assert kept[0] == os.getpid()
    assert len(kept) - kept.count(None) <= 64
    assert closers(tracer, OWN_NAMESPACE, closed) == [os.getpid()] * 300


def test_after_closing_it_answers_no_more(tracer: CloseTracer) -> None:
    other = CloseTracer(entries=64)
    other.close()
    other.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        closers(other, OWN_NAMESPACE, [_v4(1, 2)])
    with pytest.raises(ValueError, match="36 bytes, not 3"):
        closers(tracer, OWN_NAMESPACE, [b"abc"])


@pytest.mark.usefixtures("tracer")
def test_a_program_that_the_kernel_refuses_is_refused_with_its_reason() -> None:
    """The verifier's last word: this program returns what nobody has written."""
    tracepoint = Btf(Path("/sys/kernel/btf/vmlinux").read_bytes()).find(TYPEDEF, TRACEPOINT)
    with pytest.raises(OSError, match="R0 !read_ok"):
        load_tracing_program("wrong", assemble([leave()]), tracepoint)


BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID = 13, 14


def _exists(command: int, number: int) -> bool:
    """Asks the kernel for a BPF object by its id."""
    try:
        os.close(system_call(command, struct.pack("=III", number, 0, 0)))
    except FileNotFoundError:
        return False
    return True


@pytest.mark.usefixtures("tracer")
def test_nothing_stays_in_the_kernel_when_the_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from loiter_agent.close_tracer import CloseTracer; tracer = CloseTracer();"
        "print('up', flush=True); sys.stdin.readline()"
    )
    with running([BIN / "python", "-c", code], tmp_path / "log") as program:
        assert program.line() == "up", program.logged()
        fdinfo = "".join(file.read_text() for file in Path(f"/proc/{program.pid}/fdinfo").iterdir())
        ids = {name: int(number) for name, number in re.findall(r"^(prog_id|map_id):\s*(\d+)$", fdinfo, re.MULTILINE)}

        def left() -> set[str]:
            commands = {"prog_id": BPF_PROG_GET_FD_BY_ID, "map_id": BPF_MAP_GET_FD_BY_ID}
            return {name for name, number in ids.items() if _exists(commands[name], number)}

        assert left() == {"prog_id", "map_id"}
        program.process.kill()
        program.process.wait(10)
    # The kernel frees them after an RCU grace period.
    wait_until(lambda: not left(), 30, "the end of program and map")


OPEN = """
import json
from loiter_agent.close_tracer import CloseTracer
try:
    CloseTracer().close()
    print(json.dumps("traced"))
except OSError as error:
    print(json.dumps(error.strerror))
"""
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives up what the kernel asks for")
@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (NOBODY, "Operation not permitted: CAP_BPF and CAP_PERFMON are needed"),
        ((*NOBODY, "--inh-caps=+bpf,+perfmon", "--ambient-caps=+bpf,+perfmon"), "traced"),
        (("unshare", "--pid", "--fork", "--mount-proc"), r"the kernel's pid \d+ is 1 here: the host's pid .* needed"),
    ],
)
@pytest.mark.usefixtures("tracer")
def test_why_it_can_not_be_had_is_said(command: tuple[str, ...], answer: str) -> None:
    """Two capabilities are enough; in a pid namespace of its own, the kernel's pids would name strangers."""
    done = subprocess.run([*command, BIN / "python", "-c", OPEN], capture_output=True, timeout=60, check=False)
    assert re.fullmatch(answer, json.loads(done.stdout or b'""')), done
