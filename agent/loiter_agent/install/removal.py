"""What of an installed agent is to go. Nothing here reads or writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from loiter.service_install.errors import InstallError
from loiter.service_install.plan import Removal
from loiter.service_install.steps import FoundFile
from loiter.service_install.units import is_ours
from loiter_agent.config import DEFAULT_FILE
from loiter_agent.install.places import (
    CREDSTORE,
    CREDSTORE_BY_SYSTEM,
    DROP_INS,
    STATE,
    STATE_LINK,
    UNIT,
    UNIT_FILE,
)


def removal(
    found: Mapping[Path, FoundFile],
    trees: Collection[Path],
    links: Collection[Path],
    shipped_drop_ins: Collection[str],
    purge: bool,
) -> Removal:
    """Says what is to go.

    Args:
        found: The files that there are, of the unit, of its drop-ins, of credentials and of settings.
        trees: The folders that there are, of those with state.
        links: The symbolic links that there are.
        shipped_drop_ins: The drop-ins that `install` writes, by file name.
        purge: Also what somebody has put there: settings, credentials, drop-ins, state. Never a unit of theirs, which
            `install --force` has kept.

    Raises:
        InstallError: The unit is somebody else's.
    """
    if UNIT_FILE in found and not purge and not is_ours(found[UNIT_FILE].content):
        raise InstallError(
            f"{UNIT_FILE} was not written by 'loiter-agent install', or was changed since; remove it by hand, or with "
            "all the rest by --purge"
        )
    files = [file for file in (UNIT_FILE,) if file in found]
    files += [file for file in found if file.parent == DROP_INS and (purge or file.name in shipped_drop_ins)]
    folders = [folder for folder in (DROP_INS,) if folder in trees]
    gone: list[Path] = []
    if purge:
        files += [file for file in found if file.parent == CREDSTORE or file == DEFAULT_FILE]
        if CREDSTORE_BY_SYSTEM not in found:  # some systems have the folder from the start
            folders += [folder for folder in (CREDSTORE,) if folder in trees]
        files += [link for link in (STATE_LINK,) if link in links]
        gone = [tree for tree in (STATE, STATE_LINK) if tree in trees and tree not in links]
        folders += [folder for folder in (DEFAULT_FILE.parent,) if folder in trees]
    return Removal(UNIT, tuple(files), tuple(gone), tuple(folders))
