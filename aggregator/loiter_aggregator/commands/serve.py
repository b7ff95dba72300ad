"""`loiter serve`: the aggregator itself."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import click

from loiter.addresses import is_loopback
from loiter.settings import SettingsError, load
from loiter_aggregator.config import DEFAULT_FILE, AggregatorSettings


@click.command()
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help=f"Settings. [default: {DEFAULT_FILE}]")
@click.option("--listen", metavar="HOST:PORT", help="Where agents and readers connect. [default: 127.0.0.1:7433]")
@click.option("--data-dir", metavar="DIR", help="Where the store is kept. [default: /var/lib/loiter]")
@click.option("--insecure", is_flag=True, default=None, help="Allow plaintext on an address off this machine.")
def serve(config: Path | None, listen: str | None, data_dir: str | None, insecure: bool | None) -> None:
    """Take in reports, keep them, and answer questions, until SIGTERM or Ctrl-C."""
    # Late: the verbs that only ask have no need of the store.
    from loiter_aggregator.server import serve as run
    from loiter_aggregator.store.duckdb_store import StoreError

    if config is None and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    try:
        settings = load(
            AggregatorSettings,
            config,
            os.environ,
            {"listen": listen, "data_dir": data_dir, "insecure": insecure},
        )
        if not (settings.insecure or is_loopback(settings.listen)):
            raise SettingsError(
                f"{settings.listen} is off this machine, and traffic is not encrypted; "
                "listen on 127.0.0.1, or give --insecure if the network is yours alone"
            )
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=settings.log_level.upper())
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    try:
        asyncio.run(run(settings))
    except (StoreError, OSError) as error:
        raise click.ClickException(str(error)) from None
