"""The settings files that the packages install, and the versions of libraries that they bring along."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from loiter.settings import entries, load
from loiter_agent.config import AgentSettings
from loiter_aggregator.config import AggregatorSettings
from support.programs import ROOT

PARTS = [("agent", AgentSettings), ("aggregator", AggregatorSettings)]
_NAME = re.compile(r"[a-z0-9_.-]+", re.IGNORECASE)


def _file(part: str) -> str:
    script = ROOT / "deploy/packages/config_file.py"
    return subprocess.run([sys.executable, script, part], check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.mark.parametrize(("part", "settings"), PARTS)
def test_the_file_changes_nothing_as_it_is(part: str, settings: type[object], tmp_path: Path) -> None:
    """Every setting is in it once, commented out."""
    text = _file(part)
    file = tmp_path / "settings.toml"
    file.write_text(text)
    assert load(settings, file, {}, {}) == settings()
    assert re.findall(r"^#([a-z_.]+) = ", text, re.MULTILINE) == [entry.name for entry in entries(settings)]


@pytest.mark.parametrize(("part", "settings"), PARTS)
def test_any_line_can_be_taken_in_without_another(part: str, settings: type[object], tmp_path: Path) -> None:
    """The value that is shown is the default, or an example that is taken."""
    defaults = {entry.name: entry.default for entry in entries(settings)}
    for line in re.findall(r"^#([a-z_.]+ = .*)$", _file(part), re.MULTILINE):
        file = tmp_path / "settings.toml"
        file.write_text(line)
        taken = load(settings, file, {}, {})
        name = line.split(" = ")[0]
        if defaults[name] not in (None, ()):
            assert taken == settings(), line
        else:
            assert taken != settings(), line


def test_the_packages_bring_along_what_the_project_asks_for() -> None:
    """Every library that it names has a version there; that it fits is for pip to say, as the packages are made."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {_named(text) for text in [*project["dependencies"], *project["optional-dependencies"]["aggregator"]]}
    lines = (ROOT / "deploy/packages/constraints.txt").read_text().splitlines()
    pinned = {_named(line) for line in lines if re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)}
    assert asked <= pinned


def test_the_packages_are_of_the_version_of_the_code() -> None:
    """As deploy/debian/changelog has it on top."""
    version = re.search(r'^_VERSION: Final = "(.+)"$', (ROOT / "proto/loiter/version.py").read_text(), re.MULTILINE)
    assert version
    assert (ROOT / "deploy/debian/changelog").read_text().startswith(f"loiter ({version[1]}-")


def _named(requirement: str) -> str:
    match = _NAME.match(requirement)
    assert match, requirement
    return match[0].lower().replace("_", "-")
