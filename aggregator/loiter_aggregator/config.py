"""The aggregator's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loiter.limits import DEFAULT_SERVER
from loiter.settings import address, boolean, duration, matching, one_of, path, setting

DEFAULT_FILE: Final = Path("/etc/loiter/aggregator.toml")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Table `store`: what is kept, and with how much memory."""

    retention: float = setting(86_400.0, duration(60, 366 * 86_400), "how long samples are kept")
    memory_limit: str = setting(
        "2GB", matching(r"[0-9]{1,6}(MB|GB)", "a size such as 512MB or 2GB"), "the most memory the store may use"
    )


@dataclass(frozen=True, slots=True)
class AggregatorSettings:
    """All settings of the aggregator."""

    listen: str = setting(DEFAULT_SERVER, address, "where agents and readers connect")
    data_dir: Path = setting(Path("/var/lib/loiter"), path, "where the store is kept")
    insecure: bool = setting(False, boolean, "allow listening without encryption on an address off this machine")
    log_level: str = setting("info", one_of("debug", "info", "warning", "error"), "least severe message to log")
    store: StoreSettings = field(default_factory=StoreSettings)
