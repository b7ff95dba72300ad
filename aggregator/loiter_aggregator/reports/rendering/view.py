"""What a report says to a person, in the order in which it is said: what HTML, Markdown and e-mails have in common.

Whatever came from a host is made safe to show here, and still has to be escaped for the medium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.output import cells
from loiter_aggregator.output.rows import Row, app_row, cause_name, host_row, process_row, value
from loiter_aggregator.output.tables import APPS, HOSTS, PROCESSES, Column, coverage_line
from loiter_aggregator.reports.breach import breach_seconds, horizon_seconds, will_breach
from loiter_aggregator.reports.known import is_known

_SHOWN_FINDINGS: Final = 20

CHANGES: Final[Mapping[int, str]] = {
    pb.FINDING_CHANGE_NEW: "new",
    pb.FINDING_CHANGE_WORSE: "worse",
    pb.FINDING_CHANGE_UNCHANGED: "unchanged",
    pb.FINDING_CHANGE_BETTER: "better",
    pb.FINDING_CHANGE_RESOLVED: "resolved",
}
_HEADINGS: Final[Mapping[int, str]] = {
    pb.FINDING_CHANGE_NEW: "New",
    pb.FINDING_CHANGE_WORSE: "Worse",
    pb.FINDING_CHANGE_UNCHANGED: "Unchanged",
    pb.FINDING_CHANGE_BETTER: "Better",
    pb.FINDING_CHANGE_RESOLVED: "Resolved",
}
NO_CHANGE: Final = "found"
NOT_KNOWN: Final = "not known"
KINDS: Final[Mapping[int, str]] = {
    kind: name.removeprefix("FINDING_KIND_").lower() for name, kind in pb.FindingKind.items() if kind
}

# Beside the first column, those that a page has room for, by their titles.
_FIGURES: Final = ("CLOSE_WAIT", "GROWTH/h", "r²", "TREND", "CAUSE", "STUCK", "FD%", "FD-ETA", "PORTS%")
_OF_HOSTS: Final = (*_FIGURES[:6], "TW-MEAN", "TW-MAX", "PORTS%")


@dataclass(frozen=True, slots=True)
class Item:
    """A finding."""

    change: str
    who: str
    summary: str
    before: str
    breach: str
    since: str
    url: str


@dataclass(frozen=True, slots=True)
class Section:
    """Findings of one change, and how many more there are."""

    heading: str
    change: str
    items: Sequence[Item]
    more: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """The worst of something."""

    heading: str
    columns: Sequence[Column]
    rows: Sequence[Row]


def title(report: pb.FleetReport) -> str:
    """The heading, in one line."""
    return printable(report.title) or "Fleet report"


def headline(report: pb.FleetReport) -> str:
    """What is in it, in a few words: `2 new, 1 worse, 3 resolved; 1 will run out before the next report`."""
    counts = tally(report)
    said = [f"{counts[name]:,} {name}" for name in counts if counts[name]] or ["nothing found"]
    breaching = len(will_breach(report))
    ahead = f"; {breaching:,} will run out {before_when(report)}" if breaching else ""
    return ", ".join(said) + ahead


def tally(report: pb.FleetReport) -> dict[str, int]:
    """How many findings there are of each change, by its name."""
    names = [*CHANGES.values(), NO_CHANGE, NOT_KNOWN]
    found = [change_name(one) for one in report.findings]
    return {name: found.count(name) for name in names}


def change_name(finding: pb.Finding) -> str:
    """How a finding compares, in a word."""
    return CHANGES.get(finding.change, NO_CHANGE if is_known(finding) else NOT_KNOWN)


def before_when(report: pb.FleetReport) -> str:
    """Until when what will run out is said: `before the next report`, or `within 1d`."""
    if report.HasField("next_time"):
        return "before the next report"
    return f"within {cells.duration(horizon_seconds(report))}"


def period(report: pb.FleetReport) -> str:
    """What it is about: `2026-11-22 08:00 to 2026-11-23 08:00 UTC (1d)`."""
    length = (report.end_time.ToMilliseconds() - report.start_time.ToMilliseconds()) / 1_000
    return f"{moment(report.start_time)} to {moment(report.end_time)} UTC ({cells.duration(length)})"


def comparison(report: pb.FleetReport) -> str:
    """What it is compared with, in a sentence."""
    if report.HasField("compared_time"):
        return f"Compared with how it was at {moment(report.compared_time)} UTC."
    return "There is nothing to compare with: nothing is said to be new."


def notice(report: pb.FleetReport) -> str:
    """What there is to know about how it came about, in a sentence; empty for most."""
    return printable(report.notice)


def of_hosts(report: pb.FleetReport) -> str:
    """Which hosts it is about, in a sentence; empty where it is about all."""
    return f"Only hosts with {cells.labels(report.labels)}." if report.labels else ""


def coverage(report: pb.FleetReport) -> str:
    """What it rests on, in a line."""
    return coverage_line(report.coverage)


def moment(stamp: Timestamp) -> str:
    """A time, to the minute, in UTC."""
    return datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%d %H:%M")


def sections(report: pb.FleetReport) -> list[Section]:
    """The findings, by how they compare."""
    found: dict[str, list[pb.Finding]] = {}
    for one in report.findings:
        found.setdefault(_heading(one), []).append(one)
    return [
        Section(
            heading,
            change_name(findings[0]),
            [item(one, report) for one in findings[:_SHOWN_FINDINGS]],
            max(0, len(findings) - _SHOWN_FINDINGS),
        )
        for heading, findings in found.items()
    ]


def breaching(report: pb.FleetReport) -> list[Item]:
    """What runs out before the next report."""
    return [item(finding, report) for _, finding in will_breach(report)][:_SHOWN_FINDINGS]


def item(finding: pb.Finding, report: pb.FleetReport) -> Item:
    """A finding as it is shown."""
    return Item(
        change=change_name(finding),
        who=printable(finding.app or next(iter(finding.hostnames), "-")),
        summary=printable(finding.summary),
        before=_figure(finding, value(finding, "before")) if finding.HasField("before") else "",
        breach=_breach(finding, report),
        since=f"{moment(finding.since_time)} UTC"
        if finding.HasField("since_time") and finding.HasField("figure")
        else "",
        url=finding.url,
    )


def rankings(report: pb.FleetReport) -> list[Ranking]:
    """The worst applications, processes and hosts."""
    return [
        Ranking(
            "Applications",
            _columns(APPS, ("APP", "HOSTS", "PROCS", *_FIGURES)),
            [app_row(rank, one) for rank, one in enumerate(report.apps, start=1)],
        ),
        Ranking(
            "Processes",
            _columns(PROCESSES, ("HOST", "PID", "APP", *_FIGURES)),
            [process_row(rank, one) for rank, one in enumerate(report.processes, start=1)],
        ),
        Ranking(
            "Hosts",
            _columns(HOSTS, ("HOST", *_OF_HOSTS)),
            [host_row(rank, one) for rank, one in enumerate(report.hosts, start=1)],
        ),
    ]


def causes(report: pb.FleetReport) -> list[tuple[str, int, int]]:
    """Why sockets stay in CLOSE_WAIT: the cause, how many, of how many processes."""
    return [(cause_name(one.cause) or cells.UNKNOWN, one.close_wait, one.processes) for one in report.causes]


def series(report: pb.FleetReport, name: str) -> list[float | None]:
    """A figure of the fleet over the period, None for a part that nothing is known of; empty where none is known."""
    found = next((one for one in report.history.series if one.name == name), None)
    values = [value(one, "value") for one in found.values] if found is not None else []
    return values if any(one is not None for one in values) else []


def _heading(finding: pb.Finding) -> str:
    if finding.change in _HEADINGS:
        return _HEADINGS[finding.change]
    return "Found" if is_known(finding) else "Not known any more"


def _columns(columns: Sequence[Column], titles: Sequence[str]) -> list[Column]:
    return [column for column in columns if column.title in titles]


def _figure(finding: pb.Finding, figure: float | None) -> str:
    if finding.kind == pb.FINDING_KIND_CLOSE_WAIT_GROWTH:
        return f"{cells.growth(figure)}/h"
    if finding.kind in (pb.FINDING_KIND_FD_ETA, pb.FINDING_KIND_SILENT):
        return cells.duration(figure)
    if finding.kind == pb.FINDING_KIND_PORTS:
        return f"{cells.percent(figure)} %"
    return cells.count(figure)


def _breach(finding: pb.Finding, report: pb.FleetReport) -> str:
    """When it runs out, where its sentence does not say so itself."""
    seconds = breach_seconds(finding, report) if finding.kind == pb.FINDING_KIND_PORTS else None
    return "" if seconds is None else "now" if seconds <= 0 else f"in {cells.duration(seconds)}"
