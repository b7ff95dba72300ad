"""`loiter top`: the worst hosts, processes, applications or groups of hosts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import click
from rich.console import Group
from rich.text import Text

from loiter.durations import format_duration
from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import FleetClient, connect
from loiter_aggregator.commands.options import (
    MEASURES,
    by_option,
    group_by_option,
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
from loiter_aggregator.output.data import as_csv, as_json, csv_columns
from loiter_aggregator.output.rows import Row, app_row, group_row, host_row, process_row
from loiter_aggregator.output.tables import (
    APPS,
    GROUPS,
    HOSTS,
    PROCESSES,
    Column,
    by_measure,
    coverage_line,
    table,
)

Ranked = tuple[list[Row], pb.FleetCoverage]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What can be ranked: how it is asked for, and which columns show it."""

    ask: Callable[[FleetClient, pb.RankingQuery], Ranked]
    columns: Sequence[Column]
    empty: Row


def _hosts(client: FleetClient, query: pb.RankingQuery) -> Ranked:
    answer = client.ask(client.stub.RankHosts, pb.RankHostsRequest(query=query))
    return [host_row(rank, host) for rank, host in enumerate(answer.hosts, start=1)], answer.coverage


def _processes(client: FleetClient, query: pb.RankingQuery) -> Ranked:
    answer = client.ask(client.stub.RankProcesses, pb.RankProcessesRequest(query=query))
    return [process_row(rank, process) for rank, process in enumerate(answer.processes, start=1)], answer.coverage


def _apps(client: FleetClient, query: pb.RankingQuery) -> Ranked:
    answer = client.ask(client.stub.RankApps, pb.RankAppsRequest(query=query))
    return [app_row(rank, app) for rank, app in enumerate(answer.apps, start=1)], answer.coverage


def _groups(label: str) -> _Kind:
    def ask(client: FleetClient, query: pb.RankingQuery) -> Ranked:
        answer = client.ask(client.stub.RankGroups, pb.RankGroupsRequest(query=query, label=label))
        return [group_row(rank, group) for rank, group in enumerate(answer.groups, start=1)], answer.coverage

    return _Kind(ask, GROUPS, group_row(0, pb.GroupRank()))


_KINDS: Final = {
    "hosts": _Kind(_hosts, HOSTS, host_row(0, pb.HostRank())),
    "processes": _Kind(_processes, PROCESSES, process_row(0, pb.ProcessRank())),
    "apps": _Kind(_apps, APPS, app_row(0, pb.AppRank())),
}
_GROUPS: Final = "groups"


@click.command()
@click.argument("what", type=click.Choice((*_KINDS, _GROUPS)))
@group_by_option
@by_option
@window_option
@limit_option
@label_option
@output_option
@watch_option
@server_option
def top(
    what: str,
    group_by: str | None,
    by: str,
    window: float,
    limit: int,
    wanted: tuple[tuple[str, str], ...],
    output: str,
    watch: bool,
    server: str,
) -> None:
    """Rank the worst hosts, processes or apps of the fleet, or groups of hosts by the value of a label.

    GROWTH/h is the least-squares slope of the CLOSE-WAIT count over the window, in sockets per hour, and R² how well
    that line fits. CAUSE says why the sockets stay; 'loiter explain HOST PID' says more. FD% is the share of the limit
    on file descriptors that is in use, FD-ETA when they are used up. "-" stands for unknown, and for no cause.
    """
    if (what == _GROUPS) != (group_by is not None):
        raise click.UsageError(_misses_label(server) if group_by is None else "--group-by is for groups alone")
    kind = _KINDS[what] if group_by is None else _groups(group_by)
    query = pb.RankingQuery(by=MEASURES[by], window=query_duration(window), limit=limit, labels=query_labels(wanted))
    of = "" if group_by is None else f" of {printable(group_by)}"
    heading = f"{what}{of} by {by}, last {format_duration(window)}"
    with connect(server) as client:
        if output in ("table", "wide"):
            wide = output == "wide"
            columns = by_measure(kind.columns, by)

            def page() -> Group:
                rows, coverage = kind.ask(client, query)
                return Group(
                    Text(heading, style="bold"),
                    table(columns, rows, wide) if rows else Text("no samples in the window"),
                    *(Text(note, style="dim") for note in _notes(rows, coverage, by)),
                )

            show(page, wide, watch)
        else:
            repeat(lambda: _print_data(kind, client, query, by, output, watch), watch)


def _misses_label(server: str) -> str:
    """Says that a label is needed; the aggregator says which there are."""
    try:
        with connect(server) as client:
            _groups("").ask(client, pb.RankingQuery())
    except click.ClickException as error:
        return f"groups need --group-by LABEL; {error.message.removeprefix('label is missing; ')}"
    return "groups need --group-by LABEL"


def _print_data(kind: _Kind, client: FleetClient, query: pb.RankingQuery, by: str, output: str, compact: bool) -> None:
    rows, coverage = kind.ask(client, query)
    if output == "json":
        click.echo(as_json(rows, compact))
    else:
        click.echo(as_csv(rows, csv_columns(kind.empty)), nl=False)
    sys.stdout.flush()
    # Not part of the data, and yet what it rests on.
    for note in _notes(rows, coverage, by):
        click.echo(note, err=True)


def _notes(rows: list[Row], coverage: pb.FleetCoverage, by: str) -> list[str]:
    notes = [coverage_line(coverage)]
    if by.startswith("time-wait") and rows and all(row["time_wait"] is None for row in rows):
        notes.append("the kernel keeps no owner of TIME-WAIT sockets: rank hosts by them")
    return notes
