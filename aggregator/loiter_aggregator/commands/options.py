"""Options and types of values that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from loiter.durations import parse_duration
from loiter.limits import DEFAULT_SERVER, MAX_RANKING_ROWS, MAX_STRING_CHARS, MAX_WINDOW_SECONDS
from loiter.settings import addresses, labels
from loiter_aggregator.client import SECURITY
from loiter_aggregator.queries import CAUSES, MEASURES

Command = TypeVar("Command", bound=Callable[..., Any])


class DurationType(click.ParamType[float]):
    """A duration such as 10s, 5m or 1h; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads it."""
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 1 <= seconds <= MAX_WINDOW_SECONDS:
            self.fail(f"{value!r} is not between 1s and {MAX_WINDOW_SECONDS / 86_400:.0f}d", param, ctx)
        return seconds


class TimeType(click.ParamType[datetime]):
    """A time as RFC 3339 has it, or how long ago it was."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Reads it."""
        if isinstance(value, datetime):
            return value
        try:
            return _read_time(value, datetime.now(UTC))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _read_time(text: str, now: datetime) -> datetime:
    """Raises ValueError, fit for a person, where it is no time."""
    try:
        return now - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        time = datetime.fromisoformat(text.strip())
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time; write it as 2026-11-23T14:00:00Z, or as how long ago it was: 30m, 2h, 1d"
        ) from None
    raise ValueError(f"{text!r} has no time zone; write it as {time.isoformat()}Z for UTC, or with +01:00 and the like")


class TextType(click.ParamType[str]):
    """A text that is looked for among names, no longer than any of those."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Reads it."""
        if not 1 <= len(value) <= MAX_STRING_CHARS:
            self.fail(f"not between 1 and {MAX_STRING_CHARS} characters long", param, ctx)
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail("not valid UTF-8", param, ctx)
        return str(value)


class ServerType(click.ParamType[str]):
    """HOST:PORT. Of several, as the agent's setting may hold, the first."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Reads it."""
        try:
            return addresses(value)[0]
        except ValueError as error:
            self.fail(str(error), param, ctx)


class LabelType(click.ParamType[tuple[str, str]]):
    """A label as key=value."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Reads it."""
        if isinstance(value, tuple):
            return value
        try:
            return labels([value])[0]
        except ValueError as error:
            self.fail(str(error), param, ctx)


def query_labels(wanted: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Labels as the questions take them. A host has one value of a label, so asking for two is a mistake."""
    labels = dict(wanted)
    if len(labels) < len(wanted):
        raise click.UsageError("--label: one label is given twice; a host has one value of each")
    return labels


_OUTPUTS: Final = ("table", "wide", "json", "csv")

_FILE: Final = click.Path(path_type=Path, dir_okay=False)


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keeps a value for `connect`, which is all that needs it: verbs do not pass it on."""
    assert param.name is not None, "an option has a name"
    ctx.meta[f"{SECURITY}.{param.name}"] = value


def _security_option(flag: str, variable: str, help: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(
        flag, envvar=variable, expose_value=False, callback=_note, help=f"{help}; also {variable}.", **more
    )


_SERVER_OPTIONS: Final = (
    click.option(
        "--server",
        type=ServerType(),
        default=DEFAULT_SERVER,
        envvar="LOITER_SERVER",
        metavar="HOST:PORT",
        show_default=True,
        help="The aggregator to ask; also LOITER_SERVER.",
    ),
    _security_option("--ca", "LOITER_TLS_CA", "Authorities to trust the aggregator by", type=_FILE),
    _security_option("--token-file", "LOITER_TOKEN_FILE", "File with your token", type=_FILE),
    _security_option("--certificate", "LOITER_TLS_CERTIFICATE", "Your certificate", type=_FILE),
    _security_option("--key", "LOITER_TLS_KEY", "Its private key", type=_FILE),
    _security_option("--insecure", "LOITER_INSECURE", "Plaintext, also off this machine", is_flag=True),
)


def server_option(command: Command) -> Command:
    """Whom to ask, whom to trust, and what to show of oneself."""
    for option in reversed(_SERVER_OPTIONS):
        command = option(command)
    return command


window_option = click.option(
    "--window", type=DurationType(), default="1h", metavar="DURATION", show_default=True, help="How far to look back."
)
until_option = click.option(
    "--until",
    type=TimeType(),
    metavar="TIME",
    help="Where the window ends: a time such as 2026-11-23T14:00:00Z, or how long ago, such as 30m; now if not given.",
)
app_option = click.option("--app", type=TextType(), metavar="APP", help="Only this app; of hosts, those that it is on.")
match_option = click.option(
    "--match", type=TextType(), metavar="TEXT", help="Only rows with this in a name, in whatever case."
)
cause_option = click.option("--cause", type=click.Choice(tuple(CAUSES)), help="Only rows with this cause.")
by_option = click.option(
    "--by",
    type=click.Choice(tuple(MEASURES)),
    default="close-wait-growth",
    show_default=True,
    help="What to rank by; time-wait is the mean, fd-eta has the least first.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(1, MAX_RANKING_ROWS), default=20, show_default=True, help="How many rows to show."
)
label_option = click.option(
    "--label",
    "wanted",
    type=LabelType(),
    multiple=True,
    metavar="KEY=VALUE",
    help="Only hosts with this label; may be given again.",
)
group_by_option = click.option(
    "--group-by", metavar="LABEL", help="Of groups: the label whose values they are, such as role."
)
output_option = click.option(
    "-o", "--output", type=click.Choice(_OUTPUTS), default="table", show_default=True, help="The form of the answer."
)
watch_option = click.option("--watch", is_flag=True, help="Ask again every 2 s, until Ctrl-C.")
