"""Which process CLOSE_WAIT sockets are charged to, on real processes."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

from support.netns import netns
from support.programs import BIN, Program, leaklab, run, running


def test_each_of_twenty_processes_is_charged_what_it_holds(tmp_path: Path) -> None:
    """Twenty processes that hold different numbers. Some have forked a child that inherited every socket.

    Where both hold them, the parent, which made them, is charged; where the parent has closed its copies, the child is.
    """
    expected: dict[int, int] = {}
    children: set[int] = set()
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
            children.add(int(child))
            expected[int(child) if kind == "inherited" else holder.pid] = count
        done = run(inside.command([BIN / "loiter-agent", "sample", "-o", "json"]))
        assert done.returncode == 0, done.stderr
    sample = json.loads(done.stdout)
    # Of all processes of the machine, those of the test: neither a parent nor a child of theirs has any besides.
    pids = {holder.pid for holder, _, _ in holders} | expected.keys() | children
    charged = {row["pid"]: row["close_wait"] for row in sample["processes"] if row["close_wait"] and row["pid"] in pids}
    assert charged == expected
    assert sum(charged.values()) <= sample["tcp_states"]["close_wait"]


def test_sockets_that_were_never_accepted_are_charged_to_the_listener(tmp_path: Path) -> None:
    """Their peers hung up while they waited in its accept queue: nobody has a descriptor for them."""
    with netns() as inside, running(inside.command(leaklab("deaf", "--pending", "12")), tmp_path / "deaf.log") as deaf:
        assert deaf.line() == "ready"
        done = run(inside.command([BIN / "loiter-agent", "sample", "-o", "json"]))
    (row,) = [row for row in json.loads(done.stdout)["processes"] if row["pid"] == deaf.pid]
    assert row["close_wait"] == 12
    assert row["evidence"]["accept_queue"] == {"depth": 12, "limit": 12}
    # Its own ends of those connections, the listener, and those that wait.
    assert row["sockets"] == 25


def test_a_process_in_another_network_namespace_is_charged_like_any_other(tmp_path: Path) -> None:
    """Its sockets are read there, and the sample says which namespaces were."""
    with (
        netns() as inside,
        running(inside.command(leaklab("holder", "--close-wait", "50")), tmp_path / "log") as holder,
    ):
        assert holder.line() == "ready 0"
        done = run([BIN / "loiter-agent", "sample", "-o", "json"])
        namespace = os.stat(f"/proc/{holder.pid}/ns/net").st_ino
    sample = json.loads(done.stdout)
    (row,) = [row for row in sample["processes"] if row["pid"] == holder.pid]
    assert (row["close_wait"], row["sockets"]) == (50, 101)
    assert row["fd_open"] > 100
    assert [str(one["id"]) for one in sample["namespaces"] if one["read"]].count(str(namespace)) == 1
