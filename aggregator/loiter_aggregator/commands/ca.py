"""`loiter ca`: a private certificate authority, for those who have no PKI."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from loiter.limits import HOST_ID_PATTERN
from loiter_aggregator.access.authority import (
    AuthorityError,
    Issued,
    create_authority,
    open_authority,
)
from loiter_aggregator.access.authority import revoke as revoke_certificates
from loiter_aggregator.install.places import AUTHORITY, REVOKED

Command = TypeVar("Command", bound=Callable[..., Any])

_folder = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
_force = click.option("--force", is_flag=True, help="Replace what is there.")


def _days(default: int) -> Callable[[Command], Command]:
    return click.option(
        "--days", type=click.IntRange(1, 36_500), default=default, show_default=True, help="How long it lasts."
    )


class _Errors(click.Group):
    """Shows what goes wrong as a line of text."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AuthorityError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}") from None


@click.group(cls=_Errors)
def ca() -> None:
    """Make certificates: an authority, one for the aggregator, and one for each agent."""


@ca.command()
@_folder
@click.option("--name", default="loiter", show_default=True, help="What the authority is called.")
@_days(3_650)
@_force
def init(folder: Path, name: str, days: int, force: bool) -> None:
    """Make an authority in DIR. Keep its ca.key where no one else can read it."""
    if not 0 < len(name) <= 64:
        raise click.UsageError("--name: a name has 1 to 64 characters")
    _say(create_authority(folder, name, days, datetime.now(UTC), force=force))
    click.echo(f"agents and readers trust it by {folder / 'ca.pem'}", err=True)


@ca.command()
@_folder
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_days(365)
@_force
def server(folder: Path, names: tuple[str, ...], days: int, force: bool) -> None:
    """Make the certificate of an aggregator, for every DNS name and IP address that it is reached by."""
    _say(open_authority(folder).issue_server(names, days, datetime.now(UTC), force=force))


@ca.command()
@_folder
@click.argument("hostname")
@click.option("--host-id", help="Bind it to this host id as well, which it may take over from another name.")
@_days(365)
@_force
def agent(folder: Path, hostname: str, host_id: str | None, days: int, force: bool) -> None:
    """Make the certificate of the agent on HOSTNAME: it allows to report, and as this host alone."""
    if host_id is not None and re.fullmatch(HOST_ID_PATTERN, host_id) is None:
        raise click.UsageError(f"--host-id: {host_id!r} is not 32 lower-case hexadecimal digits")
    _say(open_authority(folder).issue_agent(hostname, host_id, days, datetime.now(UTC), force=force))


@ca.command()
@_folder
@click.argument("hostname")
@click.option(
    "--revoked",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The list that the aggregator reads; of the authority of the service, it is {REVOKED}.",
)
def revoke(folder: Path, hostname: str, revoked: Path | None) -> None:
    """Have all certificates of HOSTNAME refused that were made so far, by the file that `tls.revoked` names."""
    own = folder / "revoked.txt"
    if revoked is None and folder.resolve() == AUTHORITY and REVOKED.exists():
        revoked = REVOKED
    count = revoke_certificates(folder, hostname, revoked)
    also = "" if revoked is None else f" and {revoked}"
    click.echo(f"{count} certificates of {hostname} revoked in {own}{also}", err=True)
    click.echo(f"the aggregator refuses them where its setting tls.revoked names {revoked or own}", err=True)


def _say(issued: Issued) -> None:
    click.echo(f"{issued.certificate}, until {issued.expires:%Y-%m-%d}", err=True)
    click.echo(f"{issued.key}, to be kept secret", err=True)
