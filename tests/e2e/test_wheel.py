"""The wheel, installed where nothing else is."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from support.programs import ROOT, free_port, run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=100,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment that holds the base install and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    done = run([folder / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install", wheel])
    assert done.returncode == 0, done.stderr
    return folder


def test_its_top_level_packages_are_exactly_three(environment: Path) -> None:
    """loiter, loiter_agent, loiter_aggregator: nothing generic lands in site-packages."""
    code = (
        "import importlib.metadata as m, json;"
        "files = m.files('loiter');"
        "print(json.dumps(sorted({f.parts[0] for f in files} - {'..'})))"
    )
    done = run([environment / "bin/python", "-c", code], cwd=environment)
    assert json.loads(done.stdout) == [
        "loiter",
        next(name for name in json.loads(done.stdout) if name.endswith(".dist-info")),
        "loiter_agent",
        "loiter_aggregator",
    ], done.stderr


def test_it_holds_what_the_web_page_takes_from_others_with_the_licences(wheel: Path) -> None:
    """Every file that is declared, as it was declared."""
    declared = tomllib.loads((ROOT / "deploy/web_assets/assets.toml").read_text())["package"]
    with zipfile.ZipFile(wheel) as archive:
        for package in declared:
            assert any("LICENSE" in path for path in package["files"]), package["name"]
            for file in package["files"].values():
                content = archive.read(f"loiter_aggregator/web/static/vendor/{file['to']}")
                assert hashlib.sha256(content).hexdigest() == file["sha256"], file["to"]


def test_the_base_install_runs_the_agent(environment: Path, tmp_path: Path) -> None:
    """A sample, and the start of the service."""
    done = run([environment / "bin/loiter-agent", "sample", "-o", "json"], cwd=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sampler"] == "sock_diag"
    agent = subprocess.Popen(
        [
            str(environment / "bin/loiter-agent"),
            *("run", "--server", f"127.0.0.1:{free_port()}", "--state-dir", str(tmp_path), "--interval", "500ms"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert agent.stderr is not None
    assert "cannot report to" in agent.stderr.readline()
    agent.terminate()
    _, rest = agent.communicate(timeout=20)
    assert agent.returncode == 0
    assert "Traceback" not in rest


def test_the_base_install_says_what_the_command_line_needs(environment: Path) -> None:
    """Without the extra, `loiter` names it and exits 1."""
    done = run([environment / "bin/loiter", "fleet"], cwd=environment)
    assert done.returncode == 1
    assert "loiter[aggregator]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_base_install_stays_small(environment: Path) -> None:
    """The agent goes on every host: what it needs is these packages and what they need in turn."""
    code = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    installed = set(run([environment / "bin/python", "-c", code], cwd=environment).stdout.split())
    assert installed - {"pip", "setuptools"} == {
        "loiter",
        "apscheduler",
        "googleapis-common-protos",
        "grpcio",
        "protobuf",
        "psutil",
        "typing_extensions",
        "tzlocal",
    }
