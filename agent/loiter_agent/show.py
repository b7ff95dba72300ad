"""Shows a sample to a person, as a table, and to a program, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from textwrap import wrap
from typing import Final
from unicodedata import combining, east_asian_width

from loiter.durations import format_duration
from loiter.tcp_states import STATE_NAMES
from loiter.text import printable
from loiter_agent.sample import HostIdentity, OwnerRow, ProcessRow, Sample, TimeWaitRow
from loiter_agent.why import why

_COLUMNS: Final = 80
_NARROWEST_TEXT: Final = 6
_INDENT: Final = " " * 10
_SHOWN_GROUPS: Final = 10
_NOTABLE_PORTS: Final = 0.1


def as_json(host: HostIdentity, sample: Sample) -> str:
    """Writes a sample with the keys that scripts rely on. What is unknown is null; times are RFC 3339 in UTC."""
    document = {
        "time": _time(sample.time),
        "host": {**asdict(host), "labels": dict(host.labels)},
        "sampler": sample.sampler,
        "tcp_states": asdict(sample.tcp_states),
        "host_fds": asdict(sample.host_fds) if sample.host_fds else {"allocated": None, "limit": None},
        "processes": [{**asdict(row), "start_time": _time(row.start_time)} for row in sample.processes],
        "other": asdict(sample.other) if sample.other else None,
        "coverage": asdict(sample.coverage),
        "cost": asdict(sample.cost),
        "collectors": [asdict(status) for status in sample.collectors],
        "time_wait": None if sample.time_wait is None else [_time_wait_json(row) for row in sample.time_wait],
        "time_wait_limits": asdict(sample.time_wait_limits) if sample.time_wait_limits else None,
        "ports": None if sample.ports is None else [asdict(row) for row in sample.ports],
        "namespaces": [
            {"id": str(one.id), "name": one.name, "read": one.read, "sampler": one.how} for one in sample.namespaces
        ],
    }
    return json.dumps(document, indent=2)


def as_table(host: HostIdentity, sample: Sample) -> str:
    """Writes a sample in at most 80 columns."""
    heading = f"{printable(host.hostname)}  {_time(sample.time)}  read by {sample.sampler or 'nothing'}"
    lines = [*wrap(heading, _COLUMNS), ""]
    states = [(STATE_NAMES[name], count) for name, count in asdict(sample.tcp_states).items()]
    shown = [(name, _count(count)) for name, count in states if count != 0]
    lines += _columns(("STATE", "SOCKETS"), shown, "<>")
    lines.append("")
    if sample.processes:
        lines += _columns(
            ("PID", "APP", "CLOSE_WAIT", "CAUSE", "OLDEST", "ESTAB", "FDS", "FD%"),
            [_process(row) for row in sample.processes],
            "><><>>>>",
        )
    if other := sample.other:
        unseen = sample.coverage.processes_unreadable != 0
        lines.append(
            f"and {other.processes} more processes: {_count(other.sockets)} sockets, "
            f"{_count(other.close_wait)} in CLOSE_WAIT, {_count(other.fd_open)} descriptors"
        )
        if unseen:
            lines.append("(of those that can be read)")
    lines += _reasons(sample)
    lines += _time_waits(sample)
    lines += _ports(sample)
    lines.append("")
    for line in _footer(sample):
        lines += wrap(line, _COLUMNS, subsequent_indent=_INDENT)
    return "\n".join(line.rstrip() for line in lines)


def _reasons(sample: Sample) -> list[str]:
    lines = []
    for row in sample.processes:
        if row.cause is not None:
            name = printable(row.app if row.app == row.name else f"{row.app} ({row.name})")
            title = f"{row.cause}: {row.pid} {name}: {why(row)}."
            lines += wrap(title, _COLUMNS, subsequent_indent="  ")
    return ["", *lines] if lines else []


def _time_waits(sample: Sample) -> list[str]:
    if not sample.time_wait:
        return []
    shown = sample.time_wait[:_SHOWN_GROUPS]
    rows: list[tuple[str, ...]] = [
        (
            _other_end(row) + _inside(row.namespace, sample),
            _count(row.count),
            f"{row.closes_per_second:,.1f}",
            _owner(row.owner),
            row.owner.how,
        )
        for row in shown
    ]
    rest = sum(row.count for row in sample.time_wait[_SHOWN_GROUPS:])
    if rest:
        rows.append(("others", _count(rest), f"{rest / 60:,.1f}", "", ""))
    title = ("CONNECTIONS", "SOCKETS", "CLOSES/S", "OWNER", "FOUND BY")
    return ["", "in TIME_WAIT, because this host closed first:", *_columns(title, rows, "<>><<")]


def _ports(sample: Sample) -> list[str]:
    rows = [
        (
            printable(row.destination) + _inside(row.namespace, sample),
            printable(row.source),
            _count(row.used),
            _count(row.available),
            f"{100 * row.used / row.available:.0f}",
            "-" if row.exhausted_in_seconds is None else format_duration(row.exhausted_in_seconds),
        )
        for row in sample.ports or ()
        if row.available and row.used >= _NOTABLE_PORTS * row.available
    ]
    if not rows:
        return []
    return ["", *_columns(("EPHEMERAL PORTS TO", "FROM", "USED", "OF", "%", "NONE LEFT IN"), rows, "<<>>>>")]


def _inside(namespace: str, sample: Sample) -> str:
    """Names the network namespace of a row, unless it is the agent's own, which comes first."""
    for position, one in enumerate(sample.namespaces):
        if str(one.id) == namespace:
            return f" in {printable(one.name) or namespace}" if position else ""
    return ""


