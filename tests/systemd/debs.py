"""The packages that the lab installs: built from this tree, or those in the folder that LOITER_DEBS names."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loiter.version import version
from support.programs import BIN, ROOT
from systemd.lab.tools import LabError, here

_BUILD_SECONDS: Final = 600


@dataclass(frozen=True)
class Debs:
    """The two packages."""

    agent: Path
    aggregator: Path


def debs(folder: Path) -> Debs:
    """Returns the packages of LOITER_DEBS, or builds them in `folder`, which takes a minute. Raises LabError."""
    given = os.environ.get("LOITER_DEBS")
    if not given:
        script = ROOT / "deploy" / "debian" / "build.sh"
        # What is installed at once need not be small.
        here("env", "COMPRESSION=none", f"PIP={BIN / 'python'} -m pip", script, folder, seconds=_BUILD_SECONDS)
    return Debs(*(_newest(Path(given or folder), name) for name in ("loiter-agent", "loiter-aggregator")))


_MAJOR, _MINOR, _ = map(int, version().split("."))
# Of one minor version before the packages, and of one after.
EARLIER: Final = f"{_MAJOR}.{_MINOR - 1}.99"
LATER: Final = f"{_MAJOR}.{_MINOR + 1}.0"


def renumbered(package: Path, version: str, folder: Path) -> Path:
    """Returns a copy of a package in `folder` that is of another version, as is the program in it.

    It is what an earlier or later release would be to dpkg and to the aggregator.
    """
    tree = folder / "tree"
    here("dpkg-deb", "--raw-extract", package, tree)
    _replace(tree / "DEBIAN" / "control", r"^Version: .*$", f"Version: {version}-1")
    [module] = tree.glob("usr/lib/loiter-*/loiter/version.py")
    _replace(module, r'^_VERSION: Final = ".*"$', f'_VERSION: Final = "{version}"')
    [command] = tree.glob("usr/bin/loiter*")
    python = command.read_text().splitlines()[0].removeprefix("#!").split()[0]
    here(python, "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", module)
    [byte_code] = module.parent.glob("__pycache__/version.*.pyc")
    for changed in (module, byte_code):
        name = str(changed.relative_to(tree))
        digest = hashlib.md5(changed.read_bytes()).hexdigest()
        _replace(tree / "DEBIAN" / "md5sums", rf"^[0-9a-f]{{32}}  {re.escape(name)}$", f"{digest}  {name}")
    copy = folder / f"{package.name.split('_')[0]}_{version}-1.deb"
    here("dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, copy)
    shutil.rmtree(tree)
    return copy


def _newest(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}_*.deb"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise LabError(f"no package {name} in {folder}")
    return found[-1]


def _replace(file: Path, pattern: str, text: str) -> None:
    changed, count = re.subn(pattern, lambda _: text, file.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise LabError(f"{file}: {pattern} is there {count} times")
    file.write_text(changed)
