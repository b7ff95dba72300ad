"""Shows an answer once, or again and again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from loiter_aggregator.output.tables import console

REFRESH_SECONDS: Final = 2.0


def show(ask: Callable[[], RenderableType], wide: bool, watch: bool) -> None:
    """Prints what `ask` yields: once, or with `watch` every two seconds until Ctrl-C.

    On a terminal the answer is refreshed in place. An aggregator that goes away is said beneath the last answer, and
    asked again.
    """
    out = console(wide)
    if not watch:
        out.print(ask())
        return
    shown: RenderableType = Text("waiting for the first answer")
    _leave_on_signals()
    try:
        if not out.is_terminal:
            while True:
                shown, _ = _ask_again(ask, shown)
                out.print(shown)
                out.print()
                out.file.flush()
                time.sleep(REFRESH_SECONDS)
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                shown, trouble = _ask_again(ask, shown)
                stamp = datetime.now(UTC).strftime("%H:%M:%S UTC")
                note = Text(f"{stamp}  every {REFRESH_SECONDS:.0f} s, Ctrl-C to leave", style="dim")
                live.update(Group(shown, trouble, note), refresh=True)
                time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        _ignore_signals()


def repeat(print_answer: Callable[[], None], watch: bool) -> None:
    """Calls once, or with `watch` every two seconds until Ctrl-C: for the forms that programs read."""
    if not watch:
        print_answer()
        return
    _leave_on_signals()
    try:
        while True:
            print_answer()
            time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        _ignore_signals()


def _leave_on_signals() -> None:
    """Has SIGTERM leave as Ctrl-C does, so that the terminal is put right; and Ctrl-C where a shell had it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _ignore_signals() -> None:
    """Has a second signal not disturb the end that the first one began."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _ask_again(ask: Callable[[], RenderableType], last: RenderableType) -> tuple[RenderableType, Text]:
    try:
        return ask(), Text()
    except click.ClickException as error:
        return last, Text(error.format_message(), style="bold red")
