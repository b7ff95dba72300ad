"""`loiter service uninstall`."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Final

import click

from loiter.service_install.errors import InstallError
from loiter.service_install.look import files_in, found_files, found_folders
from loiter.service_install.plan import Removal, apply_forward, describe, removal_plan
from loiter.service_install.preconditions import require_root, require_systemd
from loiter.service_install.steps import FoundFile
from loiter.service_install.systemd import service_state
from loiter.service_install.units import is_ours, packaged
from loiter_aggregator.config import DEFAULT_FILE
from loiter_aggregator.install.places import (
    AUTHORITY,
    BACKUP_FILE,
    CREDENTIALS,
    CREDSTORE,
    CREDSTORE_BY_SYSTEM,
    DATA_DIR_DROP_IN,
    DEFAULT_DATA_DIR,
    DROP_INS,
    FOLDER,
    INGEST_TOKEN,
    READ_TOKEN,
    TRUST,
    UNIT,
    UNIT_FILE,
    USER,
    credential,
)

_ROOT: Final = Path("/")


def uninstall(*, purge: bool, dry_run: bool) -> None:
    """Removes the service. Raises ClickException where it can not be done."""
    try:
        require_root("loiter service uninstall")
        require_systemd("there is nothing to remove")
        if packaged(_ROOT, UNIT) is not None:
            raise InstallError(
                "the service belongs to a package; remove it by: apt-get remove loiter-aggregator, or with its store: "
                "apt-get purge loiter-aggregator"
            )
        steps = removal_plan(_removal(purge), service_state(UNIT))
        if dry_run:
            click.echo(describe(steps) or "nothing to do")
            return
        apply_forward(steps, _ROOT, click.echo)
    except InstallError as error:
        raise click.ClickException(str(error)) from None
    click.echo(_outcome(bool(steps), purge))


def _removal(purge: bool) -> Removal:
    """What is to go; without `purge`, not what somebody has put there, nor what can not be made again."""
    kept = (BACKUP_FILE, DEFAULT_FILE, TRUST, INGEST_TOKEN, READ_TOKEN)
    drop_ins = list(files_in(_ROOT, DROP_INS))
    found = found_files(_ROOT, [UNIT_FILE, CREDSTORE_BY_SYSTEM, *map(credential, CREDENTIALS), *kept, *drop_ins])
    if UNIT_FILE in found and not purge and not is_ours(found[UNIT_FILE].content):
        raise InstallError(
            f"{UNIT_FILE} was not written by 'loiter service install', or was changed since; remove it by hand, or "
            "with all the rest by --purge"
        )
    files = [file for file in (UNIT_FILE, *map(credential, CREDENTIALS)) if file in found]
    folders = [DROP_INS] if CREDSTORE_BY_SYSTEM in found else [DROP_INS, CREDSTORE]
    if not purge:
        files += [file for file in drop_ins if file == DATA_DIR_DROP_IN]
        return Removal(UNIT, tuple(files), folders=_there(folders))
    files += [*drop_ins, *(file for file in kept if file in found)]
    # systemd makes the folder of the store where it is by default, wherever it is.
    trees = tuple(dict.fromkeys((AUTHORITY, _data_dir(found), DEFAULT_DATA_DIR)))
    return Removal(UNIT, tuple(files), _there(trees), _there([*folders, FOLDER]), _users())


def _data_dir(found: dict[Path, FoundFile]) -> Path:
    """Where `install` has put the store."""
    said = found[DATA_DIR_DROP_IN].content.decode("utf-8", "replace") if DATA_DIR_DROP_IN in found else ""
    return Path(said.partition("ReadWritePaths=")[2].strip() or DEFAULT_DATA_DIR)


def _there(folders: list[Path] | tuple[Path, ...]) -> tuple[Path, ...]:
    there = found_folders(_ROOT, folders)
    return tuple(folder for folder in folders if folder in there)


def _users() -> tuple[str, ...]:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return ()
    return (USER,)


def _outcome(done: bool, purge: bool) -> str:
    if not done:
        return "nothing to do"
    if purge:
        return "removed, with settings, certificates, tokens and the store"
    return f"removed; what is in {FOLDER} and the store stay, until: loiter service uninstall --purge"
