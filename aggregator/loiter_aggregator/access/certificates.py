"""Client certificates: what they say of their holder, and which of them are revoked."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from loiter.logs import fields
from loiter.text import printable
from loiter_aggregator.access.authorities import Issuer, issuer_of
from loiter_aggregator.access.authority import HOST_URI_PREFIX
from loiter_aggregator.access.files import Watch
from loiter_aggregator.config import TlsSettings

_log = logging.getLogger(__name__)

# More than hosts connect in a rush; each takes some hundred bytes.
_MAX_CACHED: Final = 50_000
_WARN_DAYS: Final = 14
# What the library raises where a certificate is not as it should be.
_UNREADABLE: Final = (
    ValueError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    TypeError,  # a name of a type that its attribute may not have
)


class RevocationFileError(Exception):
    """The file can not be read, or a line of it is no serial number. The message says which."""


class CertificateRefused(Exception):
    """A certificate that lets nobody in. The message says why, and is fit for whoever shows it."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a certificate that the handshake has verified says: names in lower case, host ids, and how long it lasts."""

    name: str
    hostnames: frozenset[str]
    host_ids: frozenset[str]
    serial: int
    expires: datetime
    issuer: Issuer


class ClientCertificates:
    """Reads the certificates of connections; each is parsed once, however often its holder connects."""

    def __init__(
        self,
        revoked: Path | None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the file of revoked serial numbers, if any. Raises RevocationFileError where it can not be read."""
        self._file = revoked
        self._clock = clock
        self._watch = Watch(() if revoked is None else (revoked,), monotonic)
        self._revoked = frozenset[int]() if revoked is None else load_revoked(revoked)
        self._parsed: OrderedDict[bytes, ClientCertificate] = OrderedDict()

    def read(self, pem: bytes) -> ClientCertificate:
        """Says whose it is. Raises CertificateRefused where it is revoked, or names no host."""
        digest = hashlib.sha256(pem).digest()
        certificate = self._parsed.get(digest)
        if certificate is None:
            certificate = self._parsed[digest] = parse(pem)
            if len(self._parsed) > _MAX_CACHED:
                self._parsed.popitem(last=False)
        self.recheck(certificate)
        return certificate

    def recheck(self, certificate: ClientCertificate) -> None:
        """Looks again at a certificate that was good before. Raises CertificateRefused where it is not any more."""
        self._refresh()
        if certificate.serial in self._revoked:
            raise CertificateRefused(f"the certificate of {certificate.name} is revoked")
        # At a handshake TLS sees to it; a stream may stay open for longer than its certificate is valid.
        if certificate.expires.timestamp() <= self._clock():
            raise CertificateRefused(
                f"the certificate of {certificate.name} expired on {certificate.expires:%Y-%m-%d %H:%M} UTC"
            )

    def _refresh(self) -> None:
        if self._file is None or not self._watch.changed():
            return
        try:
            self._revoked = load_revoked(self._file)
        except RevocationFileError as error:
            _log.error(
                "%s; what was revoked before stays so, and what was added since is not",
                error,
                extra=fields(file=self._file),
            )
            return
        facts = fields(file=self._file, revoked=len(self._revoked))
        _log.info("revoked certificates read again: %d in %s", len(self._revoked), self._file, extra=facts)


def parse(pem: bytes) -> ClientCertificate:
    """Reads a certificate. Raises CertificateRefused where it names no host, or can not be read.

    The names are those of the subject alternative name (RFC 9525); the common name is for people.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        issuer = issuer_of(certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hostnames = frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        hostnames, uris = frozenset(), []
    except _UNREADABLE as error:
        raise CertificateRefused(f"the certificate can not be read: {error}") from None
    host_ids = frozenset(uri.removeprefix(HOST_URI_PREFIX) for uri in uris if uri.startswith(HOST_URI_PREFIX))
    if not (hostnames or host_ids):
        raise CertificateRefused("the certificate names no host: it has no DNS name among its alternative names")
    return ClientCertificate(
        name=printable(min(hostnames or host_ids)),
        hostnames=hostnames,
        host_ids=host_ids,
        serial=certificate.serial_number,
        expires=certificate.not_valid_after_utc,
        issuer=issuer,
    )


def load_revoked(file: Path) -> frozenset[int]:
    """Reads serial numbers: one a line, hexadecimal, as `openssl x509 -serial` has it; what follows is for people.

    Raises:
        RevocationFileError: It can not be read, or a line begins otherwise.
    """
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise RevocationFileError(f"cannot read {file}: {error.strerror}") from None
    serials = set[int]()
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            serials.add(int(words[0].removeprefix("serial=").replace(":", ""), 16))
        except ValueError:
            raise RevocationFileError(f"{file}:{number}: {printable(words[0])!r} is not a serial number") from None
    return frozenset(serials)


def expiry(file: Path) -> datetime | None:
    """When the first certificate of a file that expires does so; None where that can not be read."""
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, *_UNREADABLE):
        return None
    return min((certificate.not_valid_after_utc for certificate in certificates), default=None)


def warn_of_expiry(tls: TlsSettings) -> None:
    """Logs a warning for each file of certificates that expires within two weeks, or has."""
    for file in (tls.certificate, tls.client_ca):
        expires = None if file is None else expiry(file)
        if expires is None:
            continue
        days = (expires - datetime.now(UTC)).days
        facts = fields(file=file, expires=expires.isoformat(), days=days)
        if days < 0:
            _log.error("%s has expired on %s", file, f"{expires:%Y-%m-%d}", extra=facts)
        elif days < _WARN_DAYS:
            _log.warning("%s expires on %s, in %d days", file, f"{expires:%Y-%m-%d}", days, extra=facts)
