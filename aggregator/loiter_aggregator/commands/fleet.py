"""`loiter fleet`: the totals, what they rest on, and the hosts that something is the matter with."""

from __future__ import annotations

import click

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import connect
from loiter_aggregator.commands.options import (
    label_option,
    limit_option,
    output_option,
    query_labels,
    server_option,
    watch_option,
    window_option,
)
from loiter_aggregator.commands.watch import repeat, show
from loiter_aggregator.output.data import as_json
from loiter_aggregator.output.fleet import csv, document, page
from loiter_aggregator.queries import query_duration


@click.command()
@window_option
@limit_option
@label_option
@output_option
@watch_option
@server_option
def fleet(
    window: float, limit: int, wanted: tuple[tuple[str, str], ...], output: str, watch: bool, server: str
) -> None:
    """Show the totals of the fleet, what they rest on, and which hosts something is the matter with.

    Those are hosts that fell silent, that lost samples, whose clocks are off, whose agents leave something out to keep
    within their budget, and machines that share a host id: at most --limit of each.
    """
    request = pb.GetFleetRequest(window=query_duration(window), labels=query_labels(wanted))
    with connect(server) as client:

        def ask() -> pb.GetFleetResponse:
            return client.ask(client.stub.GetFleet, request)

        if output in ("table", "wide"):
            show(lambda: page(ask(), window, limit, output == "wide"), output == "wide", watch)
        elif output == "json":
            repeat(lambda: click.echo(as_json(document(ask()), watch)), watch)
        else:
            repeat(lambda: click.echo(csv(ask()), nl=False), watch)
