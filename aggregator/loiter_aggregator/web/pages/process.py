"""One process: why its sockets stay, on what evidence, when its descriptors run out, and what to do."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import socket_pb2
from loiter_aggregator.fleet.errors import NotFound
from loiter_aggregator.output.explanation import document
from loiter_aggregator.output.rows import seconds
from loiter_aggregator.output.words import CAUSE_MEANS, EVIDENCE_MEANS, VERDICT_MEANS
from loiter_aggregator.web.address import WINDOWS, address_of, fixed_to_now, patience, read_name, read_number, read_span
from loiter_aggregator.web.answer_cache import Seen
from loiter_aggregator.web.socket_reading import read_sockets
from loiter_aggregator.web.templating import render
from loiter_aggregator.web.views.ages import age_range, histogram
from loiter_aggregator.web.views.charts import Charts, Figure, charts_of
from loiter_aggregator.web.views.forecast import forecast_chart
from loiter_aggregator.web.views.pulse import pulse_of, said

_PARAMETERS: Final = ("host", "pid", "window", "until")
_MAX_PID: Final = 4_194_304
_FIGURES: Final = (
    Figure("close_wait", "CLOSE_WAIT"),
    Figure("stuck", "stuck"),
    Figure("time_wait", "TIME_WAIT"),
    Figure("established", "ESTABLISHED"),
)
_EXAMPLE: Final = "/process?host=web1&pid=4711"
# Reading sockets costs the host: who looks again within a minute sees the same.
_AGES_FRESH_SECONDS: Final = 60.0


async def process(request: Request) -> Response:
    """Shows a process."""
    query = request.query_params
    span, name = read_span(query), read_name(query, "host", _EXAMPLE)
    pid = read_number(query, "pid", 1, _MAX_PID, 0)
    address = address_of(request, _PARAMETERS)
    reading, ask = request.app.state.reading, partial(request.app.state.answers.ask, wait=patience(request))
    seen, history = await asyncio.gather(
        ask(reading.fleet.explain_process, pb.ExplainProcessRequest(name=name, pid=pid, window=span.window)),
        ask(
            reading.fleet.get_history,
            pb.GetHistoryRequest(host=name, pid=pid, window=span.window, end_time=span.end_time),
        ),
    )
    gone = _gone(seen, history)
    answer = seen.answer if seen.loading or gone else seen.need()
    return render(
        request,
        "process.html",
        {
            "name": name,
            "pid": pid,
            "span": span,
            "address": address,
            "windows": WINDOWS if span.text in WINDOWS else (span.text, *WINDOWS),
            "fixed": fixed_to_now(request, address, span),
            "pulse": pulse_of(history, seen) if gone else pulse_of(seen, history),
            "gone": gone,
            "answer": answer,
            "found": None if answer is None else document(answer),
            "means": CAUSE_MEANS,
            "verdict_words": VERDICT_MEANS,
            "evidence_words": EVIDENCE_MEANS,
            "ages": None if answer is None else _ages(answer),
            "history": None if history.answer is None else _charts(history.answer),
            "history_said": said(history),
            "forecast": _forecast(history.answer, answer),
        },
    )


def _gone(seen: Seen[pb.ExplainProcessResponse], history: Seen[pb.GetHistoryResponse]) -> str:
    """Why there is nothing to explain of a process that there is a history of; empty where there is something."""
    known = history.answer is not None and len(history.answer.series)
    return str(seen.error) if seen.answer is None and isinstance(seen.error, NotFound) and known else ""


def _charts(history: pb.GetHistoryResponse) -> Charts:
    return charts_of(history, _FIGURES)


def _ages(answer: pb.ExplainProcessResponse) -> Any:
    return age_range(answer.latest.close_wait_age) if answer.latest.HasField("close_wait_age") else None


def _forecast(history: pb.GetHistoryResponse | None, answer: pb.ExplainProcessResponse | None) -> Any:
    return None if history is None or answer is None else forecast_chart(history, answer.rank)


async def ages(request: Request) -> Response:
    """Shows how old the sockets of a process are, as its host reads them now: a part of the process's page."""
    query = request.query_params
    name, pid = read_name(query, "host", _EXAMPLE), read_number(query, "pid", 1, _MAX_PID, 0)
    seen = await read_sockets(
        request,
        pb.ListSocketsRequest(name=name, pid=pid, states=[socket_pb2.TCP_STATE_CLOSE_WAIT], limit=1_000),
        wait=None,
        fresh=_AGES_FRESH_SECONDS,
    )
    answer = seen.answer.answer if seen.answer is not None else socket_pb2.SocketAnswer()
    known = [seconds(one.age) for one in answer.sockets if one.HasField("age")]
    return render(
        request,
        "ages.html",
        {
            "said": answer.error or said(seen),
            "bins": histogram(known, max(0, answer.matching - len(answer.sockets))),
            "counted": len(known),
            "unlisted": max(0, answer.matching - len(answer.sockets)),
            "read_at": answer.sample_time if answer.HasField("sample_time") else None,
            "name": name,
            "pid": pid,
        },
    )
