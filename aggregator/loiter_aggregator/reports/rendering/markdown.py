"""A report as Markdown (GitHub's), which can be read as it is on a terminal, too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.reports.rendering import view
from loiter_aggregator.reports.rendering.terms import terms

_ENTITIES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})
_SPECIAL: Final = re.compile(r"[\\`*\[\]|~#!{}$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What would become a link by itself.
_LINKS: Final = re.compile(r"(?i)(?<=[a-z])(:)(?=//)|(?<=\bwww)(\.)|(?<=\bmailto)(:)")


def escape(text: str) -> str:
    """A text of anybody's making as one that means nothing in Markdown."""
    escaped = _SPECIAL.sub(r"\\\g<0>", text.translate(_ENTITIES).replace("&#64;", "\0"))
    return _LINKS.sub(lambda match: "\\" + match[0], escaped).replace("\0", "&#64;")


def markdown(report: pb.FleetReport) -> str:
    """The report."""
    parts = [f"# {escape(view.title(report))}", f"**{view.headline(report)}**", _about(report)]
    soon = view.breaching(report)
    if soon:
        parts += [f"## Will run out {view.before_when(report)}", _list([_line(one) for one in soon])]
    for section in view.sections(report):
        more = [f"and {section.more:,} more"] if section.more else []
        parts += [f"## {section.heading}", _list([*(_line(one) for one in section.items), *more])]
    for ranking in view.rankings(report):
        if ranking.rows:
            parts += [f"## {ranking.heading}", _table(ranking)]
    causes = view.causes(report)
    if causes:
        lines = [f"{escape(cause)}: {sockets:,} sockets (processes: {number:,})" for cause, sockets, number in causes]
        parts += ["## Causes", _list(lines)]
    parts.append(_coverage(report))
    explained = [f"**{escape(term)}**: {escape(means)}" for term, means in terms(report, tables=True)]
    parts += ["## What the words mean", _list(explained)] if explained else []
    parts += [f"loiter {escape(report.version)}"]
    return "\n\n".join(parts) + "\n"


def _about(report: pb.FleetReport) -> str:
    lines = [f"{view.period(report)}.", view.comparison(report), escape(view.of_hosts(report))]
    lines.append(escape(view.notice(report)))
    if report.url:
        lines.append(f"[The fleet over this period]({_target(report.url)})")
    return "  \n".join(line for line in lines if line)


def _coverage(report: pb.FleetReport) -> str:
    lines = ["## Coverage", "", escape(view.coverage(report))]
    if report.silent_hosts:
        lines += [
            "",
            _list(
                [
                    f"{escape(printable(host.hostname))}: silent since {view.moment(host.last_report_time)} UTC"
                    for host in report.silent_hosts
                ]
            ),
        ]
    return "\n".join(lines)


def _line(item: view.Item) -> str:
    notes = [f"before: {item.before}"] if item.before else []
    notes += [f"since {item.since}"] if item.since else []
    notes += [f"runs out {item.breach}"] if item.breach else []
    said = escape(item.summary) + (f" ({', '.join(notes)})" if notes else "")
    return f"{said} [show]({_target(item.url)})" if item.url else said


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(ranking: view.Ranking) -> str:
    titles = [column.title for column in ranking.columns]
    rows = [[escape(column.write(row[column.key])) for column in ranking.columns] for row in ranking.rows]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    sides = [column.right for column in ranking.columns]
    rule = [("-" * (width - 1) + ":") if right else "-" * width for width, right in zip(widths, sides, strict=True)]
    return "\n".join(
        [_row(titles, widths, sides), "|" + "|".join(f" {one} " for one in rule) + "|"]
        + [_row(cells, widths, sides) for cells in rows]
    )


def _row(texts: Sequence[str], widths: Sequence[int], sides: Sequence[bool]) -> str:
    padded = (
        text.rjust(width) if right else text.ljust(width)
        for text, width, right in zip(texts, widths, sides, strict=True)
    )
    return "| " + " | ".join(padded) + " |"


def _target(url: str) -> str:
    """An address as the target of a link: ours are encoded, but for what would end one."""
    return url.replace("(", "%28").replace(")", "%29").replace("<", "%3C").replace(">", "%3E")
