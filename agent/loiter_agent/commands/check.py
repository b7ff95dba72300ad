"""`loiter-agent check`: what this host lets the agent see."""

from __future__ import annotations

import argparse
from typing import Final

from loiter_agent.commands.settings import add_config

HELP: Final = "say what this host lets the agent see, what is missing, and what to do about it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares its flags."""
    parser.add_argument("--server", action="append", metavar="HOST:PORT", help="an aggregator; may be given again")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="its form; default: table")
    add_config(parser)


def execute(options: argparse.Namespace) -> None:
    """Checks, prints, and exits with 1 where something that is needed does not work."""
    from loiter_agent.checks.checking import check  # late: only `check` does

    check(options.config, options.server, as_json=options.output == "json")
