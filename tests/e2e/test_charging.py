"""Which process CLOSE_WAIT sockets are charged to, on real processes."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from support.netns import netns
from support.programs import BIN, Program, leaklab, run, running


def test_each_of_twenty_processes_is_charged_what_it_holds(tmp_path: Path) -> None:
    """Twenty processes that hold different numbers. Some have forked a child that inherited every socket.

    Where both hold them, the parent, which made them, is charged; where the parent has closed its copies, the child is.
    """
    expected: dict[int, int] = {}
    with netns() as inside, ExitStack() as stack:
        holders: list[tuple[Program, int, str]] = []
        for number in range(20):
            count = 3 + 7 * number
            kind = ("alone", "shared", "inherited")[number % 3]
            more = {"alone": (), "shared": ("--fork",), "inherited": ("--fork", "--parent-closes")}[kind]
            command = inside.command(leaklab("holder", "--close-wait", str(count), "--established", "5", *more))
            holders.append((stack.enter_context(running(command, tmp_path / f"{number}.log")), count, kind))
        for holder, count, kind in holders:
            word, child = holder.line().split()
            assert word == "ready"
            expected[int(child) if kind == "inherited" else holder.pid] = count
        done = run(inside.command([BIN / "loiter-agent", "sample", "-o", "json"]))
        assert done.returncode == 0, done.stderr
    sample = json.loads(done.stdout)
    charged = {row["pid"]: row["close_wait"] for row in sample["processes"] if row["close_wait"]}
    assert charged == expected
    assert sum(charged.values()) == sample["tcp_states"]["close_wait"]
    assert sample["coverage"]["sockets_unattributed"] == 0
