"""Reads the figures of a sample out of its messages, many fields at a time: that takes most of what a report costs.

Each access to a field of a message makes a Python object. So a process is read once, by C alone, for those who check it
and for those who store it. A count of 0 may be absent: only then its presence is asked for. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from loiter.v1 import sample_pb2

# What is asked of each process that may be absent.
PROCESS_COUNTS: Final = (
    "established",
    "close_wait",
    "time_wait",
    "sockets",
    "fd_open",
    "fd_limit",
    "fd_limit_hard",
    "stuck",
    "ports_share",
)
# What is read of each process.
PROCESS_FIGURES: Final = ("start_time", "pid", "name", "app", "user", "arguments", "cause", *PROCESS_COUNTS)
_START: Final = PROCESS_FIGURES.index("start_time")
_figures_of: Final = attrgetter(*PROCESS_FIGURES)
_parts_of: Final = attrgetter("seconds", "nanos")


class Processes(NamedTuple):
    """The processes of a sample.

    `figures` are of each its PROCESS_FIGURES, of which what is absent reads as 0; `starts` the seconds and nanoseconds
    of its start_time.
    """

    messages: Sequence[sample_pb2.ProcessSample]
    figures: Sequence[tuple[Any, ...]]
    starts: Sequence[tuple[int, int]]


NO_PROCESSES: Final = Processes((), (), ())


def read_processes(sample: sample_pb2.Sample) -> Processes:
    """Reads all processes of a sample."""
    messages = list(sample.processes)
    figures = list(map(_figures_of, messages))
    return Processes(messages, figures, [_parts_of(one[_START]) for one in figures])


def reader(part: str, *names: str) -> Callable[[sample_pb2.Sample], Sequence[Any]]:
    """Makes what reads fields of a part of a sample, all of them `optional`: None stands for what is absent."""
    part_of, figures_of, nothing = attrgetter(part), attrgetter(*names), (None,) * len(names)

    def read(sample: sample_pb2.Sample) -> Sequence[Any]:
        if not sample.HasField(part):  # type: ignore[arg-type]  # typed by the names, one by one
            return nothing
        message = part_of(sample)
        figures: tuple[Any, ...] = figures_of(message)
        return known(message.HasField, names, figures) if 0 in figures else figures

    return read


def known(has: Callable[[Any], bool], names: Sequence[str], figures: Sequence[Any]) -> list[Any]:
    """Tells the zeros among figures from what is absent, which becomes None; `has` is the HasField of the message."""
    told = list(figures)
    at = -1
    for _ in range(told.count(0)):
        at = told.index(0, at + 1)
        if not has(names[at]):
            told[at] = None
    return told
