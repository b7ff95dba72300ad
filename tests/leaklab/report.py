"""The score as Markdown tables, and whether it is good enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from leaklab.scoring import RIGHT_WITHIN, OwnerScore, ProgramScore, Score

MIN_PRECISION = 0.95
MIN_RECALL = 0.95
MAX_WRONG_OWNERS = 0.02
MIN_CERTAIN_OWNERS = 0.95
MAX_MISSING = 0.01


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, what it is to be, and whether it is. `met` is None where it is only shown."""

    name: str
    figure: str
    wanted: str
    met: bool | None


def goals(score: Score, tracer: bool) -> list[Goal]:
    """All goals of one run. Without the tracer, nobody can be sure of connections that live between two samples."""
    late = [one.entry.name for one in score.programs if not one.told_in_time]
    certain = score.owners.certain_share
    return [
        Goal("cause, precision", f"{score.precision:.3f}", f"≥ {MIN_PRECISION}", score.precision >= MIN_PRECISION),
        Goal("cause, recall", f"{score.recall:.3f}", f"≥ {MIN_RECALL}", score.recall >= MIN_RECALL),
        Goal("right verdict, samples after onset", _slowest(score, late), f"≤ {RIGHT_WITHIN}", not late),
        Goal("false alarms", str(score.false_alarms), "0", score.false_alarms == 0),
        Goal(
            "descriptors or ports said to run out that do not", str(score.false_warnings), "0", not score.false_warnings
        ),
        Goal(
            "TIME_WAIT, wrong owner",
            f"{score.owners.wrong_share:.4f}",
            f"≤ {MAX_WRONG_OWNERS}",
            score.owners.wrong_share <= MAX_WRONG_OWNERS,
        ),
        Goal(
            "TIME_WAIT, charged to one who closes nothing",
            str(score.owners.of_bystanders),
            "0",
            score.owners.of_bystanders == 0,
        ),
        Goal(
            "TIME_WAIT, sockets in no row",
            f"{score.owners.missing_share:.4f}",
            f"≤ {MAX_MISSING}",
            score.owners.missing_share <= MAX_MISSING,
        ),
        Goal(
            "TIME_WAIT, exact or listener where the process lives",
            f"{certain:.3f}",
            f"≥ {MIN_CERTAIN_OWNERS}" if tracer else "-",
            certain >= MIN_CERTAIN_OWNERS if tracer else None,
        ),
    ]


def markdown(score: Score, tracer: bool) -> str:
    """The tables of one run."""
    lines = [f"### {'With' if tracer else 'Without'} the tracer of closes", ""]
    lines += ["| figure | measured | goal | met |", "|---|---:|---:|---|"]
    lines += [f"| {goal.name} | {goal.figure} | {goal.wanted} | {_met(goal)} |" for goal in goals(score, tracer)]
    lines += ["", "| program | expected | due | right | false alarms | right in sample | verdicts |"]
    lines += ["|---|---|---:|---:|---:|---:|---|"]
    lines += [_program_line(one) for one in score.programs]
    lines += ["", "| owner found | sockets | share | right | wrong |", "|---|---:|---:|---:|---:|"]
    lines += _owner_lines(score.owners)
    return "\n".join(lines) + "\n"


def _slowest(score: Score, late: list[str]) -> str:
    if late:
        return "late: " + ", ".join(late)
    return str(max((one.samples_until_right or 0 for one in score.programs), default=0))


def _met(goal: Goal) -> str:
    return {True: "yes", False: "**no**", None: "-"}[goal.met]


def _program_line(one: ProgramScore) -> str:
    expected = one.entry.expected or "nothing"
    if one.skipped is not None:
        return f"| {one.entry.name} | {expected} | | | | | skipped: {one.skipped} |"
    first = str(one.samples_until_right) if one.samples_until_right is not None else "-"
    cells = [one.entry.name, expected, one.due, one.right, one.false_alarms, first, _counts(one.verdicts)]
    return "| " + " | ".join(map(str, cells)) + " |"


def _counts(verdicts: Counter[str]) -> str:
    return ", ".join(f"{verdict} {count}" for verdict, count in verdicts.most_common()) or "-"


def _owner_lines(owners: OwnerScore) -> Iterator[str]:
    for how in ("exact", "listener", "cgroup", "destination"):
        right, wrong = owners.right[how], owners.wrong[how]
        yield f"| {how} | {right + wrong:,} | {_percent(right + wrong, owners.total)} | {right:,} | {wrong:,} |"
    yield f"| unattributed | {owners.unattributed:,} | {_percent(owners.unattributed, owners.total)} | | |"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
