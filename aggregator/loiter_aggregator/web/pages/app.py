"""One application over all the hosts it is on."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output.rows import app_row, host_row, process_row
from loiter_aggregator.output.tables import coverage_line
from loiter_aggregator.output.words import CAUSE_MEANS, COLUMN_MEANS
from loiter_aggregator.web.address import WINDOWS, address_of, fixed_to_now, patience, read_labels, read_name, read_span
from loiter_aggregator.web.making import make
from loiter_aggregator.web.templating import render
from loiter_aggregator.web.views.charts import Figure, charts_of
from loiter_aggregator.web.views.pulse import pulse_of, said
from loiter_aggregator.web.views.tables import SORTS, ranking_table

_PARAMETERS: Final = ("name", "window", "until", "label")
_FIGURES: Final = (
    Figure("close_wait", "CLOSE_WAIT"),
    Figure("stuck", "stuck"),
    Figure("time_wait", "TIME_WAIT"),
    Figure("established", "ESTABLISHED"),
    Figure("fd_open", "open descriptors"),
    Figure("processes", "processes"),
)
_ROWS: Final = 50
_BY: Final = "close-wait-growth"


async def app(request: Request) -> Response:
    """Shows an application."""
    query = request.query_params
    span, labels, name = read_span(query), read_labels(query), read_name(query, "name", "/app?name=shop.service")
    address = address_of(request, _PARAMETERS)
    reading, ask = request.app.state.reading, partial(request.app.state.answers.ask, wait=patience(request))
    asked = pb.RankingQuery(window=span.window, limit=_ROWS, labels=labels, end_time=span.end_time, app=name)
    seen, hosts, processes, history = await asyncio.gather(
        ask(reading.fleet.rank_apps, pb.RankAppsRequest(query=asked)),
        ask(reading.fleet.rank_hosts, pb.RankHostsRequest(query=asked)),
        ask(reading.fleet.rank_processes, pb.RankProcessesRequest(query=asked)),
        ask(
            reading.fleet.get_history,
            pb.GetHistoryRequest(app=name, window=span.window, labels=labels, end_time=span.end_time),
        ),
    )
    answer = seen.answer if seen.loading else seen.need()
    rows = len(hosts.answer.hosts if hosts.answer else ()) + len(processes.answer.processes if processes.answer else ())

    def page() -> Response:
        found = None if answer is None else next((app_row(1, one) for one in answer.apps if one.app == name), None)
        host_rows = [host_row(rank, one) for rank, one in enumerate(hosts.answer.hosts, 1)] if hosts.answer else []
        process_rows = (
            [process_row(rank, one) for rank, one in enumerate(processes.answer.processes, 1)]
            if processes.answer
            else []
        )
        return render(
            request,
            "app.html",
            {
                "name": name,
                "span": span,
                "address": address,
                "labels": labels,
                "windows": WINDOWS if span.text in WINDOWS else (span.text, *WINDOWS),
                "fixed": fixed_to_now(request, address, span),
                "pulse": pulse_of(seen, hosts, processes, history),
                "answer": answer,
                "app": found,
                "coverage": None if answer is None else coverage_line(answer.coverage),
                "cause_means": CAUSE_MEANS,
                "hosts": ranking_table("hosts", host_rows, _BY, span, less=("LABELS",)),
                "hosts_seen": hosts,
                "hosts_said": said(hosts),
                "processes": ranking_table("processes", process_rows, _BY, span),
                "processes_seen": processes,
                "processes_said": said(processes),
                "rows": _ROWS,
                "history": None if history.answer is None else charts_of(history.answer, _FIGURES),
                "history_said": said(history),
                "sorts": SORTS,
                "means": COLUMN_MEANS,
            },
        )

    return await make(request, rows, page)
