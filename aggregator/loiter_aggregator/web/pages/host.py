"""One host: its sockets by state over time, its processes, and what that rests on."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from loiter.limits import MAX_RANKING_ROWS
from loiter.tcp_states import STATE_NAMES
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.fleet.errors import InvalidRequest
from loiter_aggregator.output import sections
from loiter_aggregator.output.host import document
from loiter_aggregator.output.rows import process_row, seconds, time
from loiter_aggregator.output.words import COLUMN_MEANS
from loiter_aggregator.queries import MEASURES
from loiter_aggregator.web.address import (
    WINDOWS,
    address_of,
    fixed_to_now,
    patience,
    read_name,
    read_number,
    read_span,
)
from loiter_aggregator.web.making import MAX_ROWS, make
from loiter_aggregator.web.templating import render
from loiter_aggregator.web.views.charts import Figure, charts_of
from loiter_aggregator.web.views.pulse import pulse_of, said
from loiter_aggregator.web.views.tables import SORTS, ranking_table

_PARAMETERS: Final = ("name", "window", "until", "by", "limit", "wide")
_FIGURES: Final = (
    Figure("close_wait", "CLOSE_WAIT"),
    Figure("stuck", "stuck"),
    Figure("time_wait", "TIME_WAIT"),
    Figure("established", "ESTABLISHED"),
    Figure("fin_wait1", "FIN_WAIT1"),
    Figure("fin_wait2", "FIN_WAIT2"),
    Figure("syn_sent", "SYN_SENT"),
    Figure("last_ack", "LAST_ACK"),
    Figure("fd_allocated", "file handles"),
    Figure("ports_share", "fullest port budget", "share"),
)
# These are drawn although they are 0 all the time: that they are is worth knowing.
_ALWAYS: Final = ("CLOSE_WAIT", "TIME_WAIT", "ESTABLISHED", "file handles")
_FIRST: Final = ("established", "close_wait", "time_wait", "fin_wait1", "fin_wait2")
STATES: Final = (*_FIRST, *(state for state in STATE_NAMES if state not in _FIRST))
_UNREAD: Final = 10


async def host(request: Request) -> Response:
    """Shows a host."""
    query = request.query_params
    span, name = read_span(query), read_name(query, "name", "/host?name=web1")
    by, limit = query.get("by") or "close-wait-growth", read_number(query, "limit", 1, MAX_RANKING_ROWS, 20)
    limit = min(limit, MAX_ROWS)
    if by not in MEASURES:
        raise InvalidRequest(f"by: {by!r} is no measure; there are {', '.join(MEASURES)}")
    address = address_of(request, _PARAMETERS)
    reading, ask = request.app.state.reading, partial(request.app.state.answers.ask, wait=patience(request))
    seen, history = await asyncio.gather(
        ask(
            reading.fleet.get_host,
            pb.GetHostRequest(name=name, window=span.window, limit=limit, by=MEASURES[by], end_time=span.end_time),
        ),
        ask(reading.fleet.get_history, pb.GetHistoryRequest(host=name, window=span.window, end_time=span.end_time)),
    )
    answer = seen.answer if seen.loading else seen.need()
    rows = 0 if answer is None else len(answer.processes) + len(answer.latest.time_wait) + len(answer.latest.ports)

    def page() -> Response:
        processes = [] if answer is None else [process_row(rank, one) for rank, one in enumerate(answer.processes, 1)]
        return render(
            request,
            "host.html",
            {
                "name": name,
                "span": span,
                "address": address,
                "windows": WINDOWS if span.text in WINDOWS else (span.text, *WINDOWS),
                "fixed": fixed_to_now(request, address, span),
                "pulse": pulse_of(seen, history),
                "answer": answer,
                "host": None if answer is None else document(answer),
                "notes": _notes(answer) if answer is not None and span.live else [],
                "limits": _limits(answer),
                "states": STATES,
                "state_names": STATE_NAMES,
                "table": ranking_table("of-host", processes, by, span, wide=query.get("wide") == "1"),
                "history": None if history.answer is None else _worth_drawing(history.answer),
                "history_said": said(history),
                "sorts": SORTS,
                "means": COLUMN_MEANS,
            },
        )

    return await make(request, rows, page)


def _worth_drawing(history: pb.GetHistoryResponse) -> Any:
    varied = {
        series.name for series in history.series if any(one.HasField("value") and one.value for one in series.values)
    }
    return charts_of(history, [one for one in _FIGURES if one.name in varied or one.title in _ALWAYS])


def _notes(answer: pb.GetHostResponse) -> list[str]:
    """What people should know of the host, or of how it was read; a sentence each."""
    latest = answer.latest
    found = [sections.budget_line(latest), sections.spool_line(latest.spool)]
    if skew := seconds(answer.clock_skew):
        found.append(sections.clock_line(skew, time(answer.latest_agent_time)))
    found.append(sections.unread_line(latest.namespaces, _UNREAD))
    found += [f"collector {one.name} failed: {one.error}" for one in latest.collectors if one.error]
    if latest.coverage.dump_torn:
        found.append("the socket table changed while it was read: counts may be slightly off")
    return [line[:1].upper() + line[1:] for line in found if line]


def _limits(answer: pb.GetHostResponse | None) -> list[str]:
    known = answer is not None and answer.latest.HasField("time_wait_limits")
    limits = answer.latest.time_wait_limits if answer is not None else sample_pb2.TimeWaitLimits()
    return sections.limits_line(limits).split("\n") if known else []
