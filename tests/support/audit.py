"""Compares what agents took with what is in a store: sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb


@dataclass(frozen=True, slots=True)
class Taken:
    """The samples of one agent by number: those given to its spool, and those that the spool has confirmed."""

    begun: frozenset[int]
    confirmed: frozenset[int]


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store has of one host.

    `numbers` are those of its samples, each as often as it is there. `epochs` are the sequences of each epoch in the
    order in which they were stored, and `lost` the ranges of each epoch that are counted as lost.
    """

    numbers: Counter[int]
    epochs: dict[int, list[int]]
    lost: dict[int, list[tuple[int | None, int]]]


def taken(folder: Path) -> dict[str, Taken]:
    """Reads what `synthetic_agents` wrote down, by hostname."""
    return {file.stem: _taken(file) for file in sorted(folder.glob("*.taken"))}


def _taken(file: Path) -> Taken:
    marks: dict[str, set[int]] = {"+": set(), "=": set()}
    for line in file.read_text("ascii").splitlines():
        mark, number = line.split()
        marks[mark].add(int(number))
    return Taken(frozenset(marks["+"]), frozenset(marks["="]))


def stored(database: Path) -> dict[str, Stored]:
    """Reads a store that no aggregator has open, by hostname."""
    found: dict[str, Stored] = {}
    with duckdb.connect(str(database), read_only=True) as connection:
        for key, hostname in connection.execute("SELECT host_key, hostname FROM host").fetchall():
            samples = connection.execute(
                "SELECT spool_epoch, sequence, fd_allocated FROM host_sample WHERE host_key = ? ORDER BY rowid", [key]
            ).fetchall()
            losses = connection.execute(
                "SELECT spool_epoch, first_sequence, last_sequence FROM lost_sample WHERE host_key = ?", [key]
            ).fetchall()
            one = Stored(Counter(number for _, _, number in samples), {}, {})
            for epoch, sequence, _ in samples:
                one.epochs.setdefault(epoch, []).append(sequence)
            for epoch, first, last in losses:
                one.lost.setdefault(epoch, []).append((first, last))
            found[hostname] = one
    return found


def check_accounts(hosts: Iterable[Stored]) -> None:
    """Fails unless every epoch is whole: its samples and its losses are the numbers from 1 on, each once, in order."""
    for host in hosts:
        for epoch in host.epochs.keys() | host.lost.keys():
            sequences = host.epochs.get(epoch, [])
            assert sequences == sorted(set(sequences)), f"epoch {epoch} is not in order, or not each once: {sequences}"
            lost = [
                number
                for first, last in host.lost.get(epoch, [])
                for number in ([last] if first is None else range(first, last + 1))
            ]
            every = sorted([*sequences, *lost])
            assert every == list(range(1, len(every) + 1)), f"epoch {epoch} has holes, or samples that are lost too"


def check_samples(agents: dict[str, Taken], hosts: dict[str, Stored]) -> int:
    """Fails unless every sample that a spool confirmed is stored once or among the losses, and no other is.

    A sample that an agent was killed over may be stored or not. Returns how many are lost.
    """
    lost_in_all = 0
    for name, agent in agents.items():
        host = hosts[name]
        twice = [number for number, times in host.numbers.items() if times > 1]
        assert not twice, f"{name}: stored twice: {twice}"
        strange = host.numbers.keys() - agent.begun
        assert not strange, f"{name}: stored and never taken: {sorted(strange)}"
        missing = agent.confirmed - host.numbers.keys()
        lost = sum(last - first + 1 for ranges in host.lost.values() for first, last in ranges if first is not None)
        assert len(missing) <= lost, f"{name}: {len(missing)} samples are missing, {lost} are counted as lost"
        lost_in_all += lost
    return lost_in_all
