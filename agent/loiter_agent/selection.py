"""Chooses which processes are reported one by one, and adds up the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from heapq import nlargest
from typing import Final

from loiter_agent.sample import OtherProcesses, ProcessFds, ProcessKey, ProcessSockets

_SHORT_OF_PORTS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process that may be reported. `sockets` is None where its sockets could not be read."""

    process: ProcessFds
    sockets: ProcessSockets | None

    @property
    def key(self) -> ProcessKey:
        """The process."""
        return self.process.key

    @property
    def close_wait(self) -> int:
        """Its CLOSE_WAIT sockets, as far as known."""
        return self.sockets.close_wait if self.sockets else 0

    @property
    def fd_share(self) -> float:
        """Open descriptors over the limit, as far as known."""
        fd_open, limit = self.process.fd_open, self.process.fd_limit
        return fd_open / limit if fd_open and limit else 0.0


def select(candidates: Collection[Candidate], top: int, limit: int) -> list[Candidate]:
    """Chooses processes: all with CLOSE_WAIT sockets, all that use up their ports, and the `top` largest.

    The largest are those by sockets, by TIME_WAIT sockets, by descriptors and by share of the limit on them.

    At most `limit` are chosen, those with the most CLOSE_WAIT first. Returned with the most CLOSE_WAIT first, then
    by sockets, descriptors and pid.
    """
    measures: tuple[Callable[[Candidate], float], ...] = (
        lambda candidate: candidate.sockets.total if candidate.sockets else 0,
        lambda candidate: (candidate.sockets.time_wait or 0) if candidate.sockets else 0,
        lambda candidate: candidate.process.fd_open or 0,
        lambda candidate: candidate.fd_share,
    )
    chosen = {
        candidate.key: candidate for candidate in candidates if candidate.close_wait or _is_short_of_ports(candidate)
    }
    for measure in measures:
        for candidate in nlargest(top, candidates, key=measure):
            if measure(candidate) > 0:
                chosen[candidate.key] = candidate
    return sorted(chosen.values(), key=_order)[:limit]


def remainder(candidates: Collection[Candidate], chosen: Collection[Candidate]) -> OtherProcesses:
    """Adds up the processes that were not chosen: for each figure, those of which it is known.

    A figure is None where it is known of none of them.
    """
    keys = {candidate.key for candidate in chosen}
    rest = [candidate for candidate in candidates if candidate.key not in keys]
    sockets = [candidate.sockets for candidate in rest if candidate.sockets is not None]
    fds = [candidate.process.fd_open for candidate in rest if candidate.process.fd_open is not None]
    nothing_known = None if rest else 0
    return OtherProcesses(
        processes=len(rest),
        established=sum(one.established for one in sockets) if sockets else nothing_known,
        close_wait=sum(one.close_wait for one in sockets) if sockets else nothing_known,
        sockets=sum(one.total for one in sockets) if sockets else nothing_known,
        fd_open=sum(fds) if fds else nothing_known,
    )


def _is_short_of_ports(candidate: Candidate) -> bool:
    share = candidate.sockets.ports_share if candidate.sockets else None
    return share is not None and share >= _SHORT_OF_PORTS


def _order(candidate: Candidate) -> tuple[int, int, int, int]:
    sockets = candidate.sockets.total if candidate.sockets else 0
    return -candidate.close_wait, -sockets, -(candidate.process.fd_open or 0), candidate.key.pid
