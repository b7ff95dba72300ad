"""The command `loiter-agent`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from loiter import logs, restart_pause
from loiter.settings import SettingsError
from loiter.version import version
from loiter_agent.commands import VERBS
from loiter_agent.lean import leave_out_compression


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits: 0 good, 1 failed, 2 wrong usage."""
    leave_out_compression()
    options = build_parser().parse_args(arguments)
    logs.configure("loiter-agent", "text", "info")  # `run` has it as its settings say
    # Scheduling slips are counted in each report; the scheduler's own messages would repeat them every tick.
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    # What a server sends that can not be read is reported by the uplink.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    try:
        options.execute(options)
    except SettingsError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(_explain(error), 1)
    except KeyboardInterrupt:
        sys.exit(130)


def build_parser() -> argparse.ArgumentParser:
    """Declares the commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="loiter-agent",
        description="Samples the TCP sockets and file descriptors of this host and reports them to an aggregator.",
    )
    parser.add_argument("--version", action="version", version=f"loiter-agent {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.HELP)
        verb.add_arguments(command)
        command.set_defaults(execute=verb.execute)
    return parser


def _explain(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _fail(message: str, code: int) -> None:
    if not logs.say_the_end(message):
        print(f"loiter-agent: {message}", file=sys.stderr)
    restart_pause.pause(os.environ, message)
    sys.exit(code)


if __name__ == "__main__":
    main()
