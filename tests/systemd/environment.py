"""An environment with this tree installed, as a layer for hosts: what `python3 -m venv /opt/loiter` and pip make."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from support.programs import BIN, ROOT
from systemd.lab.tools import here

FOLDER: Final = "/opt/loiter"

# That of the hosts, which are of the release of this machine.
_PYTHON: Final = Path("/usr/bin/python3.11")
_CONSTRAINTS: Final = ROOT / "deploy" / "packages" / "constraints.txt"
_COMMANDS: Final = {"loiter-agent": "loiter_agent", "loiter": "loiter_aggregator"}
_SECONDS: Final = 600


def environment_layer(folder: Path) -> Path:
    """Makes the layer in a folder and returns it. Packages come from pip's cache, or where pip gets them."""
    home = folder / FOLDER.lstrip("/")
    library = home / "lib" / "python3.11" / "site-packages"
    library.mkdir(parents=True)
    pip: list[str | Path] = [BIN / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    here(*pip, "--python", _PYTHON, "install", "--root-user-action=ignore", "--target", library, "--constraint",
         _CONSTRAINTS, f"{ROOT}[aggregator]", seconds=_SECONDS)  # fmt: skip
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(_PYTHON)
    (home / "pyvenv.cfg").write_text(f"home = {_PYTHON.parent}\n")
    for command, module in _COMMANDS.items():
        script = home / "bin" / command
        script.write_text(f"#!{FOLDER}/bin/python\nfrom {module}.__main__ import main\n\nmain()\n")
        script.chmod(0o755)
    for part in (folder, *folder.rglob("*")):
        if part.is_dir():
            part.chmod(0o755)
    return folder
