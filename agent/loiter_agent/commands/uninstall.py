"""`loiter-agent uninstall`: removes what `install` has installed."""

from __future__ import annotations

import argparse
from typing import Final

HELP: Final = "stop and remove the service; --purge also its settings and what it keeps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares its flags."""
    parser.add_argument(
        "--purge", action="store_true", help="also remove settings, credentials, reports that wait, and drop-ins"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")


def execute(options: argparse.Namespace) -> None:
    """Removes, and exits with 1 where something is in the way."""
    from loiter_agent.install.uninstalling import uninstall  # late: only `uninstall` does

    uninstall(purge=options.purge, dry_run=options.dry_run)
