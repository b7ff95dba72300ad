"""Command lines of `loiter` and `loiter-agent` that a guide shows, tried on the real parsers without being run."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from loiter_agent.__main__ import build_parser
from loiter_aggregator.commands import loiter

# As GitHub has code: indented by four columns, or fenced.
# A command line may follow another, and name the folder that the program is in.
_INDENTED = re.compile(r"^ {4,}(?:\$ |# )?(?:[^#]* && )?(?:sudo )?(?:[\w./]*/)?(loiter(?:-agent)? [a-z-].*)$")
_FENCE = re.compile(r"^\s*```")
_INLINE = re.compile(r"`(loiter(?:-agent)?(?: [^`]+)?)`")
_GENERATED = re.compile(r"^<!-- generated: .*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command line and where it stands. One in running text need not be complete."""

    line: int
    text: str
    complete: bool


def command_lines(file: Path) -> Iterator[CommandLine]:
    """Those that a guide shows, but for what is generated from the parsers themselves."""
    text = _GENERATED.sub(lambda match: "\n" * match[0].count("\n"), file.read_text())
    lines = text.splitlines()
    fenced = False
    for number, line in enumerate(lines, start=1):
        if _FENCE.match(line):
            fenced = not fenced
        elif match := _INDENTED.match(f"    {line}" if fenced else line):
            yield CommandLine(number, _joined(match[1], lines[number:]), complete=True)
        elif not fenced:
            for inline in _INLINE.finditer(line):
                yield CommandLine(number, inline[1], complete=False)


def _joined(text: str, following: Sequence[str]) -> str:
    """A line with those that it goes on in."""
    for line in following:
        if not text.endswith("\\"):
            break
        text = text.removesuffix("\\").rstrip() + " " + line.strip()
    return text


def parse(shown: CommandLine) -> str | None:
    """What is wrong with a command line; None where nothing is."""
    words = _words(shown.text)
    try:
        program, *arguments = words
        if not shown.complete:
            return _named(program, arguments)
        return _click(arguments) if program == "loiter" else _argparse(arguments)
    except ValueError as error:
        return str(error)


def _words(text: str) -> list[str]:
    """The words of the first command of a line."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = list(lexer)
    end = next((at for at, word in enumerate(words) if set(word) <= set("|&;<>") and at), len(words))
    return [word for word in words[:end] if not re.fullmatch(r"2?>.*", word)]


def _click(arguments: list[str]) -> str | None:
    try:
        command: click.Command = loiter
        context = loiter.make_context("loiter", arguments)
        while isinstance(command, click.Group):
            name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert inner is not None, "resolve_command says what it can not find"
            context = inner.make_context(name, rest, parent=context)
            command = inner
    except click.exceptions.Exit:  # --help or --version
        return None
    except click.ClickException as error:
        return error.format_message()
    return None


def _argparse(arguments: list[str]) -> str | None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            build_parser().parse_args(arguments)
    except SystemExit as end:
        return said.getvalue().strip().splitlines()[-1] if end.code else None
    return None


def _named(program: str, arguments: list[str]) -> str | None:
    """Whether there are the verbs and the flags; what else stands there may be left out or stand for others."""
    known, flags = (_click_flags if program == "loiter" else _argparse_flags)(arguments)
    if not known:
        return "no such command"
    missing = [word for word in arguments if word.startswith("-") and word.partition("=")[0] not in flags]
    return f"no such flag: {', '.join(missing)}" if missing else None


def _click_flags(arguments: list[str]) -> tuple[bool, set[str]]:
    command: click.Command = loiter
    context = click.Context(loiter, **loiter.context_settings)
    for word in arguments:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        inner = command.get_command(context, word)
        if inner is None:
            return False, set()
        command = inner
    return True, {"-h", "--help", "--version"} | {
        flag for one in command.params if isinstance(one, click.Option) for flag in one.opts
    }


def _argparse_flags(arguments: list[str]) -> tuple[bool, set[str]]:
    parser = build_parser()
    for word in arguments:
        verbs = next((one for one in parser._actions if isinstance(one, argparse._SubParsersAction)), None)
        if verbs is None or word.startswith("-"):
            break
        if word not in verbs.choices:
            return False, set()
        parser = verbs.choices[word]
    return True, {flag for one in parser._actions for flag in one.option_strings}
