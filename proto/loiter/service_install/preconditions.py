"""What has to be so before a service can be installed or removed."""

from __future__ import annotations

import os

from loiter.service_install.errors import InstallError
from loiter.service_install.systemd import why_not


def require_root(command: str) -> None:
    """Raises InstallError for anybody else."""
    if os.geteuid() != 0:
        raise InstallError(f"only root can do this: sudo {command}")


def require_systemd(instead: str) -> None:
    """Raises InstallError where no unit can be installed; `instead` is what to do then."""
    reason = why_not()
    if reason is not None:
        raise InstallError(f"{reason}, so no service can be installed; {instead}")
