"""The verbs of the command line: one module each, with its flags, which imports what it does only when it is used."""

from __future__ import annotations

import argparse
from typing import Final, Protocol

from loiter_agent.commands import check, install, run, sample, uninstall


class Verb(Protocol):
    """What a module of this package has."""

    @property
    def HELP(self) -> str:  # noqa: N802 - a constant of the module
        """What it does, in a few words."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares its flags."""

    def execute(self, options: argparse.Namespace) -> None:
        """Does it. May raise SettingsError or OSError, or exit."""


VERBS: Final[dict[str, Verb]] = {
    "sample": sample,
    "run": run,
    "check": check,
    "install": install,
    "uninstall": uninstall,
}
