"""`loiter service`: the aggregator as a service of systemd."""

from __future__ import annotations

from pathlib import Path

import click

from loiter.settings import SettingsError, address
from loiter_aggregator.commands.options import DurationType
from loiter_aggregator.commands.wrong_settings import WrongSettings

_FILE = click.Path(path_type=Path, dir_okay=False)
_dry_run = click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")


class _AddressType(click.ParamType[str]):
    """HOST:PORT."""

    name = "host:port"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Reads it."""
        try:
            return address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _HttpType(_AddressType):
    """HOST:PORT or off."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Reads it."""
        return value if value == "off" else super().convert(value, param, ctx)


@click.group()
def service() -> None:
    """Install the aggregator as a service of systemd, or remove it."""


@service.command()
@click.option("--listen", type=_AddressType(), metavar="HOST:PORT", help="Where agents and readers connect.")
@click.option("--listen-readers", type=_AddressType(), metavar="HOST:PORT", help="Where readers connect besides.")
@click.option("--http", type=_HttpType(), metavar="HOST:PORT", help="Where the web page is served, or off.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="DNS name or IP address that others reach this machine by, for which a certificate and tokens are made; may "
    "be given again.",
)
@click.option("--certificate", type=_FILE, help="Certificate to serve by TLS with, in place of one made here.")
@click.option("--key", type=_FILE, help="Its private key.")
@click.option("--client-ca", type=_FILE, help="Authorities of agents, which then have to show a certificate.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where the store is kept.")
@_dry_run
@click.option("--no-start", is_flag=True, help="Do not start it before the next boot.")
@click.option(
    "--timeout", type=DurationType(), default="60s", metavar="DURATION", show_default=True, help="How long to wait."
)
@click.option(
    "--force", is_flag=True, help="Replace a unit, or by --name a certificate, that was not made by this command."
)
def install(
    listen: str | None,
    listen_readers: str | None,
    http: str | None,
    names: tuple[str, ...],
    certificate: Path | None,
    key: Path | None,
    client_ca: Path | None,
    data_dir: Path | None,
    dry_run: bool,
    no_start: bool,
    timeout: float,
    force: bool,
) -> None:
    """Install the service, start it, see that it serves, and say what to do next.

    With --name it makes what others need to get in: a private authority in /etc/loiter/ca, a certificate for this
    machine, and two tokens, one for the agents and one to read with. A second run makes nothing anew.
    """
    from loiter_aggregator.install.installing import Flags
    from loiter_aggregator.install.installing import install as run

    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --key come together: give both or neither")
    if names and certificate is not None:
        raise click.UsageError("--name has a certificate made, and --certificate gives one: choose")
    if client_ca is not None and certificate is None:
        raise click.UsageError("--client-ca goes with --certificate and --key")
    files = {"certificate.pem": certificate, "key.pem": key, "client-ca.pem": client_ca}
    try:
        run(Flags(listen, listen_readers, http, names, files, data_dir, dry_run, not no_start, timeout, force))
    except SettingsError as error:
        raise WrongSettings(str(error)) from None


@service.command()
@click.option("--purge", is_flag=True, help="Also remove settings, certificates, tokens, the store and the user.")
@_dry_run
def uninstall(purge: bool, dry_run: bool) -> None:
    """Stop and remove the service."""
    from loiter_aggregator.install.uninstalling import uninstall as run

    try:
        run(purge=purge, dry_run=dry_run)
    except SettingsError as error:
        raise WrongSettings(str(error)) from None
