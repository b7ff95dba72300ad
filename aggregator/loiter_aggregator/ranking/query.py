"""What is asked of a ranking, and the pieces of SQL that all rankings share.

Growth is the slope of an ordinary least-squares line through (t, y), y being the CLOSE_WAIT count and t seconds before
the end of the window (t is taken relative to a recent origin because sums of squared epochs lose too many digits).
With n points, S(xy) = n·Σxy - Σx·Σy, the slope is S(ty) / S(tt) and r² is S(ty)² / (S(tt)·S(yy)).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, SupportsInt

from loiter.v1 import sample_pb2
from loiter_aggregator.store import schema

By = Literal[
    "close_wait_growth",
    "close_wait",
    "time_wait",
    "time_wait_max",
    "time_wait_overflows",
    "fd_share",
    "stuck",
    "fd_eta",
    "ports",
]

# What each measure ranks by, worst first. Every ranking names its columns so; that of hosts alone has overflows.
ORDER: Final[Mapping[By, str]] = {
    "close_wait_growth": "growth DESC NULLS LAST",
    "close_wait": "close_wait_now DESC NULLS LAST",
    "time_wait": "time_wait_mean DESC NULLS LAST",
    "time_wait_max": "time_wait_max DESC NULLS LAST",
    "time_wait_overflows": "time_wait_overflows DESC NULLS LAST",
    "fd_share": "fd_share DESC NULLS LAST",
    "stuck": "stuck DESC NULLS LAST",
    "fd_eta": "fd_eta ASC NULLS LAST",
    "ports": "ports_share DESC NULLS LAST",
}

TREND_PARTS: Final = 20

# What a sample knows, as the store has it.
KNOWS_PROCESSES: Final = schema.KNOWS_PROCESSES
KNOWS_CAUSES: Final = schema.KNOWS_CAUSES

# The group that each host is in, by the value of a label; hosts without the label are not in it.
GROUP_OF: Final = "SELECT host_key, value FROM host_label WHERE name = $group_by"

# The points of a series, for the sums below: `t` is unknown where `y` is, so that both leave the sample out.
POINTS: Final = """
    CAST(close_wait AS DOUBLE) AS y, CASE WHEN close_wait IS NOT NULL THEN (ts - $now) / 1000.0 END AS t"""

# Sums over the samples of one series.
SUMS: Final = """
    count(y) AS n, sum(t) AS st, sum(t * t) AS stt, sum(y) AS sy, sum(t * y) AS sty, sum(y * y) AS syy,
    min(y) AS y_min, max(y) AS y_max"""

# Two points always lie on a line: a slope is said from three on.
GROWTH: Final = """
    CASE WHEN n < 3 OR n * stt - st * st <= 0 THEN NULL
         WHEN y_min = y_max THEN 0
         ELSE 3600 * (n * sty - st * sy) / (n * stt - st * st) END"""

FIT: Final = """
    CASE WHEN n < 3 OR y_min = y_max OR n * stt - st * st <= 0 OR n * syy - sy * sy <= 0 THEN NULL
         ELSE least(1, (n * sty - st * sy) * (n * sty - st * sy) / ((n * stt - st * st) * (n * syy - sy * sy))) END"""


@dataclass(frozen=True, slots=True)
class Ranking:
    """A question: by what, since when (milliseconds), how many rows, on which hosts, and which rows.

    `now` is the end of the window, `past` where that is not the present. Samples after it are left out: those that lie
    ahead of the present were stored before the clock was set back, and are older than what has come since.

    `app` is the whole name of an application, `contains` a part of a name in whatever case; both are empty where all
    are wanted, as are `cause`, `hosts`, the keys of hosts, and `apps`, whole names, None. Rankings of applications
    alone know `apps`.
    """

    by: By
    since: int
    now: int
    limit: int
    labels: Mapping[str, str]
    past: bool = False
    app: str = ""
    contains: str = ""
    cause: sample_pb2.Cause.ValueType | None = None
    hosts: frozenset[int] | None = None
    apps: frozenset[str] | None = None

    def parameters(self) -> dict[str, Any]:
        """The values of the placeholders that every ranking uses."""
        texts = {"app": self.app, "contains": self.contains}
        return (
            {"now": self.now, "limit": self.limit}
            | {name: text for name, text in texts.items() if text}
            | ({} if self.apps is None else {"apps": sorted(self.apps)})
            | label_parameters(self.labels)
        )

    @property
    def within(self) -> str:
        """A condition on the rows of a table of samples: taken within the window, on the wanted hosts."""
        only = "" if self.hosts is None else f" AND {among('host_key', self.hosts)}"
        return f"{self.window}{only}{label_filter(self.labels)}"

    @property
    def window(self) -> str:
        """A condition on the rows of a table of samples: taken within the window."""
        return f"ts >= {int(self.since)} AND ts <= {int(self.now)}"

    @property
    def seen(self) -> str:
        """When a host was heard of last: of the past all that is kept is when its `latest` sample was taken."""
        return "latest" if self.past else "last_seen"


@dataclass(frozen=True, slots=True)
class CloseWait:
    """CLOSE_WAIT of one series over the window; see the message CloseWaitTrend."""

    current: int | None
    maximum: int | None
    growth_per_hour: float | None
    growth_fit: float | None
    samples: int


@dataclass(frozen=True, slots=True)
class TimeWait:
    """TIME_WAIT of one series over the window."""

    current: int | None
    mean: float | None
    maximum: int | None


Trend = tuple[float | None, ...]


def label_filter(labels: Mapping[str, str]) -> str:
    """A condition on `host_key`: the host carries all of the labels."""
    return "".join(
        f" AND host_key IN (SELECT host_key FROM host_label WHERE name = $label{i} AND value = $value{i})"
        for i in range(len(labels))
    )


def label_parameters(labels: Mapping[str, str]) -> dict[str, object]:
    """The values of the placeholders that `label_filter` uses."""
    parameters: dict[str, object] = {}
    for i, (name, value) in enumerate(labels.items()):
        parameters[f"label{i}"] = name
        parameters[f"value{i}"] = value
    return parameters


def among(column: str, keys: Iterable[int]) -> str:
    """A condition on a column of keys: it is one of these.

    DuckDB is quickest with one, and with a join for several: of a list, it compares each value with every row.
    """
    known = sorted({int(key) for key in keys})
    if len(known) == 1:
        return f"{column} = {known[0]}"
    return f"{column} IN (SELECT unnest([{', '.join(map(str, known))}]::UBIGINT[]))"


def trends(rows: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], Trend]:
    """Lays out rows (key…, part, value) as one trend for each key, with None for a part without samples."""
    values: dict[tuple[Any, ...], list[float | None]] = {}
    for *key, part, value in rows:
        trend = values.setdefault(tuple(key), [None] * TREND_PARTS)
        trend[int(part)] = value
    return {key: tuple(trend) for key, trend in values.items()}


def trend_part(since: int, now: int, parts: int = TREND_PARTS) -> str:
    """The number of the part of the window that `ts` falls into; the last where it is later."""
    span = max(1, int(now - since))
    scaled = f"least(greatest((ts - {int(since)}) * {int(parts)}, 0), {int(parts) * span - 1})"
    return f"CAST(({scaled} - {scaled} % {span}) / {span} AS INTEGER)"


def optional_int(value: SupportsInt | None) -> int | None:
    """Narrows a count that may be NULL."""
    return None if value is None else int(value)
