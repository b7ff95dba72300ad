"""What the programs of the leak lab share: processes that end together, the truth they tell, and both ends of a wire.

A program is one process for each role, so that the two ends of a connection are never charged to the same process. The
first process has no sockets: it starts the roles and ends them when its standard input ends. Each line of the output is
a JSON object, the truth as the program knows it:

    {"namespace": "4026531840"}                                  the inode number of its network namespace
    {"pid": 7}                                                   a process of the program, healthy unless told otherwise
    {"pid": 7, "cause": "leak", "since": 81.5}                   it misbehaves, since this reading of CLOCK_MONOTONIC
    {"pid": 7, "closes": 0}                                      it never closes a connection first: no TIME_WAIT is its
    {"pid": 7, "ports": 9000, "share": 0.8, "since": 81.5}       of the ports towards port 9000 this share is in use
    {"skipped": "no cpu controller"}                             the program can not be run here
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
ANSWER = b"HTTP/1.0 204 No Content\r\n\r\n"

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def say(**facts: object) -> None:
    """Prints one line of truth. A line is one write to a pipe or file, so the roles do not mix theirs."""
    os.write(sys.stdout.fileno(), json.dumps(facts).encode() + b"\n")


def misbehaves(cause: str, pid: int | None = None) -> None:
    """Tells that a process, this one unless another is named, misbehaves from now on."""
    say(pid=pid or os.getpid(), cause=cause, since=time.monotonic())


def closes_nothing() -> None:
    """Tells that no TIME_WAIT socket will ever be this process's."""
    say(pid=os.getpid(), closes=0)


def start(role: Callable[[], None]) -> int:
    """Runs a role in a process of its own, which ends with this one at the latest. Returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        say(pid=os.getpid())
        role()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ends a process that `start` made, and waits for its end."""
    os.kill(pid, number)
    os.waitpid(pid, 0)


def supervise(*pids: int) -> None:
    """Waits until standard input ends, or a signal asks for the end, and ends the roles."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        sys.stdin.read()
    finally:
        for pid in pids:
            with suppress(ProcessLookupError, ChildProcessError):
                end(pid)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The parser of a program, with the flags that all have. Tells where the program runs, too."""
    say(namespace=str(os.stat("/proc/self/ns/net").st_ino))
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--closes", type=Path, help="a folder for what this program knows of the sockets it closed first"
    )
    return parser


def free_port() -> int:
    """Finds a port that is free now."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def listen(port: int, backlog: int = 256, reuse_port: bool = False) -> socket.socket:
    """Listens on a port of the loopback address."""
    return socket.create_server((HOST, port), backlog=backlog, reuse_port=reuse_port)


def connect(port: int, seconds: float = 10.0) -> socket.socket:
    """Connects, and tries again while nobody listens: the other role may still be starting."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection((HOST, port), timeout=seconds)
        except (ConnectionRefusedError, ConnectionResetError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def pace(per_second: float, burst: int = 0) -> Iterator[None]:
    """Comes up at a steady rate, on a schedule that does not drift, after the first `burst` times at once.

    Time that was lost to a busy machine is not made up for in a rush.
    """
    for _ in range(burst):
        yield
    due = time.monotonic()
    while True:
        yield
        due = max(due + 1 / per_second, time.monotonic() - 0.5)
        time.sleep(max(0.0, due - time.monotonic()))


def ask(connection: socket.socket) -> bool:
    """Sends a request and reads the answer: False where the other side has hung up."""
    try:
        connection.sendall(REQUEST)
        return connection.recv(4096) != b""
    except ConnectionError:
        return False


def was_closed(connection: socket.socket) -> bool:
    """Tells whether the other side has closed an idle connection, as a pool looks before it uses one again."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except ConnectionError:
        return True


class Closes:
    """Closes connections before the other side does, and writes down whose TIME_WAIT sockets that makes."""

    def __init__(self, folder: Path | None) -> None:
        """Opens a file of this process's own in the folder, if there is one."""
        self._file = (folder / f"{os.getpid()}.closes").open("a", buffering=1) if folder else None

    def close(self, connection: socket.socket) -> None:
        """Closes a connection of which everything was read."""
        self.note(connection)
        connection.close()

    def note(self, connection: socket.socket) -> None:
        """Writes down time, pid, local and remote port of a connection that is about to be closed."""
        if self._file is not None:
            local, remote = connection.getsockname()[1], connection.getpeername()[1]
            self._file.write(f"{time.monotonic():.3f} {os.getpid()} {local} {remote}\n")


class Server:
    """Answers every request, and closes when the other side has closed: what a program should do."""

    def __init__(self, listener: socket.socket, close_after: float = 0.0) -> None:
        """Takes what it listens on, and how many seconds it takes to close after the end of a stream."""
        self._listener = listener
        self._close_after = close_after
        self._closing: deque[tuple[float, socket.socket]] = deque()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self.connections: set[socket.socket] = set()

    def serve(self) -> None:
        """Serves for ever."""
        while True:
            self.step(self._until_next_close())

    def step(self, timeout: float | None) -> None:
        """Handles what is there to be handled, or waits for as many seconds."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)
        while self._closing and self._closing[0][0] <= time.monotonic():
            self._closing.popleft()[1].close()

    def stop_listening(self) -> None:
        """Accepts no more; the connections stay."""
        self._selector.unregister(self._listener)
        self._listener.close()

    def _until_next_close(self) -> float | None:
        return max(0.0, self._closing[0][0] - time.monotonic()) if self._closing else None

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._selector.register(connection, selectors.EVENT_READ)
        self.connections.add(connection)

    def _read(self, connection: socket.socket) -> None:
        try:
            if connection.recv(4096):
                connection.sendall(ANSWER)
                return
        except ConnectionError:
            pass
        self._selector.unregister(connection)
        self.connections.discard(connection)
        self._closing.append((time.monotonic() + self._close_after, connection))


def serve(port: int, close_after: float = 0.0) -> None:
    """The role of a server that does right."""
    Server(listen(port), close_after).serve()


def visit(port: int, per_second: float, folder: Path | None = None) -> None:
    """The role of a client that connects, asks and closes first, again and again."""
    closes = Closes(folder)
    for _ in pace(per_second):
        connection = connect(port)
        if ask(connection):
            closes.close(connection)
        connection.close()


def keep_asking(port: int, connections: int, per_second: float) -> None:
    """The role of a client that keeps its connections, asks on each in turn, and replaces those that were closed."""
    kept = deque(connect(port) for _ in range(connections))
    for _ in pace(per_second):
        connection = kept.popleft()
        while was_closed(connection) or not ask(connection):
            connection.close()
            connection = connect(port)
        kept.append(connection)


def give_up(
    port: int, server: int, cause: str, total: int, per_second: float, burst: int = 0, patience: float = 0.5
) -> None:
    """The role of clients that ask, wait `patience` seconds for an answer that does not come, and hang up.

    Tells the server's `cause` when the first hangs up: from then on the server has a socket to close.
    """
    waiting: deque[tuple[float, socket.socket]] = deque()
    hung_up = 0
    for made, _ in enumerate(pace(per_second, burst)):
        if made < total:
            connection = connect(port)
            connection.sendall(REQUEST)
            waiting.append((time.monotonic() + patience, connection))
        while waiting and waiting[0][0] <= time.monotonic():
            waiting.popleft()[1].close()
            hung_up += 1
            if hung_up == 1:
                misbehaves(cause, server)
