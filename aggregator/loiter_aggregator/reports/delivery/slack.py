"""Writes a report as a message of Slack's (Block Kit), which receivers that are like Slack read, too. Pure.

https://docs.slack.dev/reference/block-kit: at most 50 blocks, 3,000 characters in the text of a section, 150 in a
heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.reports.rendering import view
from loiter_aggregator.reports.rendering.terms import terms

_MAX_BLOCKS: Final = 50
_MAX_SECTION_CHARS: Final = 3_000
_MAX_HEADING_CHARS: Final = 150
# Escaped, a character may take five.
_MAX_SUMMARY_CHARS: Final = 400
_MAX_TEXT_LINES: Final = 10

_ENTITIES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# What begins or ends a format, in Slack or in what is like it.
_FORMATS: Final = re.compile(r"[*~`\[\]]")
_NOTHING: Final = "\u200b"  # a zero-width space


def escape(text: str) -> str:
    """A text of anybody's making as one that formats, mentions and links nothing."""
    plain = _FORMATS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    plain = plain.replace("@", f"@{_NOTHING}").replace("://", f":{_NOTHING}//")
    return plain.translate(_ENTITIES)


def slack_message(report: pb.FleetReport) -> dict[str, Any]:
    """The message: blocks, and a text for notifications and for receivers that know no blocks."""
    heading = f"{view.title(report)}: {view.headline(report)}"
    blocks = [_heading(heading), _note(_about(report)), *_findings(report)]
    # The last says what it rests on and what the words mean, whatever there is no room for.
    said = [
        escape(view.coverage(report)),
        *(f"{escape(term)}: {escape(means)}" for term, means in terms(report, tables=False)),
    ]
    blocks = [*blocks[: _MAX_BLOCKS - 1], _note("\n".join(said))]
    return {"text": _text(report, heading), "blocks": blocks}


def _text(report: pb.FleetReport, heading: str) -> str:
    lines = [line for section in view.sections(report) for line in map(_line, section.items)]
    more = len(report.findings) - min(len(lines), _MAX_TEXT_LINES)
    rest = [f"and {more:,} more"] if more > 0 else []
    return "\n".join([escape(heading), *(f"• {line}" for line in lines[:_MAX_TEXT_LINES]), *rest])


def _about(report: pb.FleetReport) -> str:
    sentences = (f"{view.period(report)}.", view.comparison(report), view.of_hosts(report), view.notice(report))
    said = " ".join(escape(one) for one in sentences if one)
    return said + (f" {_link(report.url, 'The fleet over this period')}" if report.url else "")


def _findings(report: pb.FleetReport) -> Iterator[dict[str, Any]]:
    soon = view.breaching(report)
    if soon:
        yield from _sections(f"Will run out {view.before_when(report)}", [_line(one) for one in soon])
    for section in view.sections(report):
        more = [f"and {section.more:,} more"] if section.more else []
        yield from _sections(section.heading, [*map(_line, section.items), *more])
    if not report.findings:
        yield _section("Nothing found.")


def _sections(heading: str, lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A heading and lines, in as many sections as they take."""
    text = f"*{heading}*"
    for line in lines:
        added = f"{text}\n• {line}"
        if len(added) > _MAX_SECTION_CHARS:
            yield _section(text)
            added = f"• {line}"
        text = added
    yield _section(text)


def _line(item: view.Item) -> str:
    notes = [f"before: {item.before}"] if item.before else []
    notes += [f"runs out {item.breach}"] if item.breach else []
    summary = item.summary if len(item.summary) <= _MAX_SUMMARY_CHARS else item.summary[:_MAX_SUMMARY_CHARS] + "…"
    said = escape(summary)
    said += f" ({escape(', '.join(notes))})" if notes else ""
    return f"{said} {_link(item.url, 'show')}" if item.url else said


def _link(url: str, text: str) -> str:
    """Addresses of ours are encoded, but for what would end one here."""
    target = url.replace("&", "&amp;").replace("<", "%3C").replace(">", "%3E").replace("|", "%7C")
    return f"<{target}|{text}>"


def _heading(text: str) -> dict[str, Any]:
    cut = text if len(text) <= _MAX_HEADING_CHARS else text[: _MAX_HEADING_CHARS - 1] + "…"
    return {"type": "header", "text": {"type": "plain_text", "text": cut, "emoji": False}}


def _section(text: str) -> dict[str, Any]:
    # Verbatim: what looks like an address, a channel or a name in it is none.
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _note(text: str) -> dict[str, Any]:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text[:_MAX_SECTION_CHARS], "verbatim": True}]}


def texts(blocks: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Every text in blocks."""
    for block in blocks:
        for element in (block.get("text"), *block.get("elements", ())):
            if element is not None:
                yield element["text"]
