"""The commands of `loiter`, as click knows them, and of `loiter-agent`, as argparse does."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from typing import Final

import click

from generator.commands import Command, Flag, flags_table, render, typed
from generator.markdown import clause, code
from loiter_agent.__main__ import build_parser
from loiter_aggregator.commands import loiter

_ASKS: Final = "--server"
_WHOM: Final = "And the flags [of all questions](#of-all-questions)."


def loiter_commands() -> str:
    """Those of `loiter`; what all questions have in common comes once."""
    commands = list(_of_click(loiter, click.Context(loiter, info_name="loiter", **loiter.context_settings)))
    questions = [command for command in commands if any(code(_ASKS) in flag.typed for flag in command.flags)]
    asking = [command for command in questions if not command.words.startswith("loiter service")]
    shared = [flag for flag in asking[0].flags if all(flag in other.flags for other in asking)]
    return f"{render(commands, shared, _WHOM)}\n\n### Of all questions\n\n{flags_table(shared)}"


def agent_commands() -> str:
    """Those of `loiter-agent`."""
    return render(list(_of_argparse(build_parser(), "")))


def _of_click(command: click.Command, context: click.Context) -> Iterator[Command]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _of_click(inner, click.Context(inner, parent=context, info_name=name))
        return
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    yield Command(
        context.command_path,
        " ".join([*(["[FLAGS]"] if options else []), *(one.make_metavar(context) for one in arguments)]),
        _prose(command.help or ""),
        tuple(map(_click_flag, options)),
    )


def _click_flag(option: click.Option) -> Flag:
    if option.is_flag:
        value = ""
    elif isinstance(option.type, click.Choice):
        value = "|".join(map(str, option.type.choices))
    elif isinstance(option.type, click.IntRange):
        value = f"{option.type.min:,}..{option.type.max:,}"
    else:
        value = option.metavar or (option.name or "").upper()
    said, default = _default_in(option.help or "")
    if default is None and option.show_default and not option.is_flag:
        default = str(option.default)
    return Flag(typed(sorted(option.opts, key=len), value, option.multiple), _written(default), clause(said))


def _of_argparse(parser: argparse.ArgumentParser, summary: str) -> Iterator[Command]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {one.dest: one.help or "" for one in action._choices_actions}
            for name, inner in action.choices.items():
                yield from _of_argparse(inner, summaries.get(name, ""))
            return
    options = [one for one in parser._actions if one.option_strings and not isinstance(one, argparse._HelpAction)]
    arguments = [one for one in parser._actions if not one.option_strings]
    yield Command(
        parser.prog,
        " ".join([*(["[FLAGS]"] if options else []), *(str(one.metavar or one.dest).upper() for one in arguments)]),
        _prose(parser.description or _sentence(summary)),
        tuple(_argparse_flag(option, parser) for option in options),
    )


def _argparse_flag(action: argparse.Action, parser: argparse.ArgumentParser) -> Flag:
    if action.nargs == 0:
        value = ""
    elif action.choices is not None:
        value = "|".join(map(str, action.choices))
    else:
        value = str(action.metavar or action.dest.upper())
    said = (action.help or "") % {**vars(action), "prog": parser.prog}
    said, default = _default_in(said)
    again = isinstance(action, argparse._AppendAction)
    return Flag(typed(sorted(action.option_strings, key=len), value, again), _written(default), clause(said))


# "… [default: 1h]" as click has it; "…; default: 1h, if any" as we say it in argparse.
_DEFAULT: Final = re.compile(
    r"(?:[;,.]? ?\[default: (?P<click>[^\]]+)\]|(?:^|; )default: (?P<argparse>[^;,\s]+)(?P<rest>, .*)?)$"
)


def _default_in(help: str) -> tuple[str, str | None]:
    """Splits a help text that tells the default."""
    match = _DEFAULT.search(help)
    if match is None:
        return help, None
    return help[: match.start()] + (match["rest"] or ""), match["click"] or match["argparse"]


def _written(default: str | None) -> str:
    """A default that is a value is code; one that is said in words is not."""
    return "" if not default else default if " " in default else code(default)


def _prose(text: str) -> str:
    return inspect.cleandoc(text).replace("\b\n", "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." if text else ""
