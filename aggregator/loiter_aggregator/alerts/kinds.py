"""The kinds of rules: what each measures, how its threshold is written, and what is right where a file does not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loiter.durations import format_duration
from loiter.settings import Reader, duration, percentage
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import value

_MINUTE: Final = 60.0
_HOUR: Final = 3_600.0
_DAY: Final = 86_400.0
_MAX_COUNT: Final = 1e9


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of rule.

    `by` is the ranking that it is measured by: of processes where alerts are about applications, else of hosts. Without
    one, it is about silent hosts. `worse` says which side of its threshold breaks a rule, and `slack` times the
    threshold is where a broken rule is kept again; without, that is the threshold itself. From the step `left_out` on,
    agents leave the figure out. `absent_is_none` where a figure that is absent says that there is nothing of the kind,
    and not that it is unknown.
    """

    name: str
    about: str
    by: pb.RankBy.ValueType | None
    figure: Callable[[Any], float | None]
    worse: str
    read: Reader
    write: Callable[[float], str]
    slack: float | None
    window: float
    for_: float
    left_out: sample_pb2.Degradation.ValueType
    absent_is_none: bool
    broken: str
    limit: str
    fits: bool = False


def number(minimum: float) -> Reader:
    """Makes a reader of numbers from a minimum on."""

    def read(value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError(f"{value!r} is not a number")
        if not minimum <= value <= _MAX_COUNT:
            raise ValueError(f"{value!r} is not between {minimum:,g} and {_MAX_COUNT:,.0f}")
        return float(value)

    return read


def _fd_eta(process: pb.ProcessRank) -> float | None:
    return process.fd_forecast.seconds if process.HasField("fd_forecast") else None


def _percent(share: float) -> str:
    return f"{cells.percent(share)} %"


_ALL: Final = (
    Kind(
        name="close-wait-growth",
        about="app",
        by=pb.RANK_BY_CLOSE_WAIT_GROWTH,
        figure=lambda process: value(process.close_wait, "growth_per_hour"),
        worse="above",
        read=number(1),
        write=cells.count,
        slack=0.8,
        window=15 * _MINUTE,
        for_=10 * _MINUTE,
        left_out=sample_pb2.DEGRADATION_COUNTS_ONLY,
        absent_is_none=False,
        broken="CLOSE_WAIT grows by {} sockets an hour",
        limit="CLOSE_WAIT of a process grows by {} sockets an hour or more",
        fits=True,
    ),
    Kind(
        name="stuck",
        about="app",
        by=pb.RANK_BY_STUCK,
        figure=lambda process: value(process, "stuck"),
        worse="above",
        read=number(1),
        write=cells.count,
        slack=0.8,
        window=5 * _MINUTE,
        for_=10 * _MINUTE,
        left_out=sample_pb2.DEGRADATION_NO_DETAIL,
        absent_is_none=False,
        broken="{} sockets are stuck in CLOSE_WAIT",
        limit="{} sockets of a process or more are stuck in CLOSE_WAIT",
    ),
    Kind(
        name="fd-eta",
        about="app",
        by=pb.RANK_BY_FD_ETA,
        figure=_fd_eta,
        worse="below",
        read=duration(1, 366 * _DAY),
        write=cells.duration,
        slack=1.25,
        window=15 * _MINUTE,
        for_=5 * _MINUTE,
        left_out=sample_pb2.DEGRADATION_COUNTS_ONLY,
        absent_is_none=True,
        broken="file descriptors are used up in {}",
        limit="file descriptors of a process are used up in {} or less",
    ),
    Kind(
        name="ports",
        about="host",
        by=pb.RANK_BY_PORTS,
        figure=lambda host: value(host, "ports_share"),
        worse="above",
        read=percentage(1, 100),
        write=_percent,
        slack=0.9,
        window=5 * _MINUTE,
        for_=2 * _MINUTE,
        left_out=sample_pb2.DEGRADATION_COUNTS_ONLY,
        absent_is_none=True,
        broken="{} of the ephemeral ports to one destination are in use",
        limit="{} of the ephemeral ports to one destination or more are in use",
    ),
    Kind(
        name="time-wait-overflow",
        about="host",
        by=pb.RANK_BY_TIME_WAIT_OVERFLOWS,
        figure=lambda host: value(host, "time_wait_overflows"),
        worse="above",
        read=number(1),
        write=cells.count,
        slack=None,
        window=5 * _MINUTE,
        for_=0.0,
        left_out=sample_pb2.DEGRADATION_COUNTS_ONLY,
        absent_is_none=False,
        broken="{} TIME_WAIT sockets were destroyed for want of room",
        limit="{} TIME_WAIT sockets or more are destroyed for want of room",
    ),
    Kind(
        name="host-silent",
        about="host",
        by=None,
        figure=lambda host: None,  # it is not ranked  # noqa: ARG005
        worse="above",
        read=duration(1, 30 * _DAY),
        write=format_duration,
        slack=None,
        window=0.0,
        for_=0.0,
        left_out=sample_pb2.DEGRADATION_COUNTS_ONLY,
        absent_is_none=True,
        broken="no report has come for {}",
        limit="no report comes for {} or longer",
    ),
)

KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in _ALL}
