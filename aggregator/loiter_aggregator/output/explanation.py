"""Why a process has the sockets that it has: as JSON, and as a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loiter.durations import format_duration
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import (
    Row,
    evidence_row,
    peers,
    port_budgets,
    process_figures,
    time,
    time_wait_groups,
)


def document(answer: pb.ExplainProcessResponse) -> Row:
    """The answer with the keys that scripts rely on."""
    latest = answer.latest
    container = latest.container
    return {
        **process_figures(answer.rank),
        "verdict": answer.verdict,
        "steps": [{"question": step.question, "finding": step.finding} for step in answer.steps],
        "commands": list(answer.commands),
        "remedies": list(answer.remedies),
        "unseen": list(answer.unseen),
        "evidence": evidence_row(latest) if latest.HasField("evidence") else None,
        "peers": peers(latest),
        "container": (
            {"runtime": container.runtime, "id": container.id, "pod": container.pod or None}
            if latest.HasField("container")
            else None
        ),
        "arguments": latest.arguments or None,
        "time_wait_groups": time_wait_groups(answer.time_wait),
        "ports": port_budgets(answer.ports),
    }


def page(answer: pb.ExplainProcessResponse, window: float) -> Group:
    """The explanation for people."""
    rank, latest = answer.rank, answer.latest
    parts: list[Any] = [
        Text(
            f"{cells.text(rank.app)}  pid {rank.pid} on {cells.text(rank.hostname)}, user {cells.text(rank.user)}",
            style="bold",
        ),
        Text(f"started {time(rank.start_time)}, seen {time(rank.last_sample_time)}" + ("  SILENT" * rank.silent)),
    ]
    if latest.HasField("container"):
        parts.append(Text(f"in {cells.text(latest.container.runtime)} container {cells.text(latest.container.id)}"))
    if latest.HasField("close_wait") and not rank.close_wait.samples:
        parts.append(Text(f"no samples in the last {format_duration(window)}: all of this is of its latest one"))
    parts += [Text(), Text(cells.text(answer.verdict), style="bold"), Text()]
    for step in answer.steps:
        parts += [Text(cells.text(step.question)), Padding(Text(cells.text(step.finding)), (0, 0, 0, 2), expand=False)]
    parts += _list("What to do", answer.remedies)
    if answer.commands:
        # Never broken: they are there to be copied.
        commands = [Text("  " + cells.text(one), no_wrap=True, overflow="ignore") for one in answer.commands]
        parts += [Text(), Text("See for yourself, as root on the host", style="bold"), *commands]
    parts += _list("Not seen", answer.unseen)
    return Group(*parts)


def _list(title: str, items: Sequence[str]) -> list[Any]:
    if not items:
        return []
    grid = Table.grid(padding=(0, 1))
    for item in items:
        grid.add_row("-", Text(cells.text(item)))
    return [Text(), Text(title, style="bold"), Padding(grid, (0, 0, 0, 2), expand=False)]
