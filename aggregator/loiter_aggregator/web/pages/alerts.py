"""The alerts: what fires, what is about to, what is over, and which rules there are."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output.rows import cause_name
from loiter_aggregator.web.address import Address, patience
from loiter_aggregator.web.making import make
from loiter_aggregator.web.templating import render
from loiter_aggregator.web.views.pulse import pulse_of
from loiter_aggregator.web.views.tags import ALERT_STATES, row_id


async def alerts(request: Request) -> Response:
    """Shows the alerts."""
    state = request.app.state
    seen = await state.answers.ask(state.reading.alerts.list_alerts, pb.ListAlertsRequest(), wait=patience(request))
    answer = seen.answer if seen.loading else seen.need()

    def page() -> Response:
        rows = [] if answer is None else [_row(one) for one in answer.alerts]
        return render(
            request,
            "alerts.html",
            {
                "address": Address("/alerts", ()),
                "pulse": pulse_of(seen),
                "answer": answer,
                "alerts": rows,
                "firing": sum(row["state"] == "firing" for row in rows),
                "pending": sum(row["state"] == "pending" for row in rows),
            },
        )

    return await make(request, 0 if answer is None else len(answer.alerts), page)


def _row(one: pb.Alert) -> dict[str, object]:
    return {
        # One that was resolved and came again is another.
        "id": row_id(one.rule, one.app, *one.hostnames, one.active_time.seconds),
        "state": ALERT_STATES.get(one.state, "unknown"),
        "cause": cause_name(one.cause),
        "alert": one,
        "more": one.hosts - len(one.hostnames),
    }
