"""`loiter host`: one host."""

from __future__ import annotations

from datetime import datetime

import click

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import connect
from loiter_aggregator.commands.options import (
    by_option,
    limit_option,
    output_option,
    server_option,
    until_option,
    watch_option,
    window_option,
)
from loiter_aggregator.commands.watch import repeat, show
from loiter_aggregator.output.data import as_csv, as_json, csv_columns
from loiter_aggregator.output.host import coverage_lines, document, page, processes
from loiter_aggregator.output.rows import process_row
from loiter_aggregator.queries import MEASURES, query_duration, query_time


@click.command()
@click.argument("name")
@by_option
@window_option
@until_option
@limit_option
@output_option
@watch_option
@server_option
def host(
    name: str,
    by: str,
    window: float,
    until: datetime | None,
    limit: int,
    output: str,
    watch: bool,
    server: str,
) -> None:
    """Show one host: sockets by state, worst processes, owners of TIME_WAIT, ports, and what that rests on.

    With --until, the figures over the window and the processes are those of then; the rest is of the latest sample.
    """
    request = pb.GetHostRequest(
        name=name, window=query_duration(window), limit=limit, by=MEASURES[by], end_time=query_time(until)
    )
    with connect(server) as client:

        def ask() -> pb.GetHostResponse:
            return client.ask(client.stub.GetHost, request)

        if output in ("table", "wide"):
            show(lambda: page(ask(), by, window, until, output == "wide"), output == "wide", watch)
        elif output == "json":
            repeat(lambda: click.echo(as_json(document(ask()), watch)), watch)
        else:
            repeat(lambda: _print_csv(ask()), watch)


def _print_csv(answer: pb.GetHostResponse) -> None:
    click.echo(as_csv(processes(answer), csv_columns(process_row(0, pb.ProcessRank()))), nl=False)
    # Not part of the data, and yet what it rests on.
    click.echo(coverage_lines(answer.latest), err=True)
