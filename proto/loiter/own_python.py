"""Runs a module of this program as a process of its own."""

from __future__ import annotations

import sys


def module_command(module: str, *arguments: str) -> list[str]:
    """The command: this interpreter, with the modules that this process finds.

    `python -m` would not find them where a launcher has put them on its path, as those of the packages do. Without
    site-packages (-S) where this process is; in an environment, they are where the modules come from.
    """
    path = [folder for folder in sys.path if folder]
    code = (
        f"import runpy, sys; sys.path[:] = {path!r}; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-IS" if sys.flags.no_site else "-I", "-c", code, *arguments]
