"""`loiter-agent uninstall`, from its flags to its exit status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from loiter.service_install.errors import InstallError
from loiter.service_install.look import files_in, found_files, found_folders
from loiter.service_install.plan import Removal, apply_forward, describe, removal_plan
from loiter.service_install.preconditions import require_root, require_systemd
from loiter.service_install.systemd import service_state
from loiter.service_install.units import packaged
from loiter_agent.commands.install import OPT_INS
from loiter_agent.config import DEFAULT_FILE
from loiter_agent.install.places import (
    BACKUP_FILE,
    CREDENTIALS,
    CREDSTORE,
    CREDSTORE_BY_SYSTEM,
    DROP_INS,
    STATE,
    STATE_LINK,
    UNIT,
    UNIT_FILE,
    credential,
)
from loiter_agent.install.removal import removal

_ROOT: Final = Path("/")


def uninstall(*, purge: bool, dry_run: bool) -> None:
    """Removes the service. Exits with 1 where it can not be done."""
    try:
        require_root("loiter-agent uninstall")
        require_systemd("there is nothing to remove")
        if packaged(_ROOT, UNIT) is not None:
            raise InstallError(
                "the service belongs to a package; remove it by: apt-get remove loiter-agent, or with its settings and "
                "what it keeps: apt-get purge loiter-agent"
            )
        gone = _removal(purge)
        steps = removal_plan(gone, service_state(UNIT))
        if dry_run:
            print(describe(steps) or "nothing to do")
            return
        apply_forward(steps, _ROOT, print)
    except InstallError as error:
        print(f"loiter-agent: {error}", file=sys.stderr)
        sys.exit(1)
    print(_outcome(bool(steps), purge))


def _removal(purge: bool) -> Removal:
    known = (UNIT_FILE, DEFAULT_FILE, CREDSTORE_BY_SYSTEM, *map(credential, CREDENTIALS))
    found = found_files(_ROOT, [*known, *files_in(_ROOT, DROP_INS)])
    folders = found_folders(_ROOT, (DROP_INS, CREDSTORE, STATE, STATE_LINK, DEFAULT_FILE.parent))
    links = frozenset(link for link in (STATE_LINK,) if link.is_symlink())
    drop_ins = {f"{name}.conf" for name in OPT_INS}
    return removal(found, folders, links, drop_ins, purge)


def _outcome(done: bool, purge: bool) -> str:
    if not done:
        return "nothing to do"
    theirs = f"\n{BACKUP_FILE} is the unit that was there before" if BACKUP_FILE.exists() else ""
    if purge:
        return f"removed, with settings and all that it kept{theirs}"
    left = [str(path) for path in (DEFAULT_FILE, STATE, *map(credential, CREDENTIALS)) if path.exists()]
    stay = f"; {', '.join(left)} stay, until: loiter-agent uninstall --purge" if left else ""
    return f"removed{stay}{theirs}"
