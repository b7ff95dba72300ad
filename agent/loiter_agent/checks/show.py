"""Shows findings to a person, as a table of 80 columns, and to a program, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from textwrap import wrap
from typing import Final

from loiter.text import printable
from loiter_agent.checks.finding import Finding, State
from loiter_agent.checks.seen import as_document

_COLUMNS: Final = 80


def as_table(heading: str, findings: Sequence[Finding]) -> str:
    """A finding below the other, with what to do."""
    wide = max(len(one.check) for one in findings)
    indent = wide + 2 + len(State.LIMITED.value) + 2
    lines = [*wrap(printable(heading), _COLUMNS), ""]
    for one in findings:
        told = wrap(printable(one.finding), _COLUMNS - indent)
        if one.remedy is not None and one.state is not State.OK:
            told += wrap(f"-> {printable(one.remedy)}", _COLUMNS - indent, subsequent_indent="   ")
        title = f"{one.check:<{wide}}  {one.state.value:<{len(State.LIMITED.value)}}  "
        lines += [(title if at == 0 else " " * indent) + line for at, line in enumerate(told)]
    return "\n".join([*lines, "", _summary(findings)])


def as_json(rights_of: str, findings: Sequence[Finding]) -> str:
    """With the keys that scripts rely on."""
    return json.dumps({"ok": works(findings), "rights_of": rights_of, "checks": as_document(list(findings))}, indent=2)


def works(findings: Sequence[Finding]) -> bool:
    """Whether all that is needed works."""
    return all(one.state is not State.MISSING for one in findings)


def _summary(findings: Sequence[Finding]) -> str:
    missing, limited = (sum(one.state is state for one in findings) for state in (State.MISSING, State.LIMITED))
    if missing:
        return f"{missing} of what is needed does not work; {limited} limited"
    return "all that is needed works" + (f"; {limited} limited" if limited else "")
