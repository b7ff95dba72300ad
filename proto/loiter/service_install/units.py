"""The units that come with this distribution, and what they need to be: a command that the service can reach."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from loiter.service_install.errors import InstallError
from loiter.service_install.steps import under

PACKAGED_FOLDERS: Final = (Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))

_MARK: Final = re.compile(rb"# Written by '[a-z -]+'; sha256 of what follows: ([0-9a-f]{64})\n")
_SAFE: Final = re.compile(r"[A-Za-z0-9 ./_+@,=:~-]+")
# What ProtectHome= and PrivateTmp= hide from a service.
_HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - nothing is put there


class UnitError(InstallError):
    """No unit can be made of it. The message says why, and what to do."""


def shipped(name: str) -> str:
    """Reads a unit, a drop-in or the like that comes with this distribution. Raises UnitError."""
    file = resources.files("loiter").joinpath("systemd", *name.split("/"))
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise UnitError(f"this installation is not complete: systemd/{name} is missing ({error.strerror})") from None


def shipped_drop_ins(unit: str) -> dict[str, str]:
    """The drop-ins that opt in to more: by name without `.conf`, the name of the resource."""
    folder = resources.files("loiter").joinpath("systemd", f"{unit}.d")
    names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    return {name.split(".conf")[0]: f"{unit}.d/{name}" for name in names if ".conf" in name}


def packaged(root: Path, unit: str) -> Path | None:
    """Where a package has put the unit; None where none has."""
    return next((folder / unit for folder in PACKAGED_FOLDERS if under(root, folder / unit).exists()), None)


def make_unit(text: str, shipped_command: str, command: Sequence[str], by: str) -> bytes:
    """Has a unit run `command` in place of the one that it comes with, and marks it as ours.

    Raises:
        UnitError: The unit does not run that command, or `command` has characters that a unit gives a meaning to.
    """
    if f"ExecStart={shipped_command} " not in text:
        raise UnitError(f"the unit of this installation does not run {shipped_command}")
    written = " ".join(quoted(word) for word in command)
    content = text.replace(f"ExecStart={shipped_command} ", f"ExecStart={written} ").encode()
    digest = hashlib.sha256(content).hexdigest()
    return f"# Written by '{by}'; sha256 of what follows: {digest}\n".encode() + content


def quoted(word: str) -> str:
    """A path or another word, as it is written in a unit. Raises UnitError where that is not safe."""
    if _SAFE.fullmatch(word) is None:
        raise UnitError(f"{word!r} has characters that a unit gives a meaning to; choose a plain path")
    return f'"{word}"' if " " in word else word


def code_changed_at() -> float:
    """When this program was installed or upgraded, in seconds since the epoch: its files are all written anew then."""
    import loiter

    return Path(loiter.__file__).stat().st_ctime


def is_ours(content: bytes) -> bool:
    """Whether `make_unit` made this, and nobody has changed it since."""
    mark = _MARK.match(content)
    return mark is not None and hashlib.sha256(content[mark.end() :]).hexdigest() == mark[1].decode()


def own_command(module: str, invoked: str) -> tuple[str, ...]:
    """How to run this program again: its script by an absolute path, else the interpreter with the module."""
    script = Path(os.path.abspath(invoked))
    if script.suffix != ".py" and script.is_file() and os.access(script, os.X_OK):
        return (str(script),)
    return sys.executable, "-P", "-m", module


def places_of(command: Sequence[str]) -> list[Path]:
    """The files and folders that running a command of this Python needs, links followed."""
    import loiter

    here = Path(loiter.__file__).parent
    executable = Path(sys.executable)
    return [Path(command[0]), Path(command[0]).resolve(), executable, executable.resolve(), Path(sys.base_prefix), here]


def hidden_by(place: Path) -> Path | None:
    """The folder that a service does not see and that this is in, links followed; None where there is none."""
    return next((folder for folder in _HIDDEN for one in (place, place.resolve()) if one.is_relative_to(folder)), None)


def unreachable(places: Iterable[Path], advice: str) -> str | None:
    """Why a service can not run what is at these places, or should not; None where it can."""
    for place in places:
        hidden = next((folder for folder in _HIDDEN if place.is_relative_to(folder)), None)
        if hidden is not None:
            return f"{place} is under {hidden}, which the service does not see; {advice}"
        for part in (place, *place.parents):
            try:
                status = part.stat()
            except OSError as error:
                return f"{part}: {error.strerror}"
            if not status.st_mode & 0o001:
                return f"{part} is not for everyone, and the service has a user of its own; {advice}"
            if status.st_uid != 0 or status.st_mode & 0o002:
                return f"{part} can be changed by others than root, and so could what the service does; {advice}"
    return None
