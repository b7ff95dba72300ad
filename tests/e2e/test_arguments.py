"""Command lines may hold secrets: they do not leave the host unless the agent is told to send them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loiter_agent.identity import Identities
from loiter_agent.procfs import Procfs
from loiter_agent.sample import ProcessKey
from support.programs import Aggregator, agent_command, aggregator, ask, leaklab, running, wait_until
from support.side_by_side import side_by_side

SECRET = "planted-secret-7c1f"


class Wiretap:
    """Relays connections to a server and keeps every byte that goes either way."""

    def __init__(self, server: str) -> None:
        """Listens on a free port."""
        host, _, port = server.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._relay, args=(source, target), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                self.heard += data
                target.sendall(data)
        except OSError:
            return
        finally:
            target.close()


@contextmanager
def wiretap(server: Aggregator) -> Iterator[Wiretap]:
    """Taps the way to an aggregator for as long as the block lasts."""
    tap = Wiretap(server.server)
    try:
        yield tap
    finally:
        tap.close()


def test_arguments_are_on_the_wire_only_if_the_agent_is_told_to_send_them(tmp_path: Path) -> None:
    """A secret is planted in the arguments and in the environment of a program that is certainly reported.

    The configured case shows that the secret would be heard if it were sent.
    """
    side_by_side(check_arguments, [False, True], tmp_path)


def check_arguments(configured: bool, tmp_path: Path) -> None:
    environment = {"LOITER_PROCESSES_ARGUMENTS": "true"} if configured else {}
    leak = [*leaklab("leak", "--per-second", "50"), f"--token={SECRET}-argument"]
    with (
        aggregator(tmp_path) as server,
        wiretap(server) as tap,
        running(leak, tmp_path / "leak.log", {"SECRET": f"{SECRET}-environment"}) as program,
    ):
        assert program.line() == "leaking", program.logged()
        command = agent_command(tap.address, tmp_path, interval="1s")
        with running(command, tmp_path / "agent.log", environment):

            def reported() -> list[str]:
                return [row["app"] for row in ask(server.server, "top", "processes", "-o", "json", "--limit", "100")]

            wait_until(lambda: "leak.py" in reported(), 30, "the program is reported")
            wait_until(lambda: tap.heard.count(b"leak.py") >= 5, 30, "several reports are heard")
    assert (f"{SECRET}-argument".encode() in tap.heard) is configured
    assert f"{SECRET}-environment".encode() not in tap.heard


def test_identities_carry_no_arguments_by_default(tmp_path: Path) -> None:
    """The sampler is not even told."""
    command = [*leaklab("leak"), f"--token={SECRET}"]
    with running(command, tmp_path / "leak.log") as program:
        assert program.line() == "leaking", program.logged()
        procfs = Procfs()
        stat = procfs.stat(program.pid)
        key = ProcessKey(program.pid, stat.start_ticks)
        assert SECRET not in repr(Identities(procfs).of(key, stat.comm))
        assert SECRET in repr(Identities(procfs, arguments=True).of(key, stat.comm))
