"""`loiter service uninstall`."""

from __future__ import annotations

import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click

from loiter.service_install.errors import InstallError
from loiter.service_install.look import files_in, found_files, found_folders
from loiter.service_install.plan import Removal, apply_forward, describe, removal_plan
from loiter.service_install.preconditions import require_root, require_systemd
from loiter.service_install.systemd import service_state
from loiter.service_install.units import is_ours, packaged
from loiter.settings import load
from loiter_aggregator.config import DEFAULT_FILE, AggregatorSettings
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
    REVOKED,
    REVOKED_LOCK,
    STORE_FILES,
    STORE_FOLDERS,
    TRUST,
    UNIT,
    UNIT_FILE,
    USER,
    credential,
)
from loiter_aggregator.install.user import is_service_user, user_id

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
    kept = (*map(credential, CREDENTIALS), TRUST, REVOKED, REVOKED_LOCK, INGEST_TOKEN, READ_TOKEN, DEFAULT_FILE)
    drop_ins = list(files_in(_ROOT, DROP_INS))
    found = found_files(_ROOT, [UNIT_FILE, CREDSTORE_BY_SYSTEM, *kept, *drop_ins])
    if UNIT_FILE in found and not purge and not is_ours(found[UNIT_FILE].content):
        raise InstallError(
            f"{UNIT_FILE} was not written by 'loiter service install', or was changed since; remove it by hand, or "
            "with all the rest by --purge"
        )
    unit = [file for file in (UNIT_FILE,) if file in found]
    if not purge:
        own = [file for file in drop_ins if file == DATA_DIR_DROP_IN]
        return Removal(UNIT, (*unit, *own), folders=_there([DROP_INS]))
    data_dir = load(AggregatorSettings, DEFAULT_FILE if DEFAULT_FILE in found else None, {}, {}).data_dir
    store = store_removal(dict.fromkeys((data_dir, DEFAULT_DATA_DIR)), user_id())
    # The settings, which say where the store is, go after it: a second run finds what the first did not come to.
    files = (*store.files, *unit, *drop_ins, *(file for file in kept if file in found))
    folders = [DROP_INS, FOLDER] if CREDSTORE_BY_SYSTEM in found else [DROP_INS, CREDSTORE, FOLDER]
    trees = (*store.trees, *_there([AUTHORITY]))
    return Removal(UNIT, files, trees, (*store.folders, *_there(folders)), _users())


def store_removal(folders: Iterable[Path], user: int | None) -> Removal:
    """What of these folders is the store: the files that loiter makes, and the folder if nothing else is in it.

    The folder by default, which systemd makes, goes with all that is in it. A folder that has no store and does not
    belong to `user` is left alone. Links to folders are followed, and go too.
    """
    files: list[Path] = []
    trees: list[Path] = []
    left: list[Path] = []
    for folder in folders:
        real = folder.resolve()
        if folder == DEFAULT_DATA_DIR and not folder.is_symlink():
            trees += _there([folder])
        elif real.is_dir() and ((real / STORE_FILES[-1]).exists() or real.stat().st_uid == user):
            files += [file for file in (real / name for name in STORE_FILES) if file.exists()]
            trees += _there([real / name for name in STORE_FOLDERS])
            left += [*_there([real / "cache"]), real]
        if folder.is_symlink():
            files.append(folder)
    return Removal(UNIT, tuple(files), tuple(trees), tuple(left))


def _there(folders: list[Path]) -> tuple[Path, ...]:
    there = found_folders(_ROOT, folders)
    return tuple(folder for folder in folders if folder in there)


def _users() -> tuple[str, ...]:
    """The user, unless it is a person's."""
    try:
        return (USER,) if is_service_user(pwd.getpwnam(USER)) else ()
    except KeyError:
        return ()


def _outcome(done: bool, purge: bool) -> str:
    if not done:
        return "nothing to do"
    theirs = f"\n{BACKUP_FILE} is the unit that was there before" if BACKUP_FILE.exists() else ""
    if purge:
        return f"removed, with settings, certificates, tokens and the store{theirs}"
    return (
        f"removed; what is in {FOLDER}, what {CREDSTORE} has of it and the store stay, until: loiter service uninstall "
        f"--purge{theirs}"
    )
