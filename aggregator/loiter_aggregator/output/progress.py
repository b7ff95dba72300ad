"""Says what a command is waiting for, where its answer is for people."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

import click

from loiter.progress import AFTER_SECONDS, waiting

_FOR_PROGRAMS: Final = ("json", "csv")


def progress(what: str, after: float = AFTER_SECONDS) -> AbstractContextManager[None]:
    """Says on a terminal what the block waits for, once that takes more than `after` seconds.

    Not where the answer is for programs, nor within a screen that is refreshed (`--watch`), which says so itself.
    """
    context = click.get_current_context(silent=True)
    given = {} if context is None else context.params
    if context is None or given.get("watch") or given.get("output") in _FOR_PROGRAMS:
        return nullcontext()
    return waiting(what, after=after)
