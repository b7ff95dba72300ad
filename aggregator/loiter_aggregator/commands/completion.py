"""`loiter completion`: what a shell needs to complete our command lines."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    For bash: loiter completion bash > /etc/bash_completion.d/loiter
    """
    completion_class = get_completion_class(shell)
    assert completion_class is not None, "the choices are the shells that click knows"
    command = context.find_root().command
    click.echo(completion_class(command, {}, "loiter", "_LOITER_COMPLETE").source())
