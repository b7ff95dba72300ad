"""Renders a report in one of the forms that people ask for."""

from __future__ import annotations

from typing import Final

from loiter.v1 import fleet_service_pb2 as pb

# The forms, and the kinds of content (RFC 6838).
CONTENT_TYPES: Final = {
    "html": "text/html",
    "md": "text/markdown",
    "json": "application/json",
    "csv": "text/csv",
}


def render(report: pb.FleetReport, form: str) -> bytes:
    """The report in a form, in UTF-8. What draws is imported for HTML alone."""
    if form == "html":
        from loiter_aggregator.reports.rendering.html import page

        return page(report).encode()
    if form == "md":
        from loiter_aggregator.reports.rendering.markdown import markdown

        return markdown(report).encode()
    from loiter_aggregator.reports.rendering.document import report_csv, report_json

    return (report_csv if form == "csv" else report_json)(report).encode()
