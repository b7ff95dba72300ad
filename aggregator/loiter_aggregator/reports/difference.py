"""What became of what was wrong: findings now, beside those of the report before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.reports.findings import Found
from loiter_aggregator.reports.known import Key, is_known, key_of

# Why it is not known whether something goes on that was found on hosts that the store has no sample of any more.
FORGOTTEN: Final = "nothing is kept of it any more"

# A figure has to move by so much, as a share of what it was, before it is worse or better.
_SHARE: Final = 0.25
# And by so much in its own unit.
_LEAST: Final[Mapping[int, float]] = {
    pb.FINDING_KIND_CLOSE_WAIT_GROWTH: 5,  # sockets an hour
    pb.FINDING_KIND_STUCK: 10,  # sockets
    pb.FINDING_KIND_FD_ETA: 600,  # seconds
    pb.FINDING_KIND_PORTS: 0.05,  # a share
    pb.FINDING_KIND_TIME_WAIT_OVERFLOW: 10,  # sockets
}
# A share of 0.75 is not to become 0.94 before it is worse.
_BY_LEAST_ALONE: Final = (pb.FINDING_KIND_PORTS,)

_ORDER: Final = (
    pb.FINDING_CHANGE_NEW,
    pb.FINDING_CHANGE_WORSE,
    pb.FINDING_CHANGE_UNSPECIFIED,
    pb.FINDING_CHANGE_UNCHANGED,
    pb.FINDING_CHANGE_BETTER,
    pb.FINDING_CHANGE_RESOLVED,
)
# What ends soonest stands first.
_KINDS: Final = (
    pb.FINDING_KIND_FD_ETA,
    pb.FINDING_KIND_PORTS,
    pb.FINDING_KIND_TIME_WAIT_OVERFLOW,
    pb.FINDING_KIND_CLOSE_WAIT_GROWTH,
    pb.FINDING_KIND_STUCK,
    pb.FINDING_KIND_SILENT,
)


@dataclass(frozen=True, slots=True)
class Before:
    """What was wrong before: when that was (milliseconds), what was found, and who was silent then, by name."""

    time: int
    findings: Mapping[Key, pb.Finding]
    silent: frozenset[str]


def before_of(report: pb.FleetReport) -> Before:
    """What a report says for the next one to be compared with."""
    return before_with(report.end_time.ToMilliseconds(), report.findings)


def before_with(time: int, findings: Iterable[pb.Finding]) -> Before:
    """What was wrong at a time. What was resolved then is not."""
    there = [one for one in findings if one.change != pb.FINDING_CHANGE_RESOLVED]
    return Before(
        time=time,
        findings={key_of(one): one for one in there},
        silent=frozenset(
            name for one in there if one.kind == pb.FINDING_KIND_SILENT and is_known(one) for name in one.hostnames
        ),
    )


def compare(found: Sequence[Found], before: Before | None, unknown: Mapping[Key, str]) -> list[pb.Finding]:
    """Says of each finding how it compares, and of those before what became of them.

    Args:
        found: What is wrong now.
        before: What was wrong before; None where there is nothing to compare with: then nothing is new.
        unknown: Of what was wrong before, of what it is not known whether it goes on, and why (`not_known`).
    """
    if before is None:
        return _sorted(_changed(one.finding, pb.FINDING_CHANGE_UNSPECIFIED) for one in found if one.strong)
    kept = [one.finding for one in found if one.strong or key_of(one.finding) in before.findings]
    now = [_compared(one, before) for one in kept]
    keys = {key_of(one) for one in kept}
    gone = [_gone(was, unknown.get(key)) for key, was in before.findings.items() if key not in keys]
    return _sorted((*now, *(one for one in gone if one is not None)))


def _compared(finding: pb.Finding, before: Before) -> pb.Finding:
    was = before.findings.get(key_of(finding))
    if was is None:
        unseen = bool(finding.hostnames) and all(name in before.silent for name in finding.hostnames)
        # What a silent host had cannot be known: that it has it now does not make it new.
        not_known = unseen and finding.kind != pb.FINDING_KIND_SILENT
        return _changed(finding, pb.FINDING_CHANGE_UNSPECIFIED if not_known else pb.FINDING_CHANGE_NEW)
    figure = was.figure if was.HasField("figure") else was.before if was.HasField("before") else None
    change = pb.FINDING_CHANGE_UNCHANGED if figure is None else _change(finding.kind, finding.figure, figure)
    compared = _changed(finding, change)
    if figure is not None:
        compared.before = figure
    if was.HasField("since_time"):  # the figures of before reached further back
        compared.since_time.CopyFrom(was.since_time)
    return compared


def _change(kind: pb.FindingKind.ValueType, figure: float, before: float) -> pb.FindingChange.ValueType:
    if kind not in _LEAST:  # a silent host that is still silent
        return pb.FINDING_CHANGE_UNCHANGED
    least = _LEAST[kind] if kind in _BY_LEAST_ALONE else max(_LEAST[kind], _SHARE * before)
    if abs(figure - before) < least:
        return pb.FINDING_CHANGE_UNCHANGED
    rises_is_worse = kind != pb.FINDING_KIND_FD_ETA
    return pb.FINDING_CHANGE_WORSE if (figure > before) == rises_is_worse else pb.FINDING_CHANGE_BETTER


def _gone(was: pb.Finding, why_unknown: str | None) -> pb.Finding | None:
    if why_unknown == FORGOTTEN and not was.HasField("figure"):
        return None  # nothing was known of it before either, and now nothing ever will be
    finding = _changed(was, pb.FINDING_CHANGE_RESOLVED if why_unknown is None else pb.FINDING_CHANGE_UNSPECIFIED)
    finding.ClearField("figure")
    if was.HasField("figure"):
        finding.before = was.figure
    who = printable(was.app or next(iter(was.hostnames), "-"))
    if why_unknown is not None:
        finding.summary = f"Of {who} it is not known whether this goes on: {why_unknown}."
    else:
        finding.summary = f"{who}: {_RESOLVED[was.kind]}."
    return finding


_RESOLVED: Final[Mapping[int, str]] = {
    pb.FINDING_KIND_UNSPECIFIED: "it is over",
    pb.FINDING_KIND_CLOSE_WAIT_GROWTH: "CLOSE_WAIT sockets do not grow any more",
    pb.FINDING_KIND_STUCK: "no CLOSE_WAIT sockets are stuck any more, or few",
    pb.FINDING_KIND_FD_ETA: "file descriptors do not run out any more within days",
    pb.FINDING_KIND_PORTS: "there are ephemeral ports enough again",
    pb.FINDING_KIND_TIME_WAIT_OVERFLOW: "no TIME_WAIT sockets were destroyed",
    pb.FINDING_KIND_SILENT: "it reports again",
}


def _changed(finding: pb.Finding, change: pb.FindingChange.ValueType) -> pb.Finding:
    copy = pb.Finding()
    copy.CopyFrom(finding)
    copy.change = change
    copy.ClearField("before")
    return copy


def _sorted(findings: Iterable[pb.Finding]) -> list[pb.Finding]:
    return sorted(findings, key=_place)


def _place(finding: pb.Finding) -> tuple[int, int, float, str]:
    figure = finding.figure if finding.HasField("figure") else finding.before
    least_first = finding.kind == pb.FINDING_KIND_FD_ETA
    kind = _KINDS.index(finding.kind) if finding.kind in _KINDS else len(_KINDS)
    return _ORDER.index(finding.change), kind, figure if least_first else -figure, key_of(finding)[1]
