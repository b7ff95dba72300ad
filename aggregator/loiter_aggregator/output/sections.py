"""The parts of a page that are not rankings: TIME_WAIT by destination, budgets of ports, lost samples, and the like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from rich.text import Text

from loiter.v1 import sample_pb2
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import (
    Row,
    degradation_name,
    optional_fields,
    port_budgets,
    time_wait_groups,
    value,
)
from loiter_aggregator.output.tables import Column, table

_NAMESPACE: Final = Column("NAMESPACE", "namespace", cells.text, right=False, min_width=8, wide_only=True)
_TIME_WAIT: Final = (
    Column("TIME_WAIT", "count", cells.count),
    Column("CLOSES/s", "closes_per_second", cells.rate),
    Column("OF", "of", cells.text, right=False, min_width=12),
    Column("OWNER", "who", cells.text, right=False, min_width=8),
    Column("PID", "pid", cells.text),
    Column("FOUND BY", "how", cells.text, right=False, fixed=True),
    _NAMESPACE,
)
_PORTS: Final = (
    Column("PORTS", "used", cells.count),
    Column("OF", "available", cells.count),
    Column("%", "share", cells.percent),
    Column("TIME_WAIT", "time_wait", cells.count),
    Column("GONE IN", "exhausted_in_seconds", cells.duration),
    Column("FROM", "source", cells.text, right=False, min_width=8),
    Column("TO", "destination", cells.text, right=False, min_width=12),
    Column("PID", "pid", cells.text),
    Column("CONN/s", "connects_per_second", cells.rate, wide_only=True),
    Column("LIMIT/s", "exhausting_connects_per_second", cells.rate, wide_only=True),
    Column("REUSABLE", "reusable", cells.count, wide_only=True),
    _NAMESPACE,
)
_LOST: Final = (
    Column("LOST", "samples", cells.count),
    Column("FROM", "first_time", cells.text, right=False, fixed=True),
    Column("TO", "last_time", cells.text, right=False, fixed=True),
    Column("WHY", "reason", cells.text, right=False, fixed=True),
)

Namespaces = Sequence[sample_pb2.NetworkNamespace]


def time_wait_section(
    groups: Sequence[sample_pb2.TimeWaitGroup], namespaces: Namespaces, limit: int, wide: bool
) -> list[Any]:
    """TIME_WAIT by destination and listener, with owners; nothing where there is none."""
    return _section(_TIME_WAIT, [_time_wait_row(row) for row in time_wait_groups(groups)], namespaces, limit, wide)


def ports_section(
    budgets: Sequence[sample_pb2.PortBudget], namespaces: Namespaces, limit: int, wide: bool
) -> list[Any]:
    """Budgets of ephemeral ports, fullest first; nothing where there is none."""
    return _section(_PORTS, [_ports_row(row) for row in port_budgets(budgets)], namespaces, limit, wide)


def lost_section(rows: Sequence[Row], limit: int, wide: bool) -> list[Any]:
    """Samples that are lost, latest first; nothing where there are none."""
    return [Text(), table(_LOST, rows[:limit], wide), *_more(len(rows) - limit)] if rows else []


def clock_line(skew_seconds: float, agent_time: str) -> str:
    """By how much a clock is off."""
    return f"clock {off(skew_seconds)}: {agent_time} at the latest sample"


def off(skew_seconds: float) -> str:
    """How far a clock is from the aggregator's."""
    return f"{cells.duration(abs(skew_seconds))} {'behind' if skew_seconds > 0 else 'ahead'}"


def budget_line(latest: sample_pb2.Sample) -> str:
    """What an agent leaves out, and the processor time that is the reason; empty where it leaves out nothing."""
    if not latest.degradation:
        return ""
    used, allowed = (value(latest.cost, name) for name in ("cpu_share", "cpu_budget"))
    return (
        f"degraded: {degradation_name(latest.degradation)}; the agent used {cells.percent(used)} % of a processor, "
        f"its budget is {cells.percent(allowed)} %"
    )


def spool_line(spool: sample_pb2.SpoolStatus) -> str:
    """What waits on the host for an aggregator; empty where there is nothing to say."""
    # One report waits at any time: the one that says so is not acknowledged yet.
    if spool.waiting_reports < 2 and not spool.in_memory:
        return ""
    where = ", in memory: the disk does not take them, and they are lost if the agent ends" if spool.in_memory else ""
    return f"{spool.waiting_reports:,} reports waited on the host, {cells.size(spool.waiting_bytes)}{where}"


def limits_line(limits: sample_pb2.TimeWaitLimits) -> str:
    """What the kernel lets TIME_WAIT sockets do."""
    known = optional_fields(limits)
    rate = known["overflows_per_second"]
    now = f", {cells.rate(rate)} a second at present" if rate else ""
    return (
        f"this side closed first; TIME_WAIT lasts {cells.duration(limits.seconds or None)}, "
        f"at most {cells.count(known['max_buckets'])} (tcp_max_tw_buckets)\n"
        f"{cells.count(known['overflows'])} destroyed for want of room since boot{now}; "
        f"tcp_tw_reuse {cells.text(known['reuse'])}"
    )


def unread_line(namespaces: Namespaces, limit: int) -> str:
    """The network namespaces whose sockets are not in the sample; empty where there is none."""
    names = [cells.text(one.name or one.id) for one in namespaces if not one.read]
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"network namespaces unread: {', '.join(names[:limit])}{more}" if names else ""


def _time_wait_row(row: Row) -> Row:
    owner = row["owner"]
    of = row["destination"] or (f"port {row['listener']}" if row["listener"] else "the rest")
    return {**row, "of": of, "who": owner["app"] or owner["name"], "pid": owner["pid"], "how": owner["how"]}


def _ports_row(row: Row) -> Row:
    return {**row, "share": min(1.0, row["used"] / row["available"]) if row["available"] else None}


def _section(
    columns: Sequence[Column], rows: Sequence[Row], namespaces: Namespaces, limit: int, wide: bool
) -> list[Any]:
    """A table of rows that each are of a network namespace, which is named where there are several."""
    if not rows:
        return []
    names = {one.id: one.name or one.id for one in namespaces}
    several = len(names.keys() | {row["namespace"] for row in rows if row["namespace"]}) > 1
    shown = [replace(column, wide_only=not several) if column is _NAMESPACE else column for column in columns]
    named = [{**row, "namespace": names.get(row["namespace"], row["namespace"])} for row in rows[:limit]]
    return [Text(), table(shown, named, wide), *_more(len(rows) - limit)]


def _more(hidden: int) -> list[Text]:
    return [Text(f"and {hidden:,} more")] if hidden > 0 else []
