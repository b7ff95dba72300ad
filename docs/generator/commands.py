"""A command as the reference shows it, whichever library it is declared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from generator.markdown import code, table


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag: as it is typed, its default, and what it does."""

    typed: str
    default: str
    help: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its words, the arguments that follow them, what it does, and its flags."""

    words: str
    arguments: str
    help: str
    flags: tuple[Flag, ...]


def render(commands: Sequence[Command], shared: Collection[Flag] = (), shared_note: str = "") -> str:
    """A section for each command. Flags that are `shared` are left to a table of their own, which the note is of."""
    return "\n\n".join(_section(command, shared, shared_note) for command in commands)


def flags_table(flags: Sequence[Flag]) -> str:
    """A table of flags; the column of defaults is there where one has a default."""
    if any(flag.default for flag in flags):
        return table(("flag", "default", "meaning"), ((flag.typed, flag.default, flag.help) for flag in flags))
    return table(("flag", "meaning"), ((flag.typed, flag.help) for flag in flags))


def _section(command: Command, shared: Collection[Flag], shared_note: str) -> str:
    own = [flag for flag in command.flags if flag not in shared]
    parts = [f"### `{command.words}`", f"    {command.words} {command.arguments}".rstrip(), command.help]
    parts += [flags_table(own)] if own else []
    parts += [shared_note] if len(own) < len(command.flags) else []
    return "\n\n".join(part for part in parts if part)


def typed(flags: Sequence[str], value: str, again: bool = False) -> str:
    """A flag as it is typed."""
    return ", ".join(map(code, flags)) + (f" {code(value)}" if value else "") + (" …" if again else "")
