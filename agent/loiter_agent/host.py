"""Says which host this is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from loiter.limits import HOST_ID_PATTERN
from loiter_agent.procfs import Procfs
from loiter_agent.sample import HostIdentity

HOST_ID_FILE: Final = "host-id"
_MACHINE_ID: Final = Path("/etc/machine-id")
# machine-id(5) asks applications not to disclose the id, but one derived from it under a key of their own.
_APPLICATION_KEY: Final = b"loiter host id"


def identify_host(
    procfs: Procfs,
    host_id: str | None = None,
    hostname: str | None = None,
    labels: tuple[tuple[str, str], ...] = (),
    machine_id: Path = _MACHINE_ID,
    state_dir: Path | None = None,
) -> HostIdentity:
    """Identifies this host; what is given is taken as it is.

    Without a machine-id, an id is drawn and kept in `state_dir`; with neither, the id is None.

    Raises:
        OSError: The id can not be kept in `state_dir`, or there is no procfs.
    """
    return HostIdentity(
        host_id=host_id or _from_machine_id(machine_id) or _from_state(state_dir),
        hostname=hostname or os.uname().nodename,
        boot_id=procfs.boot_id(),
        kernel_release=os.uname().release,
        labels=labels,
    )


def _from_machine_id(file: Path) -> str | None:
    try:
        text = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if len(text) != 32:  # empty before the first boot, "uninitialized" during it
        return None
    # Imported late: `run` says before by what code, and without a machine-id it takes neither.
    import hashlib
    import hmac

    return hmac.new(text.encode(), _APPLICATION_KEY, hashlib.sha256).hexdigest()[:32]


def _from_state(state_dir: Path | None) -> str | None:
    if state_dir is None:
        return None
    file = state_dir / HOST_ID_FILE
    try:
        kept = file.read_bytes().decode("ascii", "replace").strip()
    except FileNotFoundError:
        drawn = os.urandom(16).hex()
        state_dir.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(drawn + "\n", "ascii")
        fresh.rename(file)  # whole or not at all
        return drawn
    if re.fullmatch(HOST_ID_PATTERN, kept) is None:
        raise OSError(f"{file} holds no host id; remove it, and this host gets a new one")
    return kept
