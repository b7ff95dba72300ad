"""`loiter fleet`: the totals, what they rest on, and who fell silent."""

from __future__ import annotations

from typing import Any, Final

import click
from rich.console import Group
from rich.text import Text

from loiter.durations import format_duration
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import connect
from loiter_aggregator.commands.options import (
    label_option,
    limit_option,
    output_option,
    query_duration,
    query_labels,
    server_option,
    watch_option,
    window_option,
)
from loiter_aggregator.commands.watch import repeat, show
from loiter_aggregator.output import cells
from loiter_aggregator.output.data import as_csv, as_json
from loiter_aggregator.output.rows import Row, optional_fields, time, trend_values
from loiter_aggregator.output.states import states_table
from loiter_aggregator.output.tables import Column, coverage_line, table

_SILENT: Final = (
    Column("SILENT HOST", "host", cells.text, right=False),
    Column("LAST REPORT", "last_report", cells.text, right=False),
)


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
    """Show the totals of the fleet, what they rest on, and the hosts that fell silent, at most --limit of them."""
    request = pb.GetFleetRequest(window=query_duration(window), labels=query_labels(wanted))
    with connect(server) as client:

        def ask() -> pb.GetFleetResponse:
            return client.ask(client.stub.GetFleet, request)

        if output in ("table", "wide"):
            show(lambda: _page(ask(), window, limit, output == "wide"), output == "wide", watch)
        elif output == "json":
            repeat(lambda: click.echo(as_json(document(ask()), watch)), watch)
        else:
            repeat(lambda: click.echo(_csv(ask()), nl=False), watch)


def _silent(answer: pb.GetFleetResponse) -> list[Row]:
    return [
        {"host": host.hostname, "host_id": host.host_id, "last_report": time(host.last_report_time)}
        for host in answer.silent_hosts
    ]


def document(answer: pb.GetFleetResponse) -> Row:
    """The answer with the keys that scripts rely on."""
    return {
        "tcp_states": optional_fields(answer.tcp_states),
        "coverage": optional_fields(answer.coverage),
        "silent_hosts": _silent(answer),
        "close_wait_trend": trend_values(answer.close_wait_trend),
        "time_wait_trend": trend_values(answer.time_wait_trend),
        "aggregator": {
            "start_time": time(answer.aggregator.start_time),
            **optional_fields(answer.aggregator),
        },
    }


def _csv(answer: pb.GetFleetResponse) -> str:
    counts = {**optional_fields(answer.tcp_states), **optional_fields(answer.coverage)}
    return as_csv([{"figure": name, "value": value} for name, value in counts.items()], ("figure", "value"))


def _page(answer: pb.GetFleetResponse, window: float, limit: int, wide: bool) -> Group:
    parts: list[Any] = [
        Text(f"fleet now; trends over the last {format_duration(window)}", style="bold"),
        states_table(answer.tcp_states),
        Text(),
        _trend("CLOSE-WAIT", trend_values(answer.close_wait_trend)),
        _trend("TIME-WAIT", trend_values(answer.time_wait_trend)),
        Text(),
    ]
    silent = _silent(answer)
    if silent:
        parts += [table(_SILENT, silent[:limit], wide)]
        hidden = answer.coverage.hosts_silent - min(len(silent), limit)
        if hidden:
            parts.append(Text(f"and {hidden:,} more; -o json lists up to 1,000"))
        parts.append(Text())
    parts.append(Text(coverage_line(answer.coverage), style="dim"))
    parts.append(Text(_taken_in(answer.aggregator), style="dim"))
    return Group(*parts)


def _taken_in(aggregator: pb.AggregatorStatus) -> str:
    return (
        f"aggregator {cells.text(aggregator.version)} since {time(aggregator.start_time)}: "
        f"{aggregator.reports_stored:,} reports\n"
        f"stored, {aggregator.reports_duplicate:,} duplicate, {aggregator.reports_rejected:,} rejected; "
        f"{aggregator.commits_failed:,} commits failed"
    )


def _trend(name: str, values: list[float | None]) -> Text:
    most = max((value for value in values if value is not None), default=None)
    return Text(f"{name:<10} {cells.sparkline(values, 20)}  at most {cells.count(most)}")
