"""Changes settings in a TOML file line by line, so that comments and the rest stay as they are."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from loiter.service_install.errors import InstallError

Name = tuple[str, ...]
Value = str | bool | int | list[str]

_HEADER: Final = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
_KEY: Final = re.compile(
    r"\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'))*)\s*="
)
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class MergeError(InstallError):
    """The file is written in a way that is not safe to change. The message says what to write by hand."""


def merge(text: str, values: Mapping[Name, Value]) -> str:
    """Sets values in a TOML text; those that it has already are not touched.

    A name is a key, or a table and a key. A setting that is there on one line is replaced on it, one that is there as
    a comment is written below the comment, any other at the end of its table.

    Raises:
        MergeError: It is no TOML, or a setting stands there in another form.
    """
    try:
        before = tomllib.loads(text)
    except ValueError as error:
        raise MergeError(f"it is not valid TOML: {error}") from None
    lines = text.splitlines()
    for name, value in values.items():
        if _get(before, name) != value:
            _set(lines, name, value)
    end = "\r\n" if "\r\n" in text else "\n"
    merged = "".join(line + end for line in lines)
    _check(before, merged, values)
    return merged if lines != text.splitlines() else text


def _check(before: dict[str, Any], merged: str, values: Mapping[Name, Value]) -> None:
    """Whatever the lines look like: afterwards it must say what it said, and what is wanted."""
    for name, value in values.items():
        table = before
        for key in name[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise _by_hand(name, value)
        table[name[-1]] = value
    try:
        if tomllib.loads(merged) == before:
            return
    except ValueError:
        pass
    raise MergeError(
        "it is written in a way that is not safe to change; write into it by hand: "
        + ", ".join(_line(name, value) for name, value in values.items())
    )


def _set(lines: list[str], name: Name, value: Value) -> None:
    table: Name = ()
    end_of_table: int | None = 0 if len(name) == 1 else None
    below_comment: int | None = None
    only_comments = not any(_HEADER.fullmatch(line) for line in lines)
    for number, line in enumerate(lines):
        if header := _HEADER.fullmatch(line):
            table = _parts(header[1])
        elif table == name[:-1] and (commented := re.fullmatch(r"#\s?(.*)", line)):
            if (key := _KEY.match(commented[1])) and _parts(key[1]) == name[len(table) :]:
                below_comment = number + 1
        elif (key := _KEY.match(line)) and table + _parts(key[1]) == name:
            if not _is_whole(line):
                raise _by_hand(name, value)
            lines[number] = f"{line[: line.index('=')].rstrip()} = {_written(value)}{_comment(line)}"
            return
        if table == name[:-1] and line.strip() and (table or only_comments or not line.lstrip().startswith("#")):
            end_of_table = number + 1
    written = f"{_quoted(name[-1])} = {_written(value)}"
    if below_comment is not None:
        lines.insert(below_comment, written)
    elif end_of_table is not None:
        lines.insert(end_of_table, written)
    else:
        lines += [*([""] if lines and lines[-1].strip() else []), f"[{'.'.join(map(_quoted, name[:-1]))}]", written]


def _is_whole(line: str) -> bool:
    try:
        tomllib.loads(line)
    except ValueError:
        return False
    return True


def _comment(line: str) -> str:
    """What follows the value on its line, with the space before it."""
    said = tomllib.loads(line)
    for at in (at for at, char in enumerate(line) if char == "#"):
        with suppress(ValueError):
            if tomllib.loads(line[:at]) == said:
                return line[len(line[:at].rstrip()) :]
    return ""


def _by_hand(name: Name, value: Value) -> MergeError:
    return MergeError(
        f"{'.'.join(name)} is set there in a form that is not safe to change; write it by hand: {_line(name, value)}"
    )


def _line(name: Name, value: Value) -> str:
    return f"{'.'.join(map(_quoted, name))} = {_written(value)}"


def _parts(written: str) -> Name:
    found = re.findall(r"[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'", written)
    return tuple(part.strip("\"'") for part in found)


def _quoted(key: str) -> str:
    return key if _BARE.fullmatch(key) else _written(key)


def _written(value: Value) -> str:
    """In TOML. JSON writes strings, numbers, true, false and lists of them as TOML does, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _get(document: Mapping[str, Any], name: Name) -> object:
    found: Any = document
    for key in name:
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found
