"""What is said on a terminal while something is waited for."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import pytest

from loiter.progress import waiting
from loiter_aggregator.output.progress import progress
from support.programs import wait_until

HOSTILE = "asking \x1b[2J=cmd()"


class Terminal(io.StringIO):
    """Keeps what a terminal is sent."""

    def isatty(self) -> bool:
        return True


@contextmanager
def outputs(out: io.StringIO, errors: io.StringIO, term: str = "xterm") -> Iterator[None]:
    """Puts these in the place of the two outputs. Within a test: between its parts, pytest does the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", errors)
        patch.setenv("TERM", term)
        yield


@contextmanager
def on_terminal() -> Iterator[Terminal]:
    """Both outputs are one terminal."""
    one = Terminal()
    with outputs(one, one):
        yield one


def test_a_wait_is_said_and_wiped_away() -> None:
    """With its seconds, on one line, and with nothing in it that a terminal would act on."""
    with on_terminal() as terminal, waiting(HOSTILE, after=0):
        wait_until(terminal.getvalue, 10, "it is said")
    first, *_ = terminal.getvalue().split("\r\x1b[K")[1:]
    assert first == r"| asking \x1b[2J=cmd(), 0 s"
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_a_line_is_never_longer_than_the_terminal() -> None:
    """Else it could not be wiped."""
    with on_terminal() as terminal, waiting("x" * 1_000, after=0):
        wait_until(terminal.getvalue, 10, "it is said")
    assert max(map(len, terminal.getvalue().split("\r\x1b[K"))) == 79


def test_what_is_quick_is_not_said() -> None:
    """Nothing flashes by."""
    with on_terminal() as terminal, waiting("asking"):
        pass
    assert terminal.getvalue() == ""


def test_an_error_is_said_on_a_line_of_its_own() -> None:
    """The wait is wiped away first."""
    with on_terminal() as terminal, pytest.raises(click.ClickException), waiting("asking", after=0):  # noqa: PT012
        wait_until(terminal.getvalue, 10, "it is said")
        raise click.ClickException("no answer")
    assert terminal.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("piped", [0, 1])
def test_in_a_pipe_nothing_is_said(piped: int) -> None:
    """Whichever of the two is one: a pager shares the terminal."""
    out, errors = (io.StringIO() if place == piped else Terminal() for place in range(2))
    with outputs(out, errors), waiting("asking", after=0):
        pass
    assert (out.getvalue(), errors.getvalue()) == ("", "")


def test_a_terminal_that_can_not_wipe_is_told_nothing() -> None:
    """TERM=dumb."""
    terminal = Terminal()
    with outputs(terminal, terminal, "dumb"), waiting("asking", after=0):
        pass
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"output": "table"}, True),
        ({}, True),
        ({"output": "json"}, False),
        ({"output": "csv"}, False),
        ({"output": "table", "watch": True}, False),
    ],
)
def test_a_command_says_it_where_its_answer_is_for_people(given: dict[str, object], said: bool) -> None:
    """Not in JSON or CSV, nor on a screen that is refreshed."""
    context = click.Context(click.Command("top"))
    context.params = given
    with on_terminal() as terminal, context, progress("asking", after=0):
        if said:
            wait_until(terminal.getvalue, 10, "it is said")
    assert bool(terminal.getvalue()) == said
