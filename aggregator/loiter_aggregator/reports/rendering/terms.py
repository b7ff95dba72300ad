"""The terms that a report uses, each with what it means: for a reader who has never seen one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output.rows import cause_name
from loiter_aggregator.reports.rendering import view
from loiter_aggregator.web.views.tags import CAUSE_MEANS

_CLOSE_WAIT: Final = (
    "The other side has closed the connection, and the program here has not: until it does, the socket keeps its file "
    "descriptor. Some for a moment are normal; more and more of them are a leak."
)
_COVERAGE: Final = (
    "What the figures rest on. Sockets are charged to the process that has them; what is said to be charged to nobody, "
    "unread, unreadable or lost may hide more than is shown."
)
_TIME_WAIT: Final = "Closed connections that the kernel remembers for a minute. Many are no fault by themselves."
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
# By the title of the column.
_OF_COLUMNS: Final[Mapping[str, str]] = {
    "GROWTH/h": "How many CLOSE_WAIT sockets more there are each hour: the slope of a line through the counts.",
    "r²": "How well that line fits the counts, from 0 (not at all) to 1 (exactly).",
    "TREND": "The counts over the period, from 0 to their maximum.",
    "CAUSE": "Why sockets stay in CLOSE_WAIT; “-” where they come and go.",
    "FD%": "Open file descriptors, in percent of the limit.",
    "FD-ETA": "How long until a process has no file descriptor left, at their present growth.",
    "TW-MEAN": "TIME_WAIT sockets, on the average of the period.",
    "TW-MAX": "TIME_WAIT sockets, the most in any sample of the period.",
    "PORTS%": "Ephemeral ports in use to the destination that has most of them, in percent of those that there are.",
}
Term = tuple[str, str]


def terms(report: pb.FleetReport, *, tables: bool) -> list[Term]:
    """The terms of what is shown, with or without tables, in the order in which they are met."""
    return [*_of_findings(report), *_of_causes(report), *(_of_tables(report) if tables else ()), *_of_coverage(report)]


def _of_findings(report: pb.FleetReport) -> Iterator[Term]:
    if report.findings or report.apps or report.hosts:
        yield "CLOSE_WAIT", _CLOSE_WAIT
        yield "Stuck", "CLOSE_WAIT sockets that are older than a minute."
    overflow = any(one.kind == pb.FINDING_KIND_TIME_WAIT_OVERFLOW for one in report.findings)
    if overflow or view.series(report, "time_wait"):
        yield "TIME_WAIT", _TIME_WAIT
    kinds = {one.kind for one in report.findings}
    yield from (term for kind, term in _OF_KINDS.items() if kind in kinds)


def _of_causes(report: pb.FleetReport) -> Iterator[Term]:
    listed = (report.findings, report.causes, report.apps, report.processes, report.hosts)
    causes = {cause_name(one.cause) for rows in listed for one in rows}
    yield from ((name, f"{means}.") for name, means in CAUSE_MEANS.items() if name in causes)


def _of_tables(report: pb.FleetReport) -> Iterator[Term]:
    shown = {column.title for ranking in view.rankings(report) if ranking.rows for column in ranking.columns}
    yield from ((title, means) for title, means in _OF_COLUMNS.items() if title in shown)
    if shown:
        yield "-", "Unknown, which is not 0."


def _of_coverage(report: pb.FleetReport) -> Iterator[Term]:
    if report.coverage.hosts:
        yield "Coverage", _COVERAGE
