"""`loiter alerts`: the alerts that are pending, firing, or were resolved of late."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Group
from rich.text import Text

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import connect
from loiter_aggregator.commands.options import output_option, server_option, watch_option
from loiter_aggregator.commands.watch import repeat, show
from loiter_aggregator.output import cells
from loiter_aggregator.output.data import as_csv, as_json, csv_columns
from loiter_aggregator.output.rows import Row, cause_name, optional_time, time, value
from loiter_aggregator.output.tables import Column, table

_STATES: Final = {
    "firing": pb.ALERT_STATE_FIRING,
    "pending": pb.ALERT_STATE_PENDING,
    "resolved": pb.ALERT_STATE_RESOLVED,
}
_NAMES: Final = {state: name for name, state in _STATES.items()}
_ALERTS: Final = (
    Column("STATE", "state", cells.text, right=False, fixed=True),
    Column("SINCE", "since_seconds", cells.duration),
    Column("SEVERITY", "severity", cells.text, right=False, min_width=8),
    Column("RULE", "rule", cells.text, right=False, min_width=12),
    Column("ABOUT", "about", cells.text, right=False, min_width=8),
    Column("HOSTS", "hosts", cells.count),
    Column("CAUSE", "cause", cells.text, right=False, fixed=True),
    Column("SUMMARY", "summary", cells.text, right=False, wide_only=True),
    Column("LINK", "url", cells.text, right=False, wide_only=True),
)


@click.command()
@click.option(
    "--state", "wanted", type=click.Choice(tuple(_STATES)), multiple=True, help="Only those; may be given again."
)
@output_option
@watch_option
@server_option
def alerts(wanted: tuple[str, ...], output: str, watch: bool, server: str) -> None:
    """List the alerts: those that fire, those that are about to, and those that were resolved of late.

    SINCE is how long they have been so, HOSTS how many hosts an alert is on.
    """
    with connect(server) as client:

        def ask() -> pb.ListAlertsResponse:
            answer = client.ask(client.stub.ListAlerts, pb.ListAlertsRequest())
            if wanted:
                kept = [one for one in answer.alerts if _NAMES.get(one.state) in wanted]
                del answer.alerts[:]
                answer.alerts.extend(kept)
            return answer

        if output in ("table", "wide"):
            show(lambda: _page(ask(), output == "wide"), output == "wide", watch)
        elif output == "json":
            repeat(lambda: click.echo(as_json(document(ask()), watch)), watch)
        else:
            repeat(lambda: click.echo(_csv(ask()), nl=False), watch)


def document(answer: pb.ListAlertsResponse) -> Row:
    """The answer with the keys that scripts rely on."""
    return {
        "alerts": [alert_row(one) for one in answer.alerts],
        "rules": [
            {"name": one.name, "severity": one.severity, "summary": one.summary, "left_out": one.left_out}
            for one in answer.rules
        ],
        "evaluated_time": optional_time(answer, "evaluated_time"),
        "receivers": [
            {
                "url": one.url,
                "last_success_time": optional_time(one, "last_success_time"),
                "error": one.error or None,
            }
            for one in answer.receivers
        ],
    }


def alert_row(alert: pb.Alert) -> Row:
    """An alert."""
    return {
        "rule": alert.rule,
        "severity": alert.severity,
        "state": _NAMES.get(alert.state),
        "app": alert.app or None,
        "hosts": alert.hosts,
        "hostnames": list(alert.hostnames),
        "active_time": time(alert.active_time),
        "firing_time": optional_time(alert, "firing_time"),
        "resolved_time": optional_time(alert, "resolved_time"),
        "figure": value(alert, "figure"),
        "cause": cause_name(alert.cause),
        "summary": alert.summary,
        "url": alert.url or None,
    }


def _csv(answer: pb.ListAlertsResponse) -> str:
    columns = [name for name in csv_columns(alert_row(pb.Alert())) if name != "hostnames"]
    return as_csv([alert_row(one) for one in answer.alerts], columns)


def _page(answer: pb.ListAlertsResponse, wide: bool) -> Group:
    rows = [_table_row(one) for one in answer.alerts]
    parts: list[Any] = [table(_ALERTS, rows, wide) if rows else Text("no alerts")]
    parts += [Text(note, style="dim") for note in _notes(answer)]
    return Group(*parts)


def _table_row(alert: pb.Alert) -> Row:
    # A host that gave its name to an alert is the only one of it, but for others of the same name.
    about = alert.app or next(iter(alert.hostnames), None)
    return {**alert_row(alert), "about": about, "since_seconds": _since(alert)}


def _since(alert: pb.Alert) -> float:
    """For how many seconds an alert has been in its state; none where this machine's clock is behind."""
    began = {pb.ALERT_STATE_RESOLVED: alert.resolved_time, pb.ALERT_STATE_FIRING: alert.firing_time}
    since = began.get(alert.state, alert.active_time)
    return max(0.0, datetime.now(UTC).timestamp() - since.ToMilliseconds() / 1_000)


def _notes(answer: pb.ListAlertsResponse) -> list[str]:
    evaluated = optional_time(answer, "evaluated_time")
    notes = [f"{len(answer.rules)} rules, {f'evaluated {evaluated}' if evaluated else 'not evaluated yet'}"]
    notes += [
        f"{printable(rule.name)}: no room for {rule.left_out:,} more that break it; they wait until some are over"
        for rule in answer.rules
        if rule.left_out
    ]
    for one in answer.receivers:
        last = optional_time(one, "last_success_time")
        when = f"last pushed {last}" if last else "nothing pushed yet"
        notes.append(f"{printable(one.url)}: {when}" + (f"; {printable(one.error)}" if one.error else ""))
    return notes
