"""What will run out before the next report. Pure."""

from __future__ import annotations

from loiter.v1 import fleet_service_pb2 as pb


def horizon_seconds(report: pb.FleetReport) -> float:
    """How long it is to the next report; for one that is not scheduled, as long as its period."""
    until = report.next_time if report.HasField("next_time") else None
    if until is None:
        return (report.end_time.ToMilliseconds() - report.start_time.ToMilliseconds()) / 1_000
    return max(0.0, (until.ToMilliseconds() - report.end_time.ToMilliseconds()) / 1_000)


def breach_seconds(finding: pb.Finding, report: pb.FleetReport) -> float | None:
    """In how many seconds something has run out, by a finding; None where that is not before the next report.

    File descriptors by their forecast, ephemeral ports by how they went since the report that this one compares with.
    """
    if not finding.HasField("figure"):
        return None
    if finding.kind == pb.FINDING_KIND_FD_ETA:
        seconds = finding.figure
    elif finding.kind == pb.FINDING_KIND_PORTS:
        full = _full_seconds(finding, report)
        if full is None:
            return None
        seconds = full
    else:
        return None
    return seconds if seconds <= horizon_seconds(report) else None


def _full_seconds(finding: pb.Finding, report: pb.FleetReport) -> float | None:
    if finding.figure >= 1:
        return 0.0
    if not finding.HasField("before") or not report.HasField("compared_time"):
        return None
    passed = (report.end_time.ToMilliseconds() - report.compared_time.ToMilliseconds()) / 1_000
    rise = finding.figure - finding.before
    return (1 - finding.figure) * passed / rise if rise > 0 and passed > 0 else None


def will_breach(report: pb.FleetReport) -> list[tuple[float, pb.Finding]]:
    """What runs out before the next report, soonest first: in how many seconds, and the finding that tells."""
    found = ((breach_seconds(one, report), one) for one in report.findings)
    return sorted(((seconds, one) for seconds, one in found if seconds is not None), key=lambda pair: pair[0])
