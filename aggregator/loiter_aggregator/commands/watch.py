"""Shows an answer once, or again and again."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from loiter_aggregator.output.tables import console

REFRESH_SECONDS: Final = 2.0


def is_live() -> bool:
    """Whether there is a terminal to show a live view on, and to press keys at."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def show(ask: Callable[[], RenderableType], wide: bool, watch: bool) -> None:
    """Prints what `ask` yields: once, or with `watch` every two seconds until Ctrl-C.

    On a terminal that can be drawn on, the answer is refreshed in place. An aggregator that goes away is said beneath
    the last answer, and asked again.
    """
    out = console(wide, live=watch)
    if watch and out.is_terminal and not out.is_dumb_terminal:
        with _until_left(), Live(console=out, screen=True, auto_refresh=False) as live:
            shown: RenderableType = Text("waiting for the first answer")
            while True:
                trouble = Text()
                try:
                    shown = ask()
                except click.ClickException as error:
                    trouble = Text(error.format_message(), style="bold red")
                stamp = datetime.now(UTC).strftime("%H:%M:%S UTC")
                note = Text(f"{stamp}  every {REFRESH_SECONDS:.0f} s, Ctrl-C to leave", style="dim")
                # What must be seen stands first: a screen that is too small loses the end.
                live.update(Group(note, *([trouble] if trouble else []), Text(), shown), refresh=True)
                time.sleep(REFRESH_SECONDS)
    elif watch:
        repeat(lambda: out.print(ask(), "", sep="\n"), watch=True)
    else:
        out.print(ask())


def repeat(print_answer: Callable[[], None], watch: bool) -> None:
    """Calls once, or with `watch` every two seconds until Ctrl-C.

    While it watches, an aggregator that goes away is said on standard error, and asked again.
    """
    if not watch:
        print_answer()
        return
    with _until_left():
        trouble = ""
        while True:
            try:
                print_answer()
                sys.stdout.flush()
                trouble = ""
            except click.ClickException as error:
                if error.message != trouble:  # said once, not at every try
                    error.show()
                trouble = error.message
            time.sleep(REFRESH_SECONDS)


@contextmanager
def _until_left() -> Iterator[None]:
    """Ends the block, without an error, on Ctrl-C or SIGTERM: so the terminal is put right on both.

    Where a shell had Ctrl-C ignored, as for a job in the background, it is heeded again. A second signal does not
    disturb the end that the first one began.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
