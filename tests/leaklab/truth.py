"""What a program of the leak lab told of itself, read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Fault:
    """A process misbehaves, since a reading of CLOCK_MONOTONIC in seconds."""

    pid: int
    cause: str
    since: float


@dataclass(frozen=True, slots=True)
class FullPorts:
    """At least `share` of the ports towards a port are in use, since a reading of CLOCK_MONOTONIC in seconds."""

    port: int
    share: float
    since: float


@dataclass(frozen=True, slots=True)
class Close:
    """A process closed a connection before the other side did, at a reading of CLOCK_MONOTONIC in seconds.

    The kernel may use a pair of ports again while it is in TIME_WAIT, on loopback after a second (net.ipv4.tcp_tw_reuse
    in ip-sysctl): `again` is when such a connection was closed in turn.
    """

    at: float
    pid: int
    local_port: int
    remote_port: int
    again: float = float("inf")


@dataclass(frozen=True, slots=True)
class Truth:
    """Everything that one program knows.

    `namespace` is the inode number of its network namespace. `bystanders` are processes that close nothing first.
    """

    namespace: str = ""
    pids: frozenset[int] = frozenset()
    faults: tuple[Fault, ...] = ()
    ports: FullPorts | None = None
    closes: tuple[Close, ...] = ()
    bystanders: frozenset[int] = frozenset()
    skipped: str | None = None


def parse_truth(lines: Iterable[str], closes: Iterable[str] = ()) -> Truth:
    """Reads the lines that a program printed, and its notes on what it closed; leaklab.lab says what is in them."""
    facts: list[dict[str, Any]] = [json.loads(line) for line in lines]
    ports = [FullPorts(fact["ports"], fact["share"], fact["since"]) for fact in facts if "ports" in fact]
    return Truth(
        namespace=next((fact["namespace"] for fact in facts if "namespace" in fact), ""),
        pids=frozenset(fact["pid"] for fact in facts if "pid" in fact),
        faults=tuple(Fault(fact["pid"], fact["cause"], fact["since"]) for fact in facts if "cause" in fact),
        ports=ports[0] if ports else None,
        closes=_noting_reuse(_parse_close(line) for line in closes),
        bystanders=frozenset(fact["pid"] for fact in facts if fact.get("closes") == 0),
        skipped=next((fact["skipped"] for fact in facts if "skipped" in fact), None),
    )


def read_truth(folder: Path) -> Truth:
    """Reads the folder of a program that has ended: `truth`, and a file `PID.closes` of each process that closes."""
    closes = [line for file in sorted(folder.glob("*.closes")) for line in _whole_lines(file)]
    return parse_truth(_whole_lines(folder / "truth"), closes)


def _whole_lines(file: Path) -> list[str]:
    """The lines of a file without the last one where its writer was ended in the middle of it."""
    return file.read_text().split("\n")[:-1]


def _noting_reuse(closes: Iterable[Close]) -> tuple[Close, ...]:
    noted = []
    again: dict[tuple[int, int], float] = {}
    for close in sorted(closes, key=lambda close: close.at, reverse=True):
        ports = (close.local_port, close.remote_port)
        noted.append(replace(close, again=again.get(ports, close.again)))
        again[ports] = close.at
    return tuple(reversed(noted))


def _parse_close(line: str) -> Close:
    at, pid, local, remote = line.split()
    return Close(float(at), int(pid), int(local), int(remote))
