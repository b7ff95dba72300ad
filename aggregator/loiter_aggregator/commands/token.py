"""`loiter token`: who may report, and who may read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from loiter.settings import SettingsError, load
from loiter_aggregator.access import tokens
from loiter_aggregator.access.principal import Right
from loiter_aggregator.access.requirements import token_file
from loiter_aggregator.commands.options import DurationType
from loiter_aggregator.commands.wrong_settings import WrongSettings
from loiter_aggregator.config import DEFAULT_FILE, AggregatorSettings

Command = TypeVar("Command", bound=Callable[..., Any])


def _where(command: Command) -> Command:
    """The flags that say which file it is."""
    for option in (
        click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings of the aggregator."),
        click.option("--data-dir", metavar="DIR", help="The aggregator's folder, which has the file tokens.json."),
        click.option("--tokens", "file", metavar="FILE", help="The file itself."),
    ):
        command = option(command)
    return command


def _file(config: Path | None, data_dir: str | None, file: str | None) -> Path:
    if config is None and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    environment = {name: value for name, value in os.environ.items() if name != "LOITER_TOKEN"}
    try:
        return token_file(load(AggregatorSettings, config, environment, {"data_dir": data_dir, "tokens": file}))
    except SettingsError as error:
        raise WrongSettings(str(error)) from None


@click.group()
def token() -> None:
    """Make, list and revoke the tokens that the aggregator lets people and agents in by."""


@token.command()
@click.argument("name")
@click.option(
    "--right",
    type=click.Choice([right.value for right in Right]),
    required=True,
    help="What it allows; neither includes the other.",
)
@click.option("--expires", type=DurationType(), metavar="DURATION", help="For how long, such as 90d. [default: ever]")
@_where
def add(
    name: str, right: str, expires: float | None, config: Path | None, data_dir: str | None, file: str | None
) -> None:
    """Make a token for NAME and print it, this once: what is kept is its hash."""
    path = _file(config, data_dir, file)
    try:
        text = tokens.add(path, name, Right(right), expires, datetime.now(UTC))
    except tokens.TokenFileError as error:
        raise click.ClickException(str(error)) from None
    click.echo(text)
    click.echo(f"in {path}; it is shown this once, and allows to {right}", err=True)


@token.command("list")
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="The form of the answer.",
)
@_where
def list_(output: str, config: Path | None, data_dir: str | None, file: str | None) -> None:
    """List the tokens there are and were, without their secrets."""
    try:
        known = tokens.load(_file(config, data_dir, file))
    except tokens.TokenFileError as error:
        raise click.ClickException(str(error)) from None
    now = datetime.now(UTC)
    if output == "json":
        rows = [
            {
                "name": one.name,
                "id": one.id,
                "right": one.right.value,
                "created": _time(one.created),
                "expires": _time(one.expires),
                "revoked": _time(one.revoked),
                "in_force": one.refusal(now) is None,
            }
            for one in known
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    wide = max((len(one.name) for one in known), default=4)
    click.echo(f"{'NAME':<{wide}} RIGHT  CREATED    STATE")
    for one in known:
        click.echo(f"{one.name:<{wide}} {one.right.value:<6} {one.created:%Y-%m-%d} {_state(one, now)}")


@token.command()
@click.argument("name")
@_where
def revoke(name: str, config: Path | None, data_dir: str | None, file: str | None) -> None:
    """Revoke the token of NAME. A running aggregator ends what it is used for within seconds."""
    path = _file(config, data_dir, file)
    try:
        tokens.revoke(path, name, datetime.now(UTC))
    except tokens.TokenFileError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"token {name} is revoked in {path}", err=True)


def _state(one: tokens.Token, now: datetime) -> str:
    if one.revoked is not None:
        return f"revoked {one.revoked:%Y-%m-%d}"
    if one.expires is None:
        return "in force"
    return f"{'expired' if one.refusal(now) else 'in force until'} {one.expires:%Y-%m-%d}"


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
