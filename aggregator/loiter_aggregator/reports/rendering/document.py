"""A report as JSON and as CSV, for programs. The keys are what scripts rely on."""

from __future__ import annotations

from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output.data import as_csv, as_json
from loiter_aggregator.output.rows import (
    Row,
    app_row,
    cause_name,
    host_row,
    optional_fields,
    optional_time,
    process_row,
    seconds,
    time,
    trend_values,
    value,
)
from loiter_aggregator.reports.breach import breach_seconds
from loiter_aggregator.reports.known import is_known
from loiter_aggregator.reports.rendering.view import CHANGES, KINDS, NOT_KNOWN

# The names of hosts are a list in JSON, and a text in CSV.
_LISTED: Final = "hosts"


def document(report: pb.FleetReport) -> Row:
    """The report with the keys that scripts rely on."""
    return {
        "title": report.title,
        "start_time": time(report.start_time),
        "end_time": time(report.end_time),
        "next_time": optional_time(report, "next_time"),
        "compared_time": optional_time(report, "compared_time"),
        "notice": report.notice or None,
        "labels": dict(sorted(report.labels.items())),
        "findings": [finding_row(one, report) for one in report.findings],
        "apps": [app_row(rank, one) for rank, one in enumerate(report.apps, start=1)],
        "processes": [process_row(rank, one) for rank, one in enumerate(report.processes, start=1)],
        "hosts": [host_row(rank, one) for rank, one in enumerate(report.hosts, start=1)],
        "causes": [
            {"cause": cause_name(one.cause), "close_wait": one.close_wait, "processes": one.processes}
            for one in report.causes
        ],
        "history": {
            "start_time": optional_time(report.history, "start_time"),
            "step_seconds": seconds(report.history.step),
            "series": [{"name": one.name, "values": trend_values(one.values)} for one in report.history.series],
        },
        "coverage": optional_fields(report.coverage),
        "silent_hosts": [
            {"host": one.hostname, "host_id": one.host_id, "last_report": time(one.last_report_time)}
            for one in report.silent_hosts
        ],
        "url": report.url or None,
        "version": report.version,
    }


def finding_row(finding: pb.Finding, report: pb.FleetReport) -> Row:
    """A finding. Its figure is in the unit of its kind."""
    return {
        "kind": KINDS.get(finding.kind),
        # Without anything to compare with it is None, and so is what it is now on a host that is silent: "not_known".
        "change": CHANGES.get(finding.change) or (None if is_known(finding) else NOT_KNOWN.replace(" ", "_")),
        "app": finding.app or None,
        "hosts": list(finding.hostnames),
        "host_count": finding.hosts,
        "cause": cause_name(finding.cause),
        "figure": value(finding, "figure"),
        "before": value(finding, "before"),
        "breach_seconds": breach_seconds(finding, report),
        "since_time": optional_time(finding, "since_time"),
        "summary": finding.summary,
        "url": finding.url or None,
    }


def report_json(report: pb.FleetReport) -> str:
    """The whole of it."""
    return as_json(document(report)) + "\n"


def report_csv(report: pb.FleetReport) -> str:
    """Its findings, a row each."""
    rows = [finding_row(one, report) for one in report.findings]
    columns = list(finding_row(pb.Finding(), report))
    return as_csv([{**row, _LISTED: " ".join(row[_LISTED])} for row in rows], columns)
