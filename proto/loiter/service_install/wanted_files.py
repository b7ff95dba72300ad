"""The files of any service: its settings, its unit and its credentials, as they are to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loiter.service_install.errors import InstallError
from loiter.service_install.plan import WantedFile
from loiter.service_install.steps import FoundFile
from loiter.service_install.toml_merge import MergeError, Name, Value, merge
from loiter.service_install.units import is_ours


def settings_file(file: Path, header: str, values: Mapping[Name, Value], before: FoundFile | None) -> WantedFile:
    """The file of settings with these values; `header` begins a new one. Raises InstallError where it can not be."""
    try:
        text = header if before is None else before.content.decode("utf-8")
        content = merge(text, values).encode()
    except (MergeError, UnicodeDecodeError) as error:
        raise InstallError(f"{file} is left as it is: {error}") from None
    return WantedFile(file, content, 0o644 if before is None else before.mode)


def unit_files(
    file: Path, content: bytes, before: FoundFile | None, by: str, backup: Path, *, force: bool
) -> list[WantedFile]:
    """The unit, in the place of one that is ours, or with `force` of another, which is kept as `backup`.

    Raises:
        InstallError: Another's unit is there, or the unit is masked.
    """
    written = WantedFile(file, content)
    if before is None or before.content == content or is_ours(before.content):
        return [written]
    if not before.content:  # or a link to /dev/null
        raise InstallError(f"{file.name} is masked by {file}: systemctl unmask {file.name}")
    if not force:
        raise InstallError(
            f"{file} is there, and was not written by '{by}' or was changed since:\n"
            + "\n".join(f"    {line}" for line in before.content.decode("utf-8", "replace").splitlines())
            + f"\n--force replaces it, and keeps it as {backup}; settings of your own go to a drop-in: "
            f"systemctl edit {file.name}"
        )
    return [WantedFile(backup, before.content, before.mode), written]
