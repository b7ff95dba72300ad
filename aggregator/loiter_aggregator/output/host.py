"""One host: as JSON, and as a page for people."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from rich.console import Group
from rich.text import Text

from loiter.durations import format_duration
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import (
    Row,
    degradation_name,
    host_figures,
    lost_samples,
    optional_fields,
    optional_time,
    port_budgets,
    process_row,
    seconds,
    time,
    time_wait_groups,
)
from loiter_aggregator.output.sections import (
    budget_line,
    clock_line,
    limits_line,
    lost_section,
    ports_section,
    spool_line,
    time_wait_section,
    unread_line,
)
from loiter_aggregator.output.states import states_table
from loiter_aggregator.output.tables import HOST_PROCESSES, by_measure, table
from loiter_aggregator.queries import window_text

_SAMPLERS: Final = {
    sample_pb2.SAMPLER_SOCK_DIAG: "sock_diag",
    sample_pb2.SAMPLER_PSUTIL: "psutil",
    sample_pb2.SAMPLER_PROCFS: "procfs",
}

# Of TIME_WAIT, ports and namespaces: the table is for people, -o json has all.
_SECTION_ROWS: Final = 10


def processes(answer: pb.GetHostResponse) -> list[Row]:
    """The processes of a host, worst first."""
    return [process_row(rank, process) for rank, process in enumerate(answer.processes, start=1)]


def document(answer: pb.GetHostResponse) -> Row:
    """The answer with the keys that scripts rely on."""
    latest = answer.latest
    return {
        **host_figures(answer.rank),
        "boot_id": answer.host.boot_id,
        "labels": dict(answer.host.labels),
        "agent_version": answer.host.agent_version,
        "kernel_release": answer.host.kernel_release,
        "interval_seconds": seconds(answer.interval),
        "last_sample": time(latest.sample_time) if answer.HasField("latest") else None,
        "latest_agent_time": optional_time(answer, "latest_agent_time"),
        "clock_skew_seconds": seconds(answer.clock_skew) if answer.HasField("clock_skew") else None,
        "degradation": degradation_name(latest.degradation) if answer.HasField("latest") else None,
        "spool": optional_fields(latest.spool) if latest.HasField("spool") else None,
        "lost_samples": lost_samples(answer),
        "sampler": _SAMPLERS.get(latest.sampler),
        "tcp_states": optional_fields(latest.tcp_states),
        "other": optional_fields(latest.other_processes),
        "coverage": optional_fields(latest.coverage),
        "cost": optional_fields(latest.cost),
        "collectors_failed": [{"name": one.name, "error": one.error} for one in _failed(latest)],
        "time_wait_groups": _time_wait(latest),
        "time_wait_limits": optional_fields(latest.time_wait_limits) if latest.HasField("time_wait_limits") else None,
        "ports": port_budgets(latest.ports),
        "namespaces": [
            {"id": one.id, "name": one.name, "read": one.read, "sampler": _SAMPLERS.get(one.sampler)}
            for one in latest.namespaces
        ],
        "processes": processes(answer),
    }


def page(answer: pb.GetHostResponse, by: str, window: float, until: datetime | None, wide: bool) -> Group:
    """The host for people."""
    rows = processes(answer)
    listed = [table(by_measure(HOST_PROCESSES, by), rows, wide)] if rows else []
    return Group(*above_processes(answer, window, until), *listed, *below_processes(answer, wide))


def above_processes(answer: pb.GetHostResponse, window: float, until: datetime | None = None) -> list[Any]:
    """What a page about a host begins with: who it is, its sockets by state, and how they went over a window."""
    identity, latest = answer.host, answer.latest
    parts: list[Any] = [
        Text(
            f"{cells.text(identity.hostname)}  kernel {cells.text(identity.kernel_release)}, "
            f"agent {cells.text(identity.agent_version)}, every {format_duration(seconds(answer.interval))}",
            style="bold",
        ),
        Text(f"last report {time(answer.last_report_time)}" + ("  SILENT" if answer.rank.silent else "")),
    ]
    if skew := seconds(answer.clock_skew):
        parts.append(Text(clock_line(skew, time(answer.latest_agent_time))))
    parts += [Text(line) for line in (budget_line(latest), spool_line(latest.spool)) if line]
    if identity.labels:
        parts.append(Text(f"labels {cells.labels(identity.labels)}"))
    parts.append(Text())
    if not answer.HasField("latest"):
        return [*parts, Text("no samples kept")]
    trend = host_figures(answer.rank)
    parts += [
        states_table(latest.tcp_states),
        Text(),
        Text(f"over the {window_text(window, until)}:"),
        Text(
            f"CLOSE_WAIT {cells.sparkline(trend['close_wait_trend'], 20)} "
            f"{cells.growth(trend['close_wait_growth_per_hour'])}/h, "
            f"r² {cells.fit(trend['close_wait_growth_fit'])}, at most {cells.count(trend['close_wait_max'])}"
        ),
        Text(
            f"TIME_WAIT  mean {cells.count(trend['time_wait_mean'])}, at most {cells.count(trend['time_wait_max'])}, "
            f"{cells.count(trend['time_wait_overflows'])} destroyed for want of room"
        ),
        Text(
            f"file handles: {cells.count(trend['fd_allocated'])} of {cells.count(trend['fd_limit'])} "
            f"({cells.percent(trend['fd_share'])} %)"
        ),
        Text(),
    ]
    rows = processes(answer)
    if not rows:
        parts.append(Text(_no_process(latest)))
    elif latest.degradation >= sample_pb2.DEGRADATION_COUNTS_ONLY:
        parts.append(Text(f"processes as of {max(row['last_sample'] for row in rows)}; since then they are left out:"))
    return parts


def below_processes(answer: pb.GetHostResponse, wide: bool) -> list[Any]:
    """What a page about a host ends with: owners of TIME_WAIT, ports, lost samples, and what all that rests on."""
    latest = answer.latest
    lost = lost_section(lost_samples(answer), _SECTION_ROWS, wide)
    if not answer.HasField("latest"):
        return lost
    parts = time_wait_section(latest.time_wait, latest.namespaces, _SECTION_ROWS, wide)
    if latest.HasField("time_wait_limits"):
        parts.append(Text(limits_line(latest.time_wait_limits), style="dim"))
    parts += ports_section(latest.ports, latest.namespaces, _SECTION_ROWS, wide)
    return [*parts, *lost, Text(), Text(coverage_lines(latest), style="dim")]


def coverage_lines(latest: sample_pb2.Sample) -> str:
    """What a sample rests on."""
    known = {name: cells.count(value) for name, value in optional_fields(latest.coverage).items()}
    owned: int | None = None
    if latest.coverage.HasField("sockets_attributed") and latest.coverage.HasField("sockets_unattributed"):
        owned = latest.coverage.sockets_attributed + latest.coverage.sockets_unattributed
    lines = [
        f"read by {_SAMPLERS.get(latest.sampler, 'nothing')}; "
        f"{known['sockets_attributed']} of {cells.count(owned)} sockets charged",
        f"{known['processes_unreadable']} of {known['processes']} processes unreadable; "
        f"{known['namespaces_unread']} of {known['namespaces']} network namespaces unread",
    ]
    if latest.coverage.close_wait_uncharged:
        lines.append(f"{known['close_wait_uncharged']} in CLOSE_WAIT charged to nobody")
    if latest.coverage.namespaces_by_procfs:
        lines.append(
            f"{known['namespaces_by_procfs']} network namespaces read from /proc/PID/net/tcp, which tells less"
        )
    if unread := unread_line(latest.namespaces, _SECTION_ROWS):
        lines.append(unread)
    lines += [f"collector {cells.text(one.name)} failed: {cells.text(one.error)}" for one in _failed(latest)]
    return "\n".join(lines)


def _no_process(latest: sample_pb2.Sample) -> str:
    if latest.degradation >= sample_pb2.DEGRADATION_COUNTS_ONLY:
        return "no process was reported in the window: the agent leaves them out"
    return "no process was reported"


def _time_wait(latest: sample_pb2.Sample) -> list[Row] | None:
    """None where there are such sockets, or may be, and none of them could be looked at."""
    if not latest.time_wait and (latest.tcp_states.time_wait or not latest.tcp_states.HasField("time_wait")):
        return None
    return time_wait_groups(latest.time_wait)


def _failed(latest: sample_pb2.Sample) -> list[sample_pb2.CollectorStatus]:
    return [one for one in latest.collectors if one.error]
