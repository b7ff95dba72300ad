"""What an installed agent consists of, from what is asked for and what is there. Nothing here reads or writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loiter.service_install.plan import Wanted, WantedFile
from loiter.service_install.steps import FoundFile, MakeFolder
from loiter.service_install.toml_merge import Name, Value
from loiter.service_install.units import is_ours, make_unit
from loiter.service_install.wanted_files import settings_file, unit_files
from loiter_agent.config import DEFAULT_FILE
from loiter_agent.install.places import (
    BACKUP_FILE,
    CREDSTORE,
    DROP_INS,
    SHIPPED_COMMAND,
    STATE,
    STATE_LINK,
    UNIT,
    UNIT_FILE,
    credential,
    displaced,
)

_BY: Final = "loiter-agent install"
_HEADER: Final = "# Settings of loiter-agent. 'systemctl reload loiter-agent' has them read again.\n"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. `unit` is the text that comes with this distribution; `drop_ins` are by name, their text."""

    unit: str
    command: Sequence[str]
    packaged: bool = False
    values: Mapping[Name, Value] = field(default_factory=dict)
    credentials: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    drop_ins: Mapping[str, str] = field(default_factory=dict)
    start: bool = True
    force: bool = False


def asked_values(
    servers: Sequence[str] | None,
    interval: str | None,
    labels: Sequence[tuple[str, str]],
    labels_file: str | None,
    insecure: bool | None,
) -> dict[Name, Value]:
    """The settings that flags ask for, as they stand in the file."""
    values: dict[Name, Value] = {}
    if servers:
        values["server",] = [one.strip() for server in servers for one in server.split(",")]
    if interval is not None:
        values["interval",] = interval
    if insecure:
        values["insecure",] = True
    if labels_file is not None:
        values["labels_file",] = labels_file
    values.update({("labels", key): value for key, value in labels})
    return values


def wanted(request: Request, found: Mapping[Path, FoundFile]) -> Wanted:
    """Says what is to be there.

    Raises:
        InstallError: A file that is there can not be changed, or is somebody else's.
    """
    files = [settings_file(DEFAULT_FILE, _HEADER, request.values, found.get(DEFAULT_FILE))]
    files += _credentials(request.credentials)
    folders = [MakeFolder(DEFAULT_FILE.parent, 0o755)]
    if request.credentials:
        folders.append(MakeFolder(CREDSTORE, 0o700))
    if request.drop_ins:
        folders.append(MakeFolder(DROP_INS, 0o755))
        files += [WantedFile(DROP_INS / f"{name}.conf", text.encode()) for name, text in request.drop_ins.items()]
    absent = tuple(map(credential, displaced(request.credentials)))
    if not request.packaged:
        content = make_unit(request.unit, SHIPPED_COMMAND, request.command, _BY)
        files += unit_files(UNIT_FILE, content, found.get(UNIT_FILE), _BY, BACKUP_FILE, force=request.force)
    elif UNIT_FILE in found and is_ours(found[UNIT_FILE].content):
        absent += (UNIT_FILE,)  # it would hide that of the package
    return Wanted(UNIT, tuple(folders), tuple(files), absent, start=request.start, made_by_start=(STATE_LINK, STATE))


def _credentials(credentials: Mapping[str, bytes]) -> list[WantedFile]:
    return [WantedFile(credential(name), content, 0o600, secret=True) for name, content in credentials.items()]
