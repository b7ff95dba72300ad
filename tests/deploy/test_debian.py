"""The scripts of the Debian packages: what they take for their own, what they remove, and which server they take."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from loiter.service_install.units import is_ours, make_unit
from support.programs import ROOT

FOLDER: Final = ROOT / "deploy/debian"
UNIT: Final = "[Service]\nExecStart=/usr/bin/loiter-agent run\n"
PURGERS: Final = pytest.mark.parametrize("package", ["loiter-agent", "loiter-aggregator"])


def call(script: str, function: str, argument: object, **replaced: str) -> subprocess.CompletedProcess[str]:
    """Runs one function of a script."""
    found = re.search(rf"^{function}\(\) {{\n.*?^}}\n", (FOLDER / script).read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    text = found[0]
    for old, new in replaced.items():
        text = text.replace(f"/usr/{old}/loiter-agent", new)
    command = ["sh", "-euc", f'{text}\n{function} "$1"', "sh", str(argument)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@PURGERS
@pytest.mark.parametrize("by", ["loiter-agent install", "loiter service install"])
def test_a_unit_that_install_wrote_is_known_by_its_mark(package: str, by: str, tmp_path: Path) -> None:
    """One that somebody changed is theirs, as is one without a mark; a link is never taken."""
    ours = make_unit(UNIT, "/usr/bin/loiter-agent", ["/opt/loiter/bin/loiter-agent"], by)
    unit = tmp_path / "loiter-agent.service"
    for content in (ours, ours + b"Nice=5\n", UNIT.encode(), b""):
        unit.write_bytes(content)
        assert (call(f"{package}.postrm", "is_marked", unit).returncode == 0) == is_ours(content)
    unit.write_bytes(ours)
    (tmp_path / "link").symlink_to(unit)
    for other in ("link", "missing"):
        assert call(f"{package}.postrm", "is_marked", tmp_path / other).returncode != 0


@PURGERS
def test_state_is_removed_and_what_a_link_leads_to_is_not(package: str, tmp_path: Path) -> None:
    """As rm does; that there is none is no failure."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "spool.db").touch()
    link = tmp_path / "link"
    link.symlink_to(state)
    for path in (link, link):
        assert call(f"{package}.postrm", "remove_state", path).returncode == 0
    assert not link.is_symlink()
    assert (state / "spool.db").exists()
    assert call(f"{package}.postrm", "remove_state", state).returncode == 0
    assert not state.exists()


@pytest.mark.parametrize(
    ("server", "taken"),
    [
        ("agg:7433", "agg:7433"),
        ("agg:7433,[::1]:7433\t", "agg:7433, [::1]:7433"),
        ("agg", None),
        ("agg:7433,", None),
        ('agg:7433"', None),
        ("agg:7433/x", None),
    ],
)
def test_a_server_is_taken_as_the_agent_reads_it(server: str, taken: str | None, tmp_path: Path) -> None:
    """What is refused is named."""
    command = tmp_path / "loiter-agent"
    command.write_text(f"#!{sys.executable} -BIS\n")
    done = call("loiter-agent.postinst", "read_server", server, bin=str(command), lib=str(ROOT / "proto"))
    if taken is None:
        assert done.returncode == 1
        assert done.stderr.endswith("is not HOST:PORT\n")
    else:
        assert (done.returncode, done.stdout) == (0, f"{taken}\n")
