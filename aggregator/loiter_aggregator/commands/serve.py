"""`loiter serve`: the aggregator itself."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

import click

from loiter import logs, restart_pause
from loiter.logs import LOG_FORMATS
from loiter.settings import SettingsError, load
from loiter_aggregator.access import core_log
from loiter_aggregator.alerts.file import AlertFile, load_alerts
from loiter_aggregator.commands.wrong_settings import WrongSettings
from loiter_aggregator.config import DEFAULT_FILE, AggregatorSettings
from loiter_aggregator.reports.file import ReportFile, load_reports

_log = logging.getLogger(__name__)

# Of the flags that are called otherwise.
_SETTINGS: Final = {name: f"tls.{name}" for name in ("certificate", "key", "client_ca", "revoked")}


@click.command()
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help=f"Settings. [default: {DEFAULT_FILE}]")
@click.option("--listen", metavar="HOST:PORT", help="Where agents and readers connect. [default: 127.0.0.1:7433]")
@click.option("--listen-readers", metavar="HOST:PORT", help="Where readers connect besides, without a certificate.")
@click.option("--http", metavar="HOST:PORT", help="Where the web page is served, or off. [default: 127.0.0.1:7434]")
@click.option("--data-dir", metavar="DIR", help="Where the store is kept. [default: /var/lib/loiter]")
@click.option("--certificate", metavar="FILE", help="Certificate to serve by TLS with.")
@click.option("--key", metavar="FILE", help="Its private key.")
@click.option("--client-ca", metavar="FILE", help="Authorities of agents, which then have to show a certificate.")
@click.option("--revoked", metavar="FILE", help="Serial numbers of agents' certificates that are refused.")
@click.option("--tokens", metavar="FILE", help="File of the tokens. [default: tokens.json in the data folder]")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), help="How log lines are written. [default: auto]")
@click.option("--insecure", is_flag=True, default=None, help="Off this machine, do without TLS and without asking who.")
def serve(config: Path | None, log_format: str | None, **flags: str | bool | None) -> None:
    """Take in reports, keep them, and answer questions, until SIGTERM or Ctrl-C."""
    from loiter_aggregator.access.requirements import check  # late: X.509 is for this verb alone

    # Until the settings are read, which may say something else: what is wrong with them belongs into the log, too.
    logs.configure("loiter", log_format or "auto", "info")
    if config is None and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    try:
        settings = load(
            AggregatorSettings,
            config,
            # What `loiter top` reads there is no slip in the name of a setting.
            {name: value for name, value in os.environ.items() if name != "LOITER_TOKEN"},
            {_SETTINGS.get(name, name): value for name, value in (flags | {"log_format": log_format}).items()},
        )
        check(settings)
        alert_file, report_file = load_alerts(settings.alerts.file), load_reports(settings.reports.file)
    except SettingsError as error:
        _end(WrongSettings(str(error)))
    logs.configure("loiter", settings.log_format, settings.log_level)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log each push, with the address
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_cancellation)
    # The store says who talks to whom: what is made from here on is for its owner alone.
    os.umask(0o077)
    # The core reads the environment once, as it is imported below.
    captured = settings.tls.certificate is not None and core_log.enable(os.environ)
    with core_log.capture() if captured else nullcontext():
        _run(settings, alert_file, report_file)


def _run(settings: AggregatorSettings, alert_file: AlertFile, report_file: ReportFile) -> None:
    from loiter_aggregator.access.certificates import RevocationFileError
    from loiter_aggregator.access.tokens import TokenFileError
    from loiter_aggregator.descriptors import room_for_streams
    from loiter_aggregator.server import serve as run
    from loiter_aggregator.store.duckdb_store import StoreError

    streams = min(settings.limits.streams, room_for_streams())
    if streams < settings.limits.streams:
        _log.info(
            "%s agents may be connected, as many as there are file descriptors for (LimitNOFILE)",
            f"{streams:,}",
            extra=logs.fields(streams=streams),
        )
    try:
        limits = replace(settings.limits, streams=streams)
        asyncio.run(run(replace(settings, limits=limits), alert_file, report_file))
    except (StoreError, TokenFileError, RevocationFileError, OSError) as error:
        _end(click.ClickException(str(error)))


def _end(error: click.ClickException) -> NoReturn:
    if not logs.say_the_end(error.message):
        error.show()
    restart_pause.pause(os.environ, error.message)
    raise SystemExit(error.exit_code)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """A caller that goes away as a call ends is no accident, though gRPC may log it as one."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
