"""The verbs of the command line: one module each, imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from loiter.version import version

# Verb → module of this package, which holds a command of the verb's name.
VERBS: Final = (
    "serve",
    "top",
    "host",
    "explain",
    "sockets",
    "fleet",
    "report",
    "alerts",
    "ca",
    "token",
    "service",
    "simulate",
    "completion",
)


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's too
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), message="loiter %(version)s")
def loiter() -> None:
    """Find the sockets that loiter: rank the hosts, processes and applications of a fleet."""
