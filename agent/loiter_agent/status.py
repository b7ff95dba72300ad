"""What a running agent says of itself to programs on its host: `status.json` in the folder that systemd made for it.

It lies on a tmpfs, is written anew after each tick and each change of the connection, and may be read by everyone.
`loiter-agent install` tells by it that a report was acknowledged, and `loiter-agent check` shows it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

FILE: Final = "status.json"
# Where the unit that comes with loiter has it.
INSTALLED_FILE: Final = Path("/run/loiter-agent", FILE)

_MAX_BYTES: Final = 64_000


@dataclass(frozen=True, slots=True)
class Status:
    """The agent as it is. Times are RFC 3339 in UTC; None stands for unknown or none."""

    version: str
    pid: int
    updated_at: str
    interval_seconds: float  # between two ticks now: longer than the setting where the budget has it so
    ticks: int  # that were completed in this run
    last_tick_at: str | None  # that was completed in this run
    server: str | None  # that it reports to, or tried last
    connected: bool  # the server has acknowledged a report on the stream that is open
    error: str | None  # why it is not connected, once a try has failed
    acknowledged_reports: int  # in this run
    last_acknowledged_at: str | None  # in this run
    waiting_reports: int  # in the spool, for their acknowledgement
    lost_reports: int  # given up before they were acknowledged, since the spool was made
    left_out: str | None  # what the budget leaves out: the name of the step

    @classmethod
    def read(cls, file: Path) -> Status:
        """Reads what `write` wrote, also that of another version. Raises OSError, and ValueError for anything else.

        The file is the service's, and whoever reads it may be root: nothing else is followed, or waited for.
        """
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as content:
            if not stat.S_ISREG(os.fstat(content.fileno()).st_mode):
                raise ValueError(f"{file}: not a file")
            data = content.read(_MAX_BYTES)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ValueError(f"{file}: not the status of an agent")
        return cls(**{name: _read(file, document, name, kinds) for name, kinds in _KINDS.items()})

    def write(self, file: Path) -> None:
        """Puts it in the place of the file, so that whoever reads finds one or the other. Raises OSError."""
        beside = file.with_name(f".{file.name}.new")
        beside.write_text(json.dumps(asdict(self)) + "\n")
        beside.chmod(0o644)
        beside.replace(file)


_TEXT: Final = (str,)
_TEXT_OR_NONE: Final = (str, type(None))
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "version": _TEXT,
    "pid": (int,),
    "updated_at": _TEXT,
    "interval_seconds": (float, int),
    "ticks": (int,),
    "last_tick_at": _TEXT_OR_NONE,
    "server": _TEXT_OR_NONE,
    "connected": (bool,),
    "error": _TEXT_OR_NONE,
    "acknowledged_reports": (int,),
    "last_acknowledged_at": _TEXT_OR_NONE,
    "waiting_reports": (int,),
    "lost_reports": (int,),
    "left_out": _TEXT_OR_NONE,
}
assert list(_KINDS) == [field.name for field in fields(Status)], "each has its kinds"


def status_file(environment: Mapping[str, str]) -> Path | None:
    """Where an agent with this environment is to write: in its RuntimeDirectory (systemd.exec(5)), or nowhere."""
    folder = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(folder, FILE) if os.path.isabs(folder) else None


def timestamp(seconds: float) -> str:
    """A time of day, in seconds since 1970, as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def headline(status: Status) -> str:
    """The agent in a line for people, for `systemctl status`."""
    waiting = f"{status.waiting_reports:,} waiting"
    if status.connected:
        said = f"reporting to {status.server}, {status.acknowledged_reports:,} reports acknowledged, {waiting}"
    elif status.error is not None:
        said = f"cannot report to {status.server} ({status.error}); {waiting}"
    elif status.server is not None:
        said = f"connecting to {status.server}; {waiting}"
    else:
        said = f"sampling; {waiting}"
    return said if status.left_out is None else f"{said}; over its budget: {status.left_out}"


def _read(file: Path, document: dict[str, Any], name: str, kinds: tuple[type, ...]) -> Any:
    value = document.get(name)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{file}: {name} is missing, or is not what an agent writes")
    return value