def _other_end(row: TimeWaitRow) -> str:
    if row.listener is not None:
        return f"accepted on {row.listener}"
    return f"to {row.destination}" if row.destination is not None else "others"


def _owner(owner: OwnerRow) -> str:
    if owner.app is None:
        return "-"
    return printable(owner.app if owner.pid is None else f"{owner.app} {owner.pid}")


def _time_wait_json(row: TimeWaitRow) -> dict[str, object]:
    owner = asdict(row.owner)
    owner["start_time"] = _time(row.owner.start_time) if row.owner.start_time else None
    return {**asdict(row), "owner": owner}


def _footer(sample: Sample) -> list[str]:
    coverage = sample.coverage
    lines = []
    if sample.host_fds is not None:
        lines.append(f"host: {sample.host_fds.allocated:,} file handles of {sample.host_fds.limit:,}")
    if coverage.sockets_attributed is not None and coverage.sockets_unattributed is not None:
        owned = coverage.sockets_attributed + coverage.sockets_unattributed
        lines.append(
            f"coverage: {coverage.sockets_attributed:,} of {owned:,} sockets charged to a process; "
            f"{_count(coverage.sockets_ownerless)} have no owner"
        )
    if coverage.close_wait_uncharged:
        lines.append(f"{_INDENT}{coverage.close_wait_uncharged:,} in CLOSE_WAIT charged to nobody")
    if (limits := sample.time_wait_limits) and limits.overflows:
        lines.append(f"{_INDENT}{limits.overflows:,} sockets since boot did not fit into TIME_WAIT and were dropped")
        if limits.overflows_per_second:
            rate = f"{limits.overflows_per_second:,.1f}"
            lines.append(f"{_INDENT}at present {rate} a second, which are closes that CLOSES/S does not count")
    if coverage.processes_unreadable is None and coverage.processes is not None:
        lines.append(f"{_INDENT}the processes of other users are hidden (hidepid)")
    if coverage.processes_unreadable:
        lines.append(f"{_INDENT}{coverage.processes_unreadable} of {_count(coverage.processes)} processes unreadable")
    if coverage.namespaces_by_procfs:
        lines.append(
            f"{_INDENT}{coverage.namespaces_by_procfs} of {_count(coverage.namespaces)} network namespaces read by "
            "/proc/PID/net/tcp, which tells less"
        )
    if coverage.namespaces_unread:
        lines.append(
            f"{_INDENT}{coverage.namespaces_unread} of {_count(coverage.namespaces)} network namespaces not read"
        )
    if coverage.dump_torn:
        lines.append(f"{_INDENT}the socket table changed while it was read: counts may be slightly off")
    lines.extend(
        f"failed:   {status.name}: {printable(status.error)}"
        for status in sample.collectors
        if status.error is not None
    )
    lines.append(f"cost: {sample.cost.cpu_seconds * 1_000:.1f} ms CPU")
    return lines


def _process(row: ProcessRow) -> tuple[str, ...]:
    share = f"{100 * row.fd_open / row.fd_limit:.1f}" if row.fd_open is not None and row.fd_limit else "-"
    ages = row.close_wait_age_seconds
    return (
        str(row.pid),
        printable(row.app),
        _count(row.close_wait),
        row.cause or ("-" if row.close_wait is None or (row.close_wait and row.evidence is None) else ""),
        format_duration(ages.max) if ages else "-" if row.close_wait is None else "",
        _count(row.established),
        _count(row.fd_open),
        share,
    )


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """Lays out rows in at most 80 columns; `alignment` holds "<" or ">" for each. Texts give way, numbers do not."""
    widths = [max(_width(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    texts = [column for column, side in enumerate(alignment) if side == "<"]
    gap = 2
    while texts and sum(widths) + gap * (len(widths) - 1) > _COLUMNS:
        widest = max(texts, key=lambda column: widths[column])
        if widths[widest] <= _NARROWEST_TEXT:
            break
        widths[widest] -= 1
    return [
        (" " * gap).join(_cell(cell, side, width) for cell, side, width in zip(row, alignment, widths, strict=True))
        for row in (titles, *rows)
    ]


def _cell(text: str, side: str, width: int) -> str:
    if _width(text) > width:
        while _width(text) > width - 1:
            text = text[:-1]
        text += "…"
    fill = " " * (width - _width(text))
    return fill + text if side == ">" else text + fill


def _width(text: str) -> int:
    """How many columns of a terminal a text takes (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
