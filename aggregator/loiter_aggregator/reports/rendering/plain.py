"""A report as plain text, for readers of e-mail that show no HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.reports.rendering import view
from loiter_aggregator.reports.rendering.terms import terms

_COLUMNS: Final = 76


def plain(report: pb.FleetReport) -> str:
    """The report."""
    heading = view.title(report)
    lines = [heading, "=" * len(heading), "", view.headline(report), f"{view.period(report)}.", view.comparison(report)]
    lines += [line for line in (view.of_hosts(report), view.notice(report), report.url) if line]
    soon = view.breaching(report)
    if soon:
        lines += ["", f"Will run out {view.before_when(report)}", *_items(soon)]
    for section in view.sections(report):
        lines += ["", section.heading, *_items(section.items)]
        lines += [f"  and {section.more:,} more"] if section.more else []
    causes = view.causes(report)
    if causes:
        counts = (f"- {cause}: {sockets:,} sockets (processes: {number:,})" for cause, sockets, number in causes)
        lines += ["", "Why CLOSE_WAIT sockets stay", *counts]
    lines += ["", "Coverage", f"  {view.coverage(report)}"]
    explained = [f"- {term}: {means}" for term, means in terms(report, tables=False)]
    lines += ["", "What the words mean", *explained] if explained else []
    lines += ["", f"loiter {printable(report.version)}"]
    return "\n".join(_wrapped(line) for line in lines) + "\n"


def _items(items: Sequence[view.Item]) -> list[str]:
    lines = []
    for one in items:
        notes = [f"before: {one.before}"] if one.before else []
        notes += [f"runs out {one.breach}"] if one.breach else []
        lines.append(f"- {one.summary}" + (f" ({', '.join(notes)})" if notes else ""))
        lines += [f"  {one.url}"] if one.url else []
    return lines


def _wrapped(line: str) -> str:
    if "://" in line:
        return line
    indent = "  " if line.startswith(("- ", "  ")) else ""
    return textwrap.fill(line, _COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
