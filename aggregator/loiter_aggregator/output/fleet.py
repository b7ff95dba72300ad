"""The fleet and the hosts that something is the matter with: as JSON, as CSV, and as a page for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from rich.console import Group
from rich.text import Text

from loiter.durations import format_duration
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output import cells
from loiter_aggregator.output.data import as_csv
from loiter_aggregator.output.rows import (
    Row,
    degradation_name,
    optional_fields,
    seconds,
    time,
    trend_values,
    value,
)
from loiter_aggregator.output.sections import off
from loiter_aggregator.output.states import states_table
from loiter_aggregator.output.tables import Column, coverage_line, table

_SILENT: Final = (
    Column("SILENT HOST", "host", cells.text, right=False),
    Column("LAST REPORT", "last_report", cells.text, right=False),
)
_LOSING: Final = (
    Column("LOSING HOST", "host", cells.text, right=False),
    Column("SAMPLES", "samples", cells.count),
)
_SKEWED: Final = (
    Column("CLOCK OFF", "host", cells.text, right=False),
    Column("BY", "clock_skew_seconds", off, right=False, fixed=True),
)
_DEGRADED: Final = (
    Column("LEFT OUT", "host", cells.text, right=False),
    Column("STEP", "degradation", cells.text, right=False, fixed=True),
)
_CONFLICTS: Final = (
    Column("SAME ID", "host", cells.text, right=False, min_width=8),
    Column("FROM", "peer", cells.text, right=False, min_width=8),
    Column("REFUSED", "refused_host", cells.text, right=False, min_width=8),
    Column("FROM", "refused_peer", cells.text, right=False, min_width=8),
    Column("LAST", "last_time", cells.text, right=False, wide_only=True),
    Column("HOST ID", "host_id", cells.text, right=False, wide_only=True),
)
_SECTIONS: Final = (
    (_SILENT, "silent_hosts"),
    (_LOSING, "losing_hosts"),
    (_SKEWED, "skewed_hosts"),
    (_DEGRADED, "degraded_hosts"),
    (_CONFLICTS, "conflicts"),
)


def document(answer: pb.GetFleetResponse) -> Row:
    """The answer with the keys that scripts rely on."""
    return {
        "tcp_states": optional_fields(answer.tcp_states),
        "coverage": optional_fields(answer.coverage),
        **_matters(answer),
        "close_wait_trend": trend_values(answer.close_wait_trend),
        "time_wait_trend": trend_values(answer.time_wait_trend),
        "aggregator": {
            "start_time": time(answer.aggregator.start_time),
            **optional_fields(answer.aggregator),
        },
    }


def csv(answer: pb.GetFleetResponse) -> str:
    """The totals: a figure a row."""
    counts = {**optional_fields(answer.tcp_states), **optional_fields(answer.coverage)}
    return as_csv([{"figure": name, "value": value} for name, value in counts.items()], ("figure", "value"))


def page(answer: pb.GetFleetResponse, window: float, limit: int, wide: bool) -> Group:
    """The fleet for people."""
    parts: list[Any] = [
        Text(f"fleet now; trends over the last {format_duration(window)}", style="bold"),
        states_table(answer.tcp_states),
        Text(),
        _trend("CLOSE_WAIT", trend_values(answer.close_wait_trend)),
        _trend("TIME_WAIT", trend_values(answer.time_wait_trend)),
        Text(),
    ]
    matters = _matters(answer)
    for columns, key in _SECTIONS:
        total = answer.coverage.hosts_silent if key == "silent_hosts" else len(matters[key])
        parts += _section(columns, matters[key], total, limit, wide)
    parts.append(Text(coverage_line(answer.coverage), style="dim"))
    parts.append(Text(_taken_in(answer.aggregator), style="dim"))
    return Group(*parts)


def _silent(answer: pb.GetFleetResponse) -> list[Row]:
    return [
        {"host": host.hostname, "host_id": host.host_id, "last_report": time(host.last_report_time)}
        for host in answer.silent_hosts
    ]


def _notices(notices: Iterable[pb.HostNotice], figure: Callable[[pb.HostNotice], Row]) -> list[Row]:
    return [{"host": one.hostname, "host_id": one.host_id, **figure(one)} for one in notices]


def _matters(answer: pb.GetFleetResponse) -> Row:
    """The hosts that something is the matter with, by what it is."""
    return {
        "silent_hosts": _silent(answer),
        "losing_hosts": _notices(answer.losing_hosts, lambda one: {"samples": value(one, "lost_samples")}),
        "skewed_hosts": _notices(answer.skewed_hosts, lambda one: {"clock_skew_seconds": seconds(one.clock_skew)}),
        "degraded_hosts": _notices(
            answer.degraded_hosts, lambda one: {"degradation": degradation_name(one.degradation)}
        ),
        "conflicts": [
            {
                "host": one.hostname,
                "host_id": one.host_id,
                "peer": one.peer,
                "refused_host": one.refused_hostname,
                "refused_peer": one.refused_peer,
                "last_time": time(one.last_time),
            }
            for one in answer.conflicts
        ],
    }


def _section(columns: Sequence[Column], rows: Sequence[Row], total: int, limit: int, wide: bool) -> list[Any]:
    """A table of hosts, and how many more there are; nothing where there are none."""
    if not rows:
        return []
    hidden = total - min(len(rows), limit)
    more = [Text(f"and {hidden:,} more; -o json lists up to 1,000")] if hidden > 0 else []
    return [table(columns, rows[:limit], wide), *more, Text()]


def _taken_in(aggregator: pb.AggregatorStatus) -> str:
    # Named only where there is any.
    trouble = (
        (aggregator.samples_lost, "samples lost"),
        (aggregator.streams_overloaded, "turned away for too much to do"),
        (aggregator.calls_refused, "calls refused"),
    )
    return (
        f"aggregator {cells.text(aggregator.version)} since {time(aggregator.start_time)}: "
        f"{aggregator.reports_stored:,} reports\n"
        f"stored, {aggregator.reports_duplicate:,} duplicate, {aggregator.reports_rejected:,} rejected; "
        f"{aggregator.commits_failed:,} commits failed\n"
        f"{aggregator.streams:,} agents connected"
        + "".join(f"; {what}: {number:,}" for number, what in trouble if number)
    )


def _trend(name: str, values: list[float | None]) -> Text:
    most = max((value for value in values if value is not None), default=None)
    return Text(f"{name:<10} {cells.sparkline(values, 20)}  at most {cells.count(most)}")
