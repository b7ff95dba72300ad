"""How a verb ends where its settings can not be used."""

from __future__ import annotations

import click


class WrongSettings(click.ClickException):
    """A setting that can not be used, wherever it was set: the message says where. No line on flags goes with it."""

    exit_code = 2
