"""The tables of settings."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from generator.markdown import clause, code, table
from loiter.durations import format_duration
from loiter.settings import REQUIRED, Entry, entries
from loiter_agent.__main__ import build_parser
from loiter_agent.config import AgentSettings
from loiter_aggregator.alerts.settings import AlertmanagerSettings, DefaultSettings, EvaluationSettings, RuleSettings
from loiter_aggregator.commands.serve import serve
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.reports.file import Schedule, Smtp, Webhook

_TITLES = ("setting", "takes", "default", "meaning", "also set by")


def agent_settings() -> str:
    """Those of `loiter-agent`."""
    flags = agent_flags()
    return table(_TITLES, (_row(entry, flags) for entry in entries(AgentSettings)))


def aggregator_settings() -> str:
    """Those of `loiter serve`."""
    flags = serve_flags()
    return table(_TITLES, (_row(entry, flags) for entry in entries(AggregatorSettings)))


def tables(kinds: Mapping[str, type[Any]]) -> str:
    """Those of a file of tables, such as `[[rule]]`, table by table."""
    parts = []
    for header, kind in kinds.items():
        rows = ((code(one.name), takes(one), default(one), clause(one.help)) for one in entries(kind))
        parts.append(f"`{header}`\n\n{table(_TITLES[:4], rows)}")
    return "\n\n".join(parts)


def alert_file() -> str:
    """Those of the file that `alerts.file` names."""
    return tables(
        {
            "[[rule]]": RuleSettings,
            "[[alertmanager]]": AlertmanagerSettings,
            "[settings]": EvaluationSettings,
            "[defaults]": DefaultSettings,
        }
    )


def report_file() -> str:
    """Those of the file that `reports.file` names."""
    return tables({"[[report]]": Schedule, "[smtp]": Smtp, "[[webhook]]": Webhook})


def agent_flags() -> frozenset[str]:
    """The flags of `loiter-agent run`."""
    commands = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return frozenset(flag for action in commands.choices["run"]._actions for flag in action.option_strings)


def serve_flags() -> frozenset[str]:
    """The flags of `loiter serve`."""
    return frozenset(flag for option in serve.params if isinstance(option, click.Option) for flag in option.opts)


def _row(entry: Entry, flags: Collection[str]) -> tuple[str, ...]:
    ways = [code(entry.environment)]
    ways += [code(entry.flag)] if entry.flag in flags else []
    ways += [f"credential {code(entry.credential)}"] if entry.credential is not None else []
    return code(entry.name), takes(entry), default(entry), clause(entry.help), ", ".join(ways)


def takes(entry: Entry) -> str:
    """What values a setting takes: what its reader says of itself."""
    said = (inspect.getdoc(entry.read) or "").partition("\n")[0]
    return clause(said.removeprefix("Reads "))


def default(entry: Entry) -> str:
    """The default as people would write it: what the reader reads as it."""
    if entry.default is REQUIRED:
        return "has to be set"
    if entry.default in (None, (), ""):
        return "none"
    for text in _spellings(entry.default):
        try:
            if entry.read(text) == entry.default:
                return code(text)
        except ValueError:
            continue
    if isinstance(entry.default, tuple):
        return code(json.dumps(entry.default))
    raise ValueError(f"nobody knows how to write the default of {entry.name}, {entry.default!r}")


def _spellings(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, tuple):
        yield ",".join(map(str, value))
    elif isinstance(value, str | Path | ZoneInfo):
        yield str(value)
    elif isinstance(value, int | float):
        yield str(value)
        yield format_duration(value)
        yield f"{value * 100:g}%"
        yield f"{value / 1e6:g}MB"
