"""The first page: how the fleet does, what changed, and where to look."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import to_duration
from loiter_aggregator.output.fleet import document
from loiter_aggregator.output.rows import app_row, host_row, value
from loiter_aggregator.output.sections import off
from loiter_aggregator.output.tables import coverage_line
from loiter_aggregator.output.words import COLUMN_MEANS
from loiter_aggregator.web.address import WINDOWS, address_of, fixed_to_now, patience, read_labels, read_span
from loiter_aggregator.web.templating import render
from loiter_aggregator.web.views.charts import Figure, charts_of
from loiter_aggregator.web.views.first_steps import first_steps
from loiter_aggregator.web.views.pulse import pulse_of, said
from loiter_aggregator.web.views.tables import SORTS, ranking_table
from loiter_aggregator.web.views.tags import ALERT_STATES, CHANGES

_PARAMETERS: Final = ("window", "until", "label")
_FIGURES: Final = (
    Figure("close_wait", "CLOSE_WAIT"),
    Figure("time_wait", "TIME_WAIT"),
    Figure("established", "ESTABLISHED"),
)
_WORST: Final = 5
_CHANGES_MS: Final = 3_600_000
# What changed in an hour is another matter than what changes every second. Of a large fleet, a report takes seconds of
# the processor to build: of the time, that takes a fiftieth.
_CHANGES_FRESH_SECONDS: Final = 60.0
_CHANGES_REST: Final = 49.0


async def overview(request: Request) -> Response:
    """Shows the fleet."""
    span, labels = read_span(request.query_params), read_labels(request.query_params)
    address = address_of(request, _PARAMETERS)
    reading, ask = request.app.state.reading, partial(request.app.state.answers.ask, wait=patience(request))
    query = pb.RankingQuery(window=span.window, limit=_WORST, labels=labels, end_time=span.end_time)
    fleet, history, changes, alerts, hosts, apps = await asyncio.gather(
        ask(reading.fleet.get_fleet, pb.GetFleetRequest(window=span.window, labels=labels)),
        ask(
            reading.fleet.get_history,
            pb.GetHistoryRequest(window=span.window, labels=labels, end_time=span.end_time),
        ),
        ask(
            reading.reports.get_report,
            pb.GetReportRequest(period=to_duration(_CHANGES_MS), labels=labels),
            fresh=_CHANGES_FRESH_SECONDS,
            rest=_CHANGES_REST,
        ),
        ask(reading.alerts.list_alerts, pb.ListAlertsRequest()),
        ask(reading.fleet.rank_hosts, pb.RankHostsRequest(query=query)),
        ask(reading.fleet.rank_apps, pb.RankAppsRequest(query=query)),
    )
    answer = fleet.answer if fleet.loading else fleet.need()
    host_rows = [host_row(rank, one) for rank, one in enumerate(hosts.answer.hosts, 1)] if hosts.answer else []
    app_rows = [app_row(rank, one) for rank, one in enumerate(apps.answer.apps, 1)] if apps.answer else []
    return render(
        request,
        "overview.html",
        {
            "span": span,
            "address": address,
            "windows": WINDOWS if span.text in WINDOWS else (span.text, *WINDOWS),
            "labels": labels,
            "fixed": fixed_to_now(request, address, span),
            "pulse": pulse_of(fleet, history, changes, alerts, hosts, apps),
            "fleet": None if answer is None else document(answer),
            "states": {} if answer is None else {one.name: value(answer.tcp_states, one.name) for one in _FIGURES},
            "coverage": None if answer is None else coverage_line(answer.coverage),
            "first": first_steps(request.app.state.settings),
            "history": None if history.answer is None else charts_of(history.answer, _FIGURES),
            "history_said": said(history),
            "changes": None if changes.answer is None else _changes(changes.answer.report),
            "changes_said": said(changes),
            "changes_age": changes.age,
            "alerts": None if alerts.answer is None else _firing(alerts.answer),
            "alerts_said": said(alerts),
            "hosts": ranking_table("hosts", host_rows, "close-wait-growth", span, less=("LABELS",)),
            "hosts_seen": hosts,
            "hosts_said": said(hosts),
            "apps": ranking_table("apps", app_rows, "close-wait-growth", span),
            "apps_seen": apps,
            "apps_said": said(apps),
            "sorts": SORTS,
            "means": COLUMN_MEANS,
            "off": off,
        },
    )


def _changes(report: pb.FleetReport) -> dict[str, Any]:
    found = [(CHANGES.get(one.change, ""), one) for one in report.findings]
    return {
        "shown": [(change, one) for change, one in found if change in ("new", "worse", "resolved")],
        "unchanged": sum(change in ("unchanged", "better") for change, _ in found),
        "compared": report.HasField("compared_time"),
    }


def _firing(answer: pb.ListAlertsResponse) -> dict[str, Any]:
    states = [(ALERT_STATES.get(one.state, ""), one) for one in answer.alerts]
    return {
        "firing": [one for state, one in states if state == "firing"],
        "pending": sum(state == "pending" for state, _ in states),
        "rules": len(answer.rules),
    }
