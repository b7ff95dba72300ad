"""Schedules of reports and their runs, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group
from rich.text import Text

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import Row, optional_time
from loiter_aggregator.output.tables import Column, table

_STATES: Final = {state: name.removeprefix("DELIVERY_STATE_").lower() for name, state in pb.DeliveryState.items()}


def _minute(time: str | None) -> str:
    return cells.UNKNOWN if time is None else f"{time[:10]} {time[11:16]}"


def _lines(targets: Sequence[str]) -> str:
    return "\n".join(map(cells.text, targets)) or cells.UNKNOWN


_SCHEDULES: Final = (
    Column("REPORT", "name", cells.text, right=False, whole=True),
    Column("CRON", "cron", cells.text, right=False, whole=True),
    Column("TIME ZONE", "time_zone", cells.text, right=False, whole=True),
    Column("NEXT (UTC)", "next_time", _minute, right=False, fixed=True),
    Column("TO", "targets", _lines, right=False, whole=True),
)
_DELIVERIES: Final = (
    Column("REPORT", "schedule", cells.text, right=False, whole=True),
    Column("DUE (UTC)", "due_time", _minute, right=False, fixed=True),
    Column("STATE", "state", cells.text, right=False, fixed=True),
    Column("TRIES", "attempts", cells.count),
    Column("TO", "target", cells.text, right=False, whole=True),
)


def schedules_document(answer: pb.ListReportsResponse) -> Row:
    """The answer with the keys that scripts rely on."""
    return {
        "schedules": [
            {
                "name": one.name,
                "cron": one.cron,
                "time_zone": one.time_zone,
                "next_time": optional_time(one, "next_time"),
                "targets": list(one.targets),
            }
            for one in answer.schedules
        ],
        "runs": [
            {
                "schedule": one.schedule,
                "due_time": optional_time(one, "due_time"),
                "built_time": optional_time(one, "built_time"),
                "error": one.error or None,
                "notice": one.notice or None,
                "title": one.title or None,
                "deliveries": [_delivery(each) for each in one.deliveries],
            }
            for one in answer.runs
        ],
    }


def _delivery(delivery: pb.ReportDelivery) -> Row:
    return {
        "target": delivery.target,
        "state": _STATES[delivery.state],
        "attempts": delivery.attempts,
        "delivered_time": optional_time(delivery, "delivered_time"),
        "next_attempt_time": optional_time(delivery, "next_attempt_time"),
        "error": delivery.error or None,
    }


def schedules_page(answer: pb.ListReportsResponse) -> Group:
    """The answer for a person: the schedules, their runs, and what there is to say of them."""
    said = schedules_document(answer)
    if not said["schedules"]:
        return Group(Text("no report is scheduled; the aggregator's setting reports.file names the file of schedules"))
    rows = [row for run in said["runs"] for row in _rows(run)]
    notes = [line for run in said["runs"] for line in _notes(run)]
    parts: list[Any] = [table(_SCHEDULES, said["schedules"], wide=False), Text()]
    parts.append(table(_DELIVERIES, rows, wide=False) if rows else Text("none was due yet"))
    parts += [Text(), *(Text(line) for line in notes)] if notes else []
    return Group(*parts)


def _rows(run: Row) -> Sequence[Row]:
    """A row for each delivery; one for a run that has none."""
    nothing = {"target": None, "attempts": None}
    state = "not built" if run["error"] else "due"
    return [{**run, **one} for one in run["deliveries"]] or [{**run, **nothing, "state": state}]


def _notes(run: Row) -> list[str]:
    about = f"{printable(run['schedule'])} {_minute(run['due_time'])}"
    found = [f"{about}: {printable(run[key])}" for key in ("error", "notice") if run[key]]
    return found + [
        f"{about}, {printable(one['target'])}: {printable(one['error'])}{_again(one)}"
        for one in run["deliveries"]
        if one["error"]
    ]


def _again(delivery: Row) -> str:
    """When it is tried again, where it is."""
    next_try = delivery["next_attempt_time"]
    return f"; again {_minute(next_try)}" if next_try else ""
