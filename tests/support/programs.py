"""Starts the project's programs and the leak lab's as real processes, and ends them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Answer = TypeVar("Answer")
Command = Sequence[str | Path]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LEAKLAB = ROOT / "tests" / "leaklab"

# What the machine's user may have set must not reach the programs under test. Of the aggregators that run side by side,
# only those serve a web page that are asked for one.
CLEAN_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LOITER_")} | {
    "LOITER_HTTP": "off"
}


class Program:
    """A running program whose standard error is kept."""

    def __init__(self, command: Command, log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Starts it. Its standard input is a pipe, its standard output is lines to be read."""
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**CLEAN_ENVIRONMENT, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def line(self) -> str:
        """Waits for a line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def logged(self) -> str:
        """What it has written to standard error so far."""
        return self.log.read_text()

    def wait_for_log(self, text: str, seconds: float = 20) -> None:
        """Waits until it has written a text to standard error."""
        wait_until(lambda: text in self.logged() or self._ended(), seconds, f"{text!r} in {self.log}")
        assert text in self.logged(), self.logged()

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 20) -> int:
        """Sends a signal and returns the exit status. A program that has ended already keeps its status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()

    def _ended(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def running(command: Command, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Runs a program for as long as the block lasts."""
    program = Program(command, log, environment)
    try:
        yield program
    finally:
        program.stop()


def wait_until(condition: Callable[[], Answer], seconds: float, what: str) -> Answer:
    """Asks again and again until the answer is true, and returns it. For processes, which have no fake clock."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def free_port() -> int:
    """Finds a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(
    command: Command, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**CLEAN_ENVIRONMENT, **(environment or {})},
        cwd=cwd,
    )


def loiter(*arguments: str, server: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return run([BIN / "loiter", *arguments], {"LOITER_SERVER": server} if server else None)


def ask(server: str, *arguments: str) -> Any:
    """Asks an aggregator and returns the parsed JSON."""
    done = loiter(*arguments, "-o", "json", server=server)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Aggregator:
    """An aggregator on a port and a folder of its own, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        """Chooses the port."""
        self.folder = folder
        self.server = f"127.0.0.1:{free_port()}"
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        """The running program."""
        assert self._program is not None, "not started"
        return self._program

    def start(self) -> None:
        """Starts it and waits until it listens."""
        log = self.folder / "aggregator.log"
        before = log.read_text().count("listening on") if log.exists() else 0
        command: Command = [BIN / "loiter", "serve", "--listen", self.server, "--data-dir", self.folder / "store"]
        self._program = Program(command, log)
        wait_until(
            lambda: log.read_text().count("listening on") > before or self.program.process.poll() is not None,
            30,
            f"the aggregator listens; {log}",
        )
        assert self.program.process.poll() is None, log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stops it and returns its exit status."""
        return self.program.stop(number)


@contextmanager
def aggregator(folder: Path) -> Iterator[Aggregator]:
    """Runs an aggregator for as long as the block lasts."""
    one = Aggregator(folder)
    one.start()
    try:
        yield one
    finally:
        one.stop()


def agent_command(
    server: str, folder: Path, *more: str, interval: str = "1s", cpu_budget: str | None = "100%"
) -> list[str | Path]:
    """The command of an agent that keeps its state in a folder, and leaves nothing out unless it is to."""
    if cpu_budget is not None:
        more = ("--cpu-budget", cpu_budget, *more)
    return [
        BIN / "loiter-agent",
        "run",
        "--server",
        server,
        "--interval",
        interval,
        "--state-dir",
        folder / "agent-state",
        *more,
    ]


def leaklab(program: str, *arguments: str) -> list[str | Path]:
    """The command of a program of the leak lab."""
    return [sys.executable, LEAKLAB / f"{program}.py", *arguments]
