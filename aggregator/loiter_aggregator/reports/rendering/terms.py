"""The terms that a report uses, each with what it means: for a reader who has never seen one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output.rows import cause_name
from loiter_aggregator.output.words import CAUSE_MEANS, COLUMN_MEANS, STATE_MEANS
from loiter_aggregator.reports.rendering import view

_COVERAGE: Final = (
    "What the figures rest on. Sockets are charged to the process that has them; what is said to be charged to nobody, "
    "unread, unreadable or lost may hide more than is shown."
)
_OF_KINDS: Final[Mapping[int, tuple[str, str]]] = {
    pb.FINDING_KIND_FD_ETA: (
        "File descriptors",
        "What a process has for each open file and socket, up to a limit; without one left it can open nothing more.",
    ),
    pb.FINDING_KIND_PORTS: (
        "Ephemeral ports",
        "The local ports that connections to a destination are made from; without one left, no more can be made to it.",
    ),
    pb.FINDING_KIND_SILENT: ("Silent", "A host that should report and does not: how it is now is not known."),
}
# What is said of all reports need not be said of their columns.
_SAID: Final = frozenset({"CLOSE_WAIT", "STUCK"})
Term = tuple[str, str]


def terms(report: pb.FleetReport, *, tables: bool) -> list[Term]:
    """The terms of what is shown, with or without tables, in the order in which they are met."""
    return [*_of_findings(report), *_of_causes(report), *(_of_tables(report) if tables else ()), *_of_coverage(report)]


def _of_findings(report: pb.FleetReport) -> Iterator[Term]:
    if report.findings or report.apps or report.hosts:
        yield "CLOSE_WAIT", f"{STATE_MEANS['CLOSE_WAIT']}."
        yield "Stuck", f"{COLUMN_MEANS['STUCK']}."
    overflow = any(one.kind == pb.FINDING_KIND_TIME_WAIT_OVERFLOW for one in report.findings)
    if overflow or view.series(report, "time_wait"):
        yield "TIME_WAIT", f"{STATE_MEANS['TIME_WAIT']}."
    kinds = {one.kind for one in report.findings}
    yield from (term for kind, term in _OF_KINDS.items() if kind in kinds)


def _of_causes(report: pb.FleetReport) -> Iterator[Term]:
    listed = (report.findings, report.causes, report.apps, report.processes, report.hosts)
    causes = {cause_name(one.cause) for rows in listed for one in rows}
    yield from ((name, f"{means}.") for name, means in CAUSE_MEANS.items() if name in causes)


def _of_tables(report: pb.FleetReport) -> Iterator[Term]:
    shown = {column.title for ranking in view.rankings(report) if ranking.rows for column in ranking.columns}
    yield from ((title, f"{means}.") for title, means in COLUMN_MEANS.items() if title in shown - _SAID)
    if shown:
        yield "-", "Unknown, which is not 0."


def _of_coverage(report: pb.FleetReport) -> Iterator[Term]:
    if report.coverage.hosts:
        yield "Coverage", _COVERAGE
