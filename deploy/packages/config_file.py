"""Prints the settings file that the packages install: every setting with what it means, commented out.

It is made from the declarations that the programs read their settings by, so that it names what there is, with the
defaults that are in force. Each line stands for itself: tables are written as dotted keys (`tls.ca`), and any line can
be taken in without another.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

from loiter.settings import Entry, entries

SETTINGS: Final = {
    "agent": ("loiter_agent.config", "AgentSettings", "loiter-agent", "systemctl reload loiter-agent"),
    "aggregator": (
        "loiter_aggregator.config",
        "AggregatorSettings",
        "loiter serve",
        "systemctl restart loiter-aggregator",
    ),
}
_WIDTH: Final = 100
_DURATIONS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_SIZES: Final = (("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000))
# What is written where nothing is set by default.
_EXAMPLES: Final = {
    "labels": '{ role = "web", datacentre = "fra1" }',
    "labels_command": '"/usr/local/bin/host-labels"',
    "listen_readers": '"0.0.0.0:7435"',
    "host_id": '"0123456789abcdef0123456789abcdef"',
    "hostname": '"web-1"',
    "labels_file": '"/etc/loiter/labels"',
    "tokens": '"/etc/loiter/tokens.json"',
    "tls.revoked": '"/etc/loiter/revoked.txt"',
}


def config_file(part: str) -> str:
    """Returns the file for `agent` or `aggregator`."""
    module, name, program, reload = SETTINGS[part]
    settings: type[Any] = getattr(import_module(module), name)
    head = (
        f"Settings of {program}. What is commented out has the value that is shown, unless it says otherwise. "
        f"After a change: {reload}"
    )
    return (
        "\n\n".join(["\n".join(_comment(head)), *("\n".join(_lines(entry, part)) for entry in entries(settings))])
        + "\n"
    )


def _lines(entry: Entry, part: str) -> Iterator[str]:
    value = default(entry)
    meaning = entry.help[0].upper() + entry.help[1:] + "."
    if entry.credential is not None:
        meaning += f" The service takes /etc/credstore/loiter-{part}.{entry.credential} where that is. For example:"
    elif value is None:
        meaning += " Not set by default. For example:"
    yield from _comment(meaning)
    yield f"#{entry.name} = {value if value is not None else _example(entry)}"


def _example(entry: Entry) -> str:
    file = entry.credential or entry.name.rpartition(".")[2]
    return _EXAMPLES.get(entry.name, json.dumps(f"/etc/loiter/{file}"))


def default(entry: Entry) -> str | None:
    """Returns the default as TOML, None where there is none. Raises ValueError where it can not be written."""
    if entry.default in (None, ()):
        return None
    for text in _ways_to_write(entry.default):
        try:
            if entry.read(json.loads(text)) == entry.default:
                return text
        except ValueError:
            continue
    raise ValueError(f"the default of {entry.name} can not be written: {entry.default!r}")


def _ways_to_write(value: Any) -> Iterator[str]:
    """Texts that are JSON and TOML alike, and that may stand for a value."""
    if isinstance(value, tuple):
        yield json.dumps(list(value))
    elif isinstance(value, bool | str):
        yield json.dumps(value)
    elif isinstance(value, int | float):
        for unit, size in (*_DURATIONS, *_SIZES):
            if value >= size and not value % size:
                yield json.dumps(f"{value // size:g}{unit}")
        yield json.dumps(f"{value * 100:g}%")
        yield json.dumps(value)
    else:
        yield json.dumps(str(value))


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


if __name__ == "__main__":
    sys.stdout.write(config_file(sys.argv[1]))
