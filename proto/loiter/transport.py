"""How the agent and the command line connect to an aggregator: in plaintext, or by TLS; what they show of themselves.

TLS it is off this machine, unless `insecure`, and wherever a CA or a certificate of one's own is given. A token goes
with each call; off this machine it is never sent in plaintext unless `insecure` asks for it.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loiter.addresses import is_loopback
from loiter.logs import fields

if TYPE_CHECKING:
    import grpc

_log = logging.getLogger(__name__)

# A fixed beginning lets scanners for leaked secrets find it. The first part names the token, the second is its secret.
TOKEN_PATTERN: Final = r"loiter_([0-9a-f]{8})_([0-9a-f]{64})"  # noqa: S105 - no secret, the form of one

# Where distributions keep the authorities that the system trusts: Debian, Ubuntu, Alpine; Fedora, RHEL; SUSE.
_SYSTEM_ROOTS: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
)
_CERTIFICATE: Final = "a certificate in PEM"
_KEY: Final = "a private key in PEM, without a passphrase"


@dataclass(frozen=True, slots=True)
class Security:
    """Whom a client trusts, and what it shows of itself. Files are read anew for every connection."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    insecure: bool = False


class SecurityFileError(OSError):
    """A file can not be read, or does not hold what it should. The message says which."""


def wants_tls(server: str, security: Security) -> bool:
    """Whether a connection to HOST:PORT is by TLS."""
    if security.ca is not None or security.certificate is not None:
        return True
    return not (security.insecure or is_loopback(server))


def channel_credentials(security: Security) -> grpc.ChannelCredentials:
    """Reads the files that TLS needs. Raises SecurityFileError."""
    import grpc  # late: the diagnosis and the settings do without

    if (security.certificate is None) != (security.key is None):
        raise SecurityFileError("a certificate and its key come together, and one of them is not given")
    roots = security.ca or system_roots(os.environ)
    return grpc.ssl_channel_credentials(
        root_certificates=None if roots is None else read_certificates(roots),
        private_key=None if security.key is None else read_key(security.key),
        certificate_chain=None if security.certificate is None else read_certificates(security.certificate),
    )


def system_roots(environment: Mapping[str, str]) -> Path | None:
    """Finds the authorities that the system trusts; None where there are none, and gRPC's own have to do."""
    named = environment.get("SSL_CERT_FILE")  # as OpenSSL has it
    return Path(named) if named else next((file for file in _SYSTEM_ROOTS if file.exists()), None)


def read_certificates(file: Path) -> bytes:
    """Reads a file of certificates. Raises SecurityFileError."""
    return _read(file, rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----", _CERTIFICATE)


def read_key(file: Path) -> bytes:
    """Reads a file with a private key. Raises SecurityFileError."""
    return _read(file, rb"-----BEGIN (?:EC |RSA )?PRIVATE KEY-----", _KEY)


def read_token(file: Path) -> str:
    """Reads the token of a file's first line. Raises SecurityFileError.

    A file that everyone may read is used nevertheless, with a warning.
    """
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            line = stream.readline(1_000).decode("ascii", "replace").strip()
    except OSError as error:
        raise SecurityFileError(f"cannot read {file}: {error.strerror}") from None
    if re.fullmatch(TOKEN_PATTERN, line) is None:
        raise SecurityFileError(f"{file}: its first line is not a token; make one by 'loiter token add'")
    if mode & stat.S_IROTH:
        _warn_of_readers(file)
    return line


@cache
def _warn_of_readers(file: Path) -> None:
    """Once for each file: it is read for every connection."""
    _log.warning("everyone on this machine may read the token in %s; chmod 600 %s", file, file, extra=fields(file=file))


def token_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """The header that a token is sent in (RFC 6750, section 2.1)."""
    return (("authorization", f"Bearer {token}"),)


def _read(file: Path, begin: bytes, what: str) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SecurityFileError(f"cannot read {file}: {error.strerror}") from None
    if re.search(begin, content) is None:
        raise SecurityFileError(f"{file}: does not hold {what}")
    return content
