"""`loiter explain`: why a process has the sockets that it has."""

from __future__ import annotations

from typing import Final

import click

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import connect
from loiter_aggregator.commands.options import server_option, window_option
from loiter_aggregator.output.data import as_json
from loiter_aggregator.output.explanation import document, page
from loiter_aggregator.output.tables import console
from loiter_aggregator.queries import query_duration

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
