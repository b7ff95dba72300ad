"""A fleet with something to see: an aggregator with its web page, an agent, programs that misbehave, and made-up hosts.

Everything runs on the loopback address, and ends with the test at the latest.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from support.programs import (
    BIN,
    LEAKLAB,
    ROOT,
    Command,
    Program,
    agent_command,
    ask,
    free_port,
    running,
    wait_until,
)
from support.synthetic_fleet import HOSTILE, SILENT, write_past

# What is misbehaved here: the program and its arguments.
_PROGRAMS: Final = (
    ("forgets_to_close", "--per-second", "4"),
    ("blocked_on_lock", "--per-second", "2"),
    ("crawler", "--per-second", "40"),
    ("idle_pool", "--connections", "15"),
)
# A file may be called so, and is what the agent calls the application.
_HOSTILE_FILE: Final = "<script>alert(1)<script>\x1b[2J=cmd().py"
_HOSTILE_PROGRAM: Final = f"""
import runpy, sys
open("/proc/self/comm", "w").write("<script>alert(1)")
sys.path[:0] = [{str(ROOT / "tests")!r}]
sys.argv[1:] = ["--per-second", "1"]
runpy.run_path({str(LEAKLAB / "programs/forgets_to_close.py")!r}, run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class WatchedFleet:
    """A running fleet: where gRPC and the web page are, the folder of its files, and the aggregator."""

    server: str
    url: str
    folder: Path
    aggregator: Program
    # Of the process that leaks, on the host of this machine.
    host: str
    leaking_pid: int


@contextmanager
def watched_fleet(folder: Path, *flags: str, toml: str = "", hostile: bool = True) -> Iterator[WatchedFleet]:
    """Runs a fleet, from when its ranking shows what misbehaves, for as long as the block lasts.

    Args:
        folder: For the store, the settings and the logs; the aggregator's settings are `aggregator.toml` there.
        flags: More flags for `loiter serve`.
        toml: More settings for the aggregator.
        hostile: Whether names are among them that are made to do harm; not in pictures for people.
    """
    server, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        pids = {}
        for name, *arguments in _PROGRAMS:
            command: Command = [sys.executable, LEAKLAB / f"programs/{name}.py", *arguments]
            pids[name] = stack.enter_context(_lab_program(command, folder / f"{name}.log")).pid
        if hostile:
            (folder / _HOSTILE_FILE).write_text(_HOSTILE_PROGRAM)
            stack.enter_context(_lab_program([sys.executable, folder / _HOSTILE_FILE], folder / "hostile.log"))
        aggregator = stack.enter_context(serving(folder, server, http, *flags, toml=toml, hostile=hostile))
        of_agent = ("--label", "role=lab", *(() if hostile else ("--hostname", "web-3")))
        stack.enter_context(running([*MORTAL, *agent_command(server, folder, *of_agent)], folder / "agent.log"))
        stack.enter_context(synthetic_hosts(folder, server, hostile=hostile))
        leak = wait_until(
            lambda: _leak(server, pids["forgets_to_close"], hostile), 60, "the ranking shows what misbehaves"
        )
        yield WatchedFleet(server, f"http://{http}", folder, aggregator, leak["host"], leak["pid"])


@contextmanager
def serving(
    folder: Path, server: str, http: str, *flags: str, toml: str = "", hostile: bool = True
) -> Iterator[Program]:
    """Runs an aggregator whose store has an hour of made-up hosts in it, from when it listens."""
    write_past(folder / "store", hostile=hostile)
    settings = folder / "aggregator.toml"
    settings.write_text(toml)
    command: Command = [BIN / "loiter", "serve", "--config", settings, "--listen", server, "--http", http]
    command = [*MORTAL, *command, "--data-dir", folder / "store", *flags]
    with running(command, folder / "aggregator.log") as program:
        program.wait_for_log("store in", 30)
        yield program


@contextmanager
def synthetic_hosts(folder: Path, server: str, *secrets: Path, hostile: bool = True) -> Iterator[Program]:
    """Runs the agents of the made-up hosts, which may have to show a token and to trust an authority: their files."""
    command: Command = [sys.executable, ROOT / "tests/support/synthetic_fleet.py", server, *secrets]
    environment = _ON_PATH if hostile else {**_ON_PATH, "LOITER_TAME": "1"}
    with running(command, folder / "synthetic.log", environment) as program:
        yield program


# They end with this process, whatever ends it; the programs of the leak lab do so by themselves.
MORTAL: Final[Command] = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
_ON_PATH: Final = {"PYTHONPATH": str(ROOT / "tests")}


@contextmanager
def _lab_program(command: Command, log: Path) -> Iterator[Program]:
    with running(command, log, _ON_PATH) as program:
        assert program.line(), program.logged()
        yield program


def _leak(server: str, parent: int, hostile: bool) -> Any:
    """The process of this machine that leaks, a child of ours, once the rankings have all that is to be seen."""
    rows = ask(server, "top", "processes", "--window", "5m", "--limit", "50")
    causes = {row["cause"] for row in rows if row["app"].endswith(".py")}
    fleet = ask(server, "fleet")
    silent = [one["host"] for one in fleet["silent_hosts"]]
    seen = (not hostile or any(row["app"] == HOSTILE for row in rows)) and SILENT in silent
    if not seen or not {"leak", "stalled_reader", "idle_pool"} <= causes:
        return None
    ours = {child.pid for child in psutil.Process(parent).children()}
    return next((row for row in rows if row["pid"] in ours and row["cause"] == "leak"), None)
