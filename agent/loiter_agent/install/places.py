"""Where the service has its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from loiter.transport import Security
from loiter_agent.config import AgentSettings

UNIT: Final = "loiter-agent.service"
SHIPPED_COMMAND: Final = "/usr/bin/loiter-agent"

UNIT_FILE: Final = Path("/etc/systemd/system") / UNIT
BACKUP_FILE: Final = UNIT_FILE.with_suffix(".service.orig")
DROP_INS: Final = Path(f"{UNIT_FILE}.d")

# systemd finds there what LoadCredential= of the unit names, and gives it to the service alone.
CREDSTORE: Final = Path("/etc/credstore")
CREDSTORE_BY_SYSTEM: Final = Path("/usr/lib/tmpfiles.d/credstore.conf")

STATE: Final = Path("/var/lib/private/loiter-agent")
STATE_LINK: Final = Path("/var/lib/loiter-agent")

# By the name of the credential in the unit: the setting that would name a file instead.
CREDENTIALS: Final[Mapping[str, str]] = {
    "ca.pem": "tls.ca",
    "certificate.pem": "tls.certificate",
    "key.pem": "tls.key",
    "token": "token_file",
}


def credential(name: str) -> Path:
    """Where a credential of the service lies."""
    return CREDSTORE / f"loiter-agent.{name}"


def displaced(given: Collection[str]) -> tuple[str, ...]:
    """The credentials that go where these are given: an agent shows a certificate or a token, unless given both."""
    if "certificate.pem" in given and "token" not in given:
        return ("token",)
    return ("certificate.pem", "key.pem") if "token" in given and "certificate.pem" not in given else ()


def named_files(settings: AgentSettings) -> dict[str, Path | None]:
    """The files that settings name, by credential."""
    tls = settings.tls
    return dict(zip(CREDENTIALS, (tls.ca, tls.certificate, tls.key, settings.token_file), strict=True))


def security(settings: AgentSettings, files: Mapping[str, Path | None]) -> Security:
    """How the service would connect: with the files that settings name, else with these, by credential."""
    used = {name: named or files.get(name) for name, named in named_files(settings).items()}
    shown = Security(insecure=settings.insecure)
    return replace(
        shown,
        ca=used["ca.pem"],
        certificate=used["certificate.pem"],
        key=used["key.pem"],
        token_file=used["token"],
    )
