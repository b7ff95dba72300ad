"""`loiter explain`: why a process has the sockets that it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loiter.durations import format_duration
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import connect
from loiter_aggregator.commands.options import query_duration, server_option, window_option
from loiter_aggregator.output import cells
from loiter_aggregator.output.data import as_json
from loiter_aggregator.output.rows import (
    Row,
    evidence_row,
    peers,
    port_budgets,
    process_figures,
    time,
    time_wait_groups,
)
from loiter_aggregator.output.tables import console

# The largest that Linux gives (PID_MAX_LIMIT of include/linux/threads.h).
_MAX_PID: Final = 4_194_304


@click.command()
@click.argument("host")
@click.argument("pid", type=click.IntRange(1, _MAX_PID))
@window_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="The form of the answer.",
)
@server_option
def explain(host: str, pid: int, window: float, output: str, server: str) -> None:
    """Say why a process has the sockets that it has: step by step, with the evidence, and what to do about it."""
    request = pb.ExplainProcessRequest(name=host, pid=pid, window=query_duration(window))
    with connect(server) as client:
        answer = client.ask(client.stub.ExplainProcess, request)
    if output == "json":
        click.echo(as_json(document(answer)))
    else:
        # Not cropped: commands are there to be copied, however long they are.
        console(wide=False).print(page(answer, window), crop=False)


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
