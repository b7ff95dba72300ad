"""The user-data for cloud-init: its parts, and what they say to the programs. The lab has cloud-init itself run it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import jinja2
import pytest
import yaml

from loiter.settings import entries, load
from loiter.version import version
from loiter_agent.config import DEFAULT_FILE, AgentSettings
from support.programs import ROOT

FILE: Final = ROOT / "deploy" / "cloud-init" / "loiter-agent.yaml"


def rendered(zone: str | None) -> Any:
    """The user-data as cloud-init understands it (cloudinit/templater.py) on an instance in this zone."""
    first, _, rest = FILE.read_text().partition("\n")
    assert first == "## template: jinja"
    text = jinja2.Template(rest, trim_blocks=True).render(v1=SimpleNamespace(availability_zone=zone))
    assert text.startswith("#cloud-config\n")
    return yaml.safe_load(text)


def files(zone: str | None = None) -> dict[str, Any]:
    """What it writes, by path."""
    return {one["path"]: one for one in rendered(zone)["write_files"]}


@pytest.mark.parametrize(
    ("zone", "labels"),
    [("fra1-a", {"role": "web", "zone": "fra1-a"}), (None, {"role": "web"})],
    ids=["in a zone", "without"],
)
def test_the_settings_are_good(zone: str | None, labels: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(files(zone)[str(DEFAULT_FILE)]["content"])
    settings = load(AgentSettings, file, {}, {})
    assert settings.server == ("aggregator.example:7433",)
    assert dict(settings.labels) == labels


def test_secrets_are_written_where_the_service_finds_them_and_for_root_alone() -> None:
    known = {f"/etc/credstore/loiter-agent.{entry.credential}" for entry in entries(AgentSettings) if entry.credential}
    secrets = {path: one for path, one in files().items() if path.startswith("/etc/credstore/")}
    assert set(secrets) == {"/etc/credstore/loiter-agent.ca.pem", "/etc/credstore/loiter-agent.token"} & known
    assert {one["permissions"] for one in secrets.values()} == {"0600"}


def test_the_package_is_that_of_this_release() -> None:
    assert re.search(rf"/loiter-agent_{re.escape(version())}-\d+_amd64\.deb$", FILE.read_text(), re.MULTILINE)
