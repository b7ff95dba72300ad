"""The container images: what goes into them, and the probe that comes with one."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from support.certificates import Pki
from support.programs import BIN, ROOT, free_port, run, running

FOLDER: Final = ROOT / "deploy" / "container"
HEALTH: Final = FOLDER / "health.py"


def pinned(file: Path) -> dict[str, str]:
    """The versions in a file of requirements, by name. A package may have one for each of several Pythons.

    What is for Windows alone does not get into an image.
    """
    lines = [line for line in file.read_text().splitlines() if "sys_platform == 'win32'" not in line]
    found = re.findall(r"(?m)^([a-z0-9-]+)==(\S+)(?: ;.*python_full_version >= .*)?", "\n".join(lines))
    return dict(reversed(found))


def direct(extra: str | None) -> set[str]:
    """The names that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    return {re.match(r"[A-Za-z0-9-]+", one)[0].lower() for one in wanted}  # type: ignore[index]


@pytest.mark.parametrize("name", ["agent", "aggregator", "build"])
def test_every_requirement_has_a_version_and_a_hash(name: str) -> None:
    text = re.sub(r"(?m)^#.*\n", "", (FOLDER / f"{name}.txt").read_text()).replace("\\\n", " ")
    lines = text.splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==\S+(?: ; .+?)?(?:\s+--hash=sha256:[0-9a-f]{64})+", line), line


@pytest.mark.parametrize(("name", "extra"), [("agent", None), ("aggregator", "aggregator")])
def test_what_the_project_needs_is_pinned(name: str, extra: str | None) -> None:
    assert direct(extra) <= set(pinned(FOLDER / f"{name}.txt"))


@pytest.mark.parametrize("name", ["agent", "aggregator"])
def test_the_images_have_the_versions_of_the_packages(name: str) -> None:
    packages = pinned(ROOT / "deploy" / "packages" / "constraints.txt")
    for package, its_version in pinned(FOLDER / f"{name}.txt").items():
        assert packages.get(package, its_version) == its_version, package


def test_the_agent_image_has_no_part_of_the_aggregator() -> None:
    assert not direct("aggregator") - direct(None) & set(pinned(FOLDER / "agent.txt"))


def test_what_is_copied_is_there_and_not_left_out() -> None:
    """Every COPY names what is in the tree, and the list of what the build may read has it."""
    allowed = [line[1:] for line in (FOLDER / "Containerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = re.findall(r"(?m)^COPY (?!--from)(?:--chmod=\d+ )?(.+) \S+$", (FOLDER / "Containerfile").read_text())
    sources = [word for one in copied for word in one.split()]
    assert sources
    for source in sources:
        assert list(ROOT.glob(source)), source
        assert any(source == one or source.startswith(f"{one}/") for one in allowed), source


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """An authority, with a certificate for 127.0.0.1."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def aggregator(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an aggregator that speaks TLS."""
    folder, server = tmp_path_factory.mktemp("aggregator"), f"127.0.0.1:{free_port()}"
    tls = ("--certificate", pki.server.certificate, "--key", pki.server.key)
    with running([BIN / "loiter", "serve", "--listen", server, "--data-dir", folder, *tls], folder / "log") as program:
        program.wait_for_log("listening")
        yield server


def test_the_probe_succeeds_while_the_aggregator_serves(aggregator: str, pki: Pki) -> None:
    done = run([sys.executable, HEALTH, aggregator], {"CREDENTIALS_DIRECTORY": str(pki.folder)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_probe_says_that_nobody_listens(pki: Pki) -> None:
    server = f"127.0.0.1:{free_port()}"
    done = run([sys.executable, HEALTH, server], {"CREDENTIALS_DIRECTORY": str(pki.folder)})
    assert done.returncode == 1
    assert done.stderr.startswith(f"{server}: UNAVAILABLE: ")


def test_the_probe_does_not_take_anyone_for_the_aggregator(aggregator: str, tmp_path: Path) -> None:
    """One whose certificate another authority has signed."""
    other = Pki(tmp_path)
    done = run([sys.executable, HEALTH, aggregator], {"CREDENTIALS_DIRECTORY": str(other.folder)})
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr


def test_the_probe_says_how_it_is_called() -> None:
    done = run([sys.executable, HEALTH])
    assert (done.returncode, done.stderr) == (2, "usage: loiter-health HOST:PORT\n")
