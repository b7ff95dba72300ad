"""The user of the service, and how it is told from a person of that name."""

from __future__ import annotations

import pwd
from typing import Final

from loiter_aggregator.install.places import DEFAULT_DATA_DIR, USER

# As in deploy/systemd/loiter-aggregator.sysusers.
_DESCRIPTION: Final = "loiter aggregator"
_FIRST_OF_PEOPLE: Final = 1_000  # systemd-sysusers(8), login.defs(5)


def user_id() -> int | None:
    """The ID of the user; None where there is none."""
    try:
        return pwd.getpwnam(USER).pw_uid
    except KeyError:
        return None


def is_service_user(entry: pwd.struct_passwd) -> bool:
    """Whether systemd-sysusers made this user for the service."""
    return (
        entry.pw_uid < _FIRST_OF_PEOPLE
        and (entry.pw_gecos, entry.pw_dir) == (_DESCRIPTION, str(DEFAULT_DATA_DIR))
        and entry.pw_shell.endswith("/nologin")
    )
