"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How it stands."""

    OK = "ok"
    # The agent works, and sees or tells less.
    LIMITED = "limited"
    # The agent needs it, and it does not work.
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the answer. `remedy` is what to do where the state is not ok; None where nothing can be done."""

    check: str
    state: State
    finding: str
    remedy: str | None = None
