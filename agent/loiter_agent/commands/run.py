"""`loiter-agent run`: the agent itself."""

from __future__ import annotations

import argparse
import os
import resource
import signal
from contextlib import suppress
from typing import Final

from loiter import grpc_core, logs
from loiter.logs import LOG_FORMATS
from loiter_agent.commands.settings import add_config, check_files, read_settings
from loiter_agent.config import AgentSettings
from loiter_agent.lean import leave_out_openssl, leave_out_unused

# grpc, protobuf and apscheduler are imported by this verb alone, and late: `sample` is to start fast and stay small.

HELP: Final = "sample on a schedule and report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares its flags."""
    parser.add_argument("--server", action="append", metavar="HOST:PORT", help="an aggregator; may be given again")
    parser.add_argument("--interval", metavar="DURATION", help="time between two samples, such as 10s")
    parser.add_argument("--state-dir", metavar="DIR", help="where the agent keeps its state")
    parser.add_argument("--ca", metavar="FILE", help="certificates of the authorities that aggregators are trusted by")
    parser.add_argument("--certificate", metavar="FILE", help="certificate of this host, with its chain")
    parser.add_argument("--key", metavar="FILE", help="private key of that certificate")
    parser.add_argument("--token-file", metavar="FILE", help="file with the token that allows to report")
    parser.add_argument(
        "--insecure", action="store_true", default=None, help="report in plaintext, also off this machine"
    )
    parser.add_argument("--cpu-budget", metavar="PERCENT", help="share of one processor to stay below, such as 2%%")
    parser.add_argument("--hostname", metavar="NAME", help="report under this name")
    parser.add_argument("--label", action="append", metavar="KEY=VALUE", help="a label; may be given again")
    parser.add_argument("--labels-file", metavar="FILE", help="labels, a line each")
    parser.add_argument("--log-format", choices=LOG_FORMATS, help="how log lines are written; default: auto")
    add_config(parser)


def execute(options: argparse.Namespace) -> None:
    """Runs until it is told to stop."""
    # It asks for the settings to be read anew: as yet they will be read anyway. By default it ends a process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Until the settings are read, which may say something else: what is wrong with them belongs into the log, too.
    logs.configure("loiter-agent", options.log_format or "auto", "info")
    leave_out_openssl()
    import asyncio

    grpc_core.configure(os.environ)
    with leave_out_unused():
        from loiter_agent.service import Agent

    def settings_now() -> AgentSettings:
        settings = read_settings(options.config, _flags(options))
        check_files(settings)
        return settings

    settings = settings_now()
    logs.configure("loiter-agent", settings.log_format, settings.log_level)

    # Three descriptors for each network namespace that is kept open.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # EPERM, by a sandbox: then the limit stays what it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def run() -> None:
        await Agent(settings, settings_now).run()

    asyncio.run(run())


def _flags(options: argparse.Namespace) -> dict[str, object]:
    """What was given on the command line, by the names of the settings; None for what was not."""
    return {
        "server": options.server,
        "interval": options.interval,
        "state_dir": options.state_dir,
        "tls.ca": options.ca,
        "tls.certificate": options.certificate,
        "tls.key": options.key,
        "token_file": options.token_file,
        "insecure": options.insecure,
        "cpu_budget": options.cpu_budget,
        "hostname": options.hostname,
        "labels": options.label,
        "labels_file": options.labels_file,
        "log_format": options.log_format,
    }
