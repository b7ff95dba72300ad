"""Processes of the program's own interpreter find the modules that the program does, and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).parents[1] / "proto"


@pytest.mark.parametrize(("flags", "no_site"), [("-I", "0"), ("-IS", "1")])
def test_a_child_is_without_site_packages_where_its_parent_is(tmp_path: Path, flags: str, no_site: str) -> None:
    """As with the launchers of the packages; in an environment, both have them."""
    (tmp_path / "child.py").write_text("import sys; print(sys.flags.no_site)")
    parent = (
        f"import subprocess, sys; sys.path[:0] = [{str(tmp_path)!r}, {str(PROTO)!r}]; "
        "from loiter.own_python import module_command; subprocess.run(module_command('child'), check=True)"
    )
    done = subprocess.run([sys.executable, flags, "-c", parent], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == no_site
