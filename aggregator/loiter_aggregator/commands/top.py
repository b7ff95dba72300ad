"""`loiter top`: the worst hosts, processes, applications or groups of hosts."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Final

import click
from click.core import ParameterSource
from rich.console import Group
from rich.text import Text

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.client import FleetClient, connect
from loiter_aggregator.commands.options import (
    app_option,
    by_option,
    cause_option,
    group_by_option,
    label_option,
    limit_option,
    match_option,
    output_option,
    query_labels,
    server_option,
    until_option,
    watch_option,
    window_option,
)
from loiter_aggregator.commands.watch import is_live, repeat, show
from loiter_aggregator.output.data import as_csv, as_json, csv_columns
from loiter_aggregator.output.tables import by_measure, table
from loiter_aggregator.queries import CAUSES, MEASURES, query_duration, query_time, window_text
from loiter_aggregator.rankings import GROUPED, KINDS, Kind, groups_by, notes

# A live view can be scrolled.
_LIVE_ROWS: Final = 100


@click.command()
@click.argument("what", type=click.Choice((*KINDS, GROUPED)))
@group_by_option
@by_option
@window_option
@until_option
@limit_option
@label_option
@app_option
@match_option
@cause_option
@output_option
@watch_option
@server_option
def top(
    what: str,
    group_by: str | None,
    by: str,
    window: float,
    until: datetime | None,
    limit: int,
    wanted: tuple[tuple[str, str], ...],
    app: str | None,
    match: str | None,
    cause: str | None,
    output: str,
    watch: bool,
    server: str,
) -> None:
    """Rank the worst hosts, processes or apps of the fleet, or groups of hosts by the value of a label.

    GROWTH/h is the least-squares slope of the CLOSE_WAIT count over the window, in sockets per hour, and r² how well
    that line fits. CAUSE says why the sockets stay; 'loiter explain HOST PID' says more. FD% is the share of the limit
    on file descriptors that is in use, FD-ETA when they are used up. "-" stands for unknown, and for no cause.
    """
    if (what == GROUPED) != (group_by is not None):
        raise click.UsageError(_misses_label(server) if group_by is None else "--group-by is for groups alone")
    kind = KINDS[what] if group_by is None else groups_by(group_by)
    if what == GROUPED and app is not None:
        raise click.UsageError("--app is not for groups; rank hosts, processes or apps by it")
    query = pb.RankingQuery(
        by=MEASURES[by],
        window=query_duration(window),
        limit=limit,
        labels=query_labels(wanted),
        end_time=query_time(until),
        app=app or "",
        contains=match or "",
        cause=CAUSES[cause] if cause is not None else sample_pb2.CAUSE_UNSPECIFIED,
    )
    of = "" if group_by is None else f" of {printable(group_by)}"
    heading = f"{what}{of} by {by}, {window_text(window, until)}"
    nothing = "no such row" if app or match or cause else "no samples in the window"
    with connect(server) as client:
        if output in ("table", "wide"):
            wide = output == "wide"
            if watch and is_live():
                # Late: what draws on terminals takes as long to import as a question takes to answer.
                from loiter_aggregator.live.pages import Ranking
                from loiter_aggregator.live.terminal import watch as watch_live

                if click.get_current_context().get_parameter_source("limit") is ParameterSource.DEFAULT:
                    query.limit = _LIVE_ROWS
                watch_live(client, Ranking(query, by, window, query.contains, what=what, label=group_by or ""), wide)
                return
            columns = by_measure(kind.columns, by)

            def page() -> Group:
                rows, coverage = kind.ask(client, query)
                return Group(
                    Text(heading, style="bold"),
                    table(columns, rows, wide) if rows else Text(nothing),
                    *(Text(note, style="dim") for note in notes(rows, coverage, by)),
                )

            show(page, wide, watch)
        else:
            repeat(lambda: _print_data(kind, client, query, by, output, watch), watch)


def _misses_label(server: str) -> str:
    """Says that a label is needed; the aggregator says which there are."""
    try:
        with connect(server) as client:
            groups_by("").ask(client, pb.RankingQuery())
    except click.ClickException as error:
        return f"groups need --group-by LABEL; {error.message.removeprefix('label is missing; ')}"
    return "groups need --group-by LABEL"


def _print_data(kind: Kind, client: FleetClient, query: pb.RankingQuery, by: str, output: str, compact: bool) -> None:
    rows, coverage = kind.ask(client, query)
    if output == "json":
        click.echo(as_json(rows, compact))
    else:
        click.echo(as_csv(rows, csv_columns(kind.empty)), nl=False)
    sys.stdout.flush()
    # Not part of the data, and yet what it rests on.
    for note in notes(rows, coverage, by):
        click.echo(note, err=True)
