"""The user-data of deploy/cloud-init, run by cloud-init itself at the first boot of a host."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import pytest

from support.programs import ROOT
from systemd.debs import Debs
from systemd.lab import Fleet
from systemd.lab.template import template
from systemd.lab.tools import here, lab_folder, locked
from systemd.services import Aggregator, serve

USER_DATA: Final = ROOT / "deploy" / "cloud-init" / "loiter-agent.yaml"
SEED: Final = "/var/lib/cloud/seed/nocloud"
META_DATA: Final = "instance-id: i-1\nlocal-hostname: vm\navailability-zone: fra1-a\n"
# The network of the lab is there, no cloud is looked for, and there are no locales to make.
OF_THE_LAB: Final = "datasource_list: [NoCloud]\nnetwork: {config: disabled}\nlocale: false\n"


@pytest.fixture(scope="module")
def cloud_init() -> Path:
    """A folder with cloud-init and what it needs besides the template of the lab, kept from run to run."""
    folder = lab_folder() / f"cloud-init-{template().name}"
    with locked(lab_folder() / "cloud-init.lock"):
        (folder / "partial").mkdir(parents=True, exist_ok=True)
        of_the_template = ("-o", f"Dir::State::status={template()}/var/lib/dpkg/status")
        into = ("-o", f"Dir::Cache::archives={folder}", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root")
        options = ("--download-only", "--no-install-recommends", "--yes", "-qq")
        here("apt-get", *of_the_template, *into, *options, "install", "cloud-init", seconds=300)
    return folder


@pytest.fixture(scope="module")
def aggregator(fleet: Fleet, debs: Debs) -> Aggregator:
    """An aggregator by the name of `agg`, which also has the package of the agent for download."""
    serving = serve(fleet.host("agg"), debs.aggregator)
    serving.host.push(debs.agent, "/srv/packages")
    download = ("python3", "-m", "http.server", "8000", "--directory", "/srv/packages")
    serving.host.run("systemd-run", "--unit=packages", *download)
    return serving


def filled_in(aggregator: Aggregator, package: Path) -> str:
    """The user-data with what a person has to fill in."""
    text = USER_DATA.read_text()
    example, end = "      -----BEGIN CERTIFICATE-----\n", "      -----END CERTIFICATE-----\n"
    before, _, rest = text.partition(example)
    authority = aggregator.host.run("cat", "/etc/loiter/ca.pem").stdout
    text = before + "".join(f"      {line}\n" for line in authority.splitlines()) + rest.partition(end)[2]
    answers = {
        "aggregator.example:7433": "agg:7433",
        "loiter_TOKEN": aggregator.host.run("cat", "/etc/loiter/ingest.token").stdout.strip(),
        "https://artefacts.example/loiter-agent_0.3.0-1_amd64.deb": f"http://agg:8000/{package.name}",
        "0" * 64: hashlib.sha256(package.read_bytes()).hexdigest(),
    }
    for placeholder, answer in answers.items():
        assert text.count(placeholder) == 1, placeholder
        text = text.replace(placeholder, answer)
    return text


def test_a_machine_reports_once_it_has_booted(
    fleet: Fleet, cloud_init: Path, aggregator: Aggregator, debs: Debs
) -> None:
    """With the zone that the cloud names as a label. Nothing of the user-data is unknown to cloud-init."""
    machine = fleet.host("vm")
    machine.push(cloud_init, "/var/tmp")
    machine.run("sh", "-c", f"dpkg --install /var/tmp/{cloud_init.name}/*.deb", timeout=200)
    machine.write("/etc/cloud/cloud.cfg.d/99-lab.cfg", OF_THE_LAB)
    machine.write(f"{SEED}/meta-data", META_DATA)
    machine.write(f"{SEED}/user-data", filled_in(aggregator, debs.agent))
    machine.reboot()
    status = machine.run("cloud-init", "status", "--wait", "--long", check=False, timeout=120)
    assert "status: done" in status.stdout.splitlines(), machine.run("cat", "/var/log/cloud-init-output.log").stdout
    machine.wait(lambda: [row["host"] for row in aggregator.ask("top", "hosts")] == ["vm"], 30)
    assert aggregator.ask("host", "vm")["labels"] == {"role": "web", "zone": "fra1-a"}
    assert machine.run("stat", "-c", "%a", "/etc/credstore", "/etc/credstore/loiter-agent.token").stdout == "700\n600\n"
    assert "Valid" in machine.run("cloud-init", "schema", "--system").stdout
