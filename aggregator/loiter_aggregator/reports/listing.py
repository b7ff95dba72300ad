"""Lists schedules and their runs, as messages. Nothing in them is secret."""

from __future__ import annotations

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.clock import to_timestamp
from loiter_aggregator.reports.delivery.targets import targets_of
from loiter_aggregator.reports.due import next_due
from loiter_aggregator.reports.file import ReportFile
from loiter_aggregator.reports.noting import EARLY_MS
from loiter_aggregator.reports.state import Delivery, ReportState, Run

_STATES = {
    "waiting": pb.DELIVERY_STATE_WAITING,
    "sending": pb.DELIVERY_STATE_WAITING,
    "delivered": pb.DELIVERY_STATE_DELIVERED,
    "failed": pb.DELIVERY_STATE_FAILED,
}
MISSED = "missed: when it was due the aggregator was down, or the clock was set past that time"
EARLY = "built before its time, by a clock that was ahead"


def list_schedules(file: ReportFile, now: int) -> list[pb.ReportSchedule]:
    """What is scheduled."""
    listed = []
    for schedule in file.reports:
        due = next_due(schedule.timing, now)
        listed.append(
            pb.ReportSchedule(
                name=schedule.name,
                cron=schedule.cron.text,
                time_zone=schedule.time_zone.key,
                next_time=None if due is None else to_timestamp(due),
                targets=targets_of(schedule),
            )
        )
    return listed


def list_runs(state: ReportState, limit: int, now: int) -> list[pb.ReportRun]:
    """The latest runs, latest first. Blocks; raises sqlite3.Error."""
    return [_run(run, state.deliveries(run.id), now) for run in state.latest_runs(limit, now)]


def _run(run: Run, deliveries: list[Delivery], now: int) -> pb.ReportRun:
    return pb.ReportRun(
        schedule=run.schedule,
        due_time=to_timestamp(run.due),
        built_time=None if run.built is None else to_timestamp(run.built),
        error=_error(run),
        notice=_notice(run, now),
        deliveries=[_delivery(one) for one in deliveries],
        title=run.title,
    )


def _error(run: Run) -> str:
    if run.state == "missed":
        return MISSED
    return "" if run.state == "built" else run.error


def _notice(run: Run, now: int) -> str:
    if run.state != "built":
        return ""
    return EARLY if run.due - now > EARLY_MS else run.error


def _delivery(delivery: Delivery) -> pb.ReportDelivery:
    waits = delivery.state == "waiting" and delivery.next_try > 0
    return pb.ReportDelivery(
        target=delivery.target,
        state=_STATES[delivery.state],
        attempts=delivery.attempts,
        delivered_time=None if delivery.delivered is None else to_timestamp(delivery.delivered),
        next_attempt_time=to_timestamp(delivery.next_try) if waits else None,
        error=delivery.error,
    )
