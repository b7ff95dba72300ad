"""The scheduled reports: when each is due, which were built, and whether they arrived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.web.address import Address, patience
from loiter_aggregator.web.templating import render
from loiter_aggregator.web.views.pulse import pulse_of
from loiter_aggregator.web.views.tags import DELIVERY_STATES, row_id


async def reports(request: Request) -> Response:
    """Shows the reports."""
    state = request.app.state
    seen = await state.answers.ask(state.reading.reports.list_reports, pb.ListReportsRequest(), wait=patience(request))
    answer = seen.answer if seen.loading else seen.need()
    return render(
        request,
        "reports.html",
        {
            "address": Address("/reports", ()),
            "pulse": pulse_of(seen),
            "answer": answer,
            "runs": [] if answer is None else _runs(answer.runs),
        },
    )


def _runs(runs: Sequence[pb.ReportRun]) -> list[dict[str, object]]:
    """The rows, latest first. A report of a time may have been built again: then there are two of it."""
    seen: Counter[tuple[str, int]] = Counter()
    rows = []
    for one in reversed(runs):
        which = (one.schedule, one.due_time.seconds)
        rows.append(_run(one, row_id(*which, *((seen[which],) if seen[which] else ()))))
        seen[which] += 1
    return rows[::-1]


def _run(one: pb.ReportRun, row: str) -> dict[str, object]:
    deliveries = [(DELIVERY_STATES.get(delivery.state, "unknown"), delivery) for delivery in one.deliveries]
    return {
        "id": row,
        "run": one,
        "deliveries": deliveries,
        "failed": bool(one.error) or any(state == "failed" or delivery.error for state, delivery in deliveries),
    }
