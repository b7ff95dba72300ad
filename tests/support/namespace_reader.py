"""Reads the sockets of every network namespace. As a program: prints what it found, as JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from loiter_agent.inet_diag import ALL_STATES, Chunk
from loiter_agent.namespaces import Namespaces, OpenNamespace
from loiter_agent.procfs import Procfs
from loiter_agent.sample import ProcessFds, ProcessKey
from loiter_agent.sock_diag import TornDumpError


def processes(procfs: Procfs) -> Iterator[ProcessFds]:
    """The processes of this machine with the namespace that each is in at this moment."""
    for pid in procfs.pids():
        try:
            stat = procfs.stat(pid)
            yield ProcessFds(
                ProcessKey(pid, stat.start_ticks), stat.comm, None, None, namespace=procfs.network_namespace(pid)
            )
        except OSError:
            continue


def count(chunks: Iterable[Chunk]) -> dict[int, int]:
    """Sockets by state."""
    states: Counter[int] = Counter()
    for chunk in chunks:
        states.update(chunk.states())
    return dict(states)


def states(namespace: OpenNamespace) -> dict[int, int]:
    """The sockets of a namespace by state."""
    return count(namespace.dump(ALL_STATES))


def states_if_there(namespace: OpenNamespace) -> dict[int, int] | None:
    """The same; None where the namespace can not be read, or has just gone."""
    try:
        return states(namespace)
    except (OSError, TornDumpError):
        return None


def main() -> None:
    """Prints a list of namespaces."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    procfs = Procfs()
    namespaces = Namespaces(procfs)
    for _ in range(2):
        found = namespaces.refresh(processes(procfs))
    json.dump(
        [
            {
                "id": one.id,
                "name": one.name,
                "member": one.member.pid if one.member else None,
                "own": one.own,
                "how": one.how,
                "settings": one.settings is not None,
                "states": states_if_there(one),
            }
            for one in found
        ],
        sys.stdout,
    )
    namespaces.close()


if __name__ == "__main__":
    main()
