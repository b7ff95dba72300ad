"""Where the service has its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

UNIT: Final = "loiter-aggregator.service"
USER: Final = "loiter"
SHIPPED_COMMAND: Final = "/usr/bin/loiter"
SHIPPED_SYSUSERS: Final = "loiter-aggregator.sysusers"

FOLDER: Final = Path("/etc/loiter")
UNIT_FILE: Final = Path("/etc/systemd/system") / UNIT
BACKUP_FILE: Final = UNIT_FILE.with_suffix(".service.orig")
DROP_INS: Final = Path(f"{UNIT_FILE}.d")
DATA_DIR_DROP_IN: Final = DROP_INS / "data-dir.conf"
DEFAULT_DATA_DIR: Final = Path("/var/lib/loiter")
# All that loiter and its databases make in the folder of the store; that by which it is known comes last.
STORE_FILES: Final = (
    "web.key",
    "tokens.json",
    ".tokens.json.lock",
    "alerts.json",
    "reports.sqlite3-shm",
    "reports.sqlite3-wal",
    "reports.sqlite3",
    "loiter.duckdb.wal",
    "loiter.duckdb.wal.checkpoint",
    "loiter.duckdb.wal.recovery",
    "loiter.duckdb",
)
# What is put off there while a question is answered, the sealed hours, and what is kept of drawing charts.
STORE_FOLDERS: Final = ("loiter.duckdb.tmp", "sealed", "cache/matplotlib")

# systemd finds there what LoadCredential= of the unit names, and gives it to the service alone.
CREDSTORE: Final = Path("/etc/credstore")
CREDSTORE_BY_SYSTEM: Final = Path("/usr/lib/tmpfiles.d/credstore.conf")

# By the name of the credential in the unit: the setting that would name a file instead.
CREDENTIALS: Final[Mapping[str, str]] = {
    "certificate.pem": "tls.certificate",
    "key.pem": "tls.key",
    "client-ca.pem": "tls.client_ca",
}

# The private authority, which nobody but root may look into, and what is handed out.
AUTHORITY: Final = FOLDER / "ca"
AUTHORITY_CERTIFICATE: Final = AUTHORITY / "ca.pem"
SERVER_CERTIFICATE: Final = AUTHORITY / "aggregator.pem"
SERVER_KEY: Final = AUTHORITY / "aggregator.key"
AUTHORITY_REVOKED: Final = AUTHORITY / "revoked.txt"
TRUST: Final = FOLDER / "ca.pem"
# The list of the authority, where the service can read it.
REVOKED: Final = FOLDER / "revoked.txt"
REVOKED_LOCK: Final = FOLDER / ".revoked.txt.lock"
INGEST_TOKEN: Final = FOLDER / "ingest.token"
READ_TOKEN: Final = FOLDER / "read.token"
FLEET_TOKEN: Final = "fleet"  # noqa: S105 - the name of one
OPERATOR_TOKEN: Final = "operator"  # noqa: S105 - the name of one


def credential(name: str) -> Path:
    """Where a credential of the service lies."""
    return CREDSTORE / f"loiter-aggregator.{name}"
