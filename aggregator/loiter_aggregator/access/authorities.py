"""The authorities that agents' certificates are trusted by, followed while streams are open.

TLS looks at them in the handshake and never again. So where one is removed, the streams that it vouched for are ended;
whoever is trusted all the same, as by an intermediate certificate that only the handshake shows, connects again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from loiter.logs import fields
from loiter_aggregator.access.files import Watch

_log = logging.getLogger(__name__)

# The issuer's name in DER, and the identifier of its key where that is said (RFC 5280, 4.2.1.1 and 4.2.1.2).
Issuer = tuple[bytes, bytes | None]


class Authorities:
    """Those in the file of `tls.client_ca`, read again when it changes."""

    def __init__(self, file: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Reads the file. Raises OSError or ValueError where that can not be done."""
        self._file = file
        self._watch = Watch((file,), monotonic)
        self._subjects = _subjects(file)
        self._generation = 0

    @property
    def generation(self) -> int:
        """How often they have changed: what a stream notes as it begins."""
        self._refresh()
        return self._generation

    def vouch_for(self, issuer: Issuer, since: int) -> bool:
        """Whether a stream that began in a generation may go on, with a certificate of that issuer."""
        if since == self.generation:
            return True
        name, key = issuer
        return any(subject == name and (key is None or own in (None, key)) for subject, own in self._subjects)

    def _refresh(self) -> None:
        if not self._watch.changed():
            return
        try:
            self._subjects = _subjects(self._file)
        except (OSError, ValueError) as error:
            _log.error(
                "%s can not be read again (%s); the authorities of before stay in force",
                self._file,
                error,
                extra=fields(file=self._file, reason=error),
            )
            return
        self._generation += 1
        facts = fields(file=self._file, authorities=len(self._subjects))
        _log.info("authorities of agents read again: %d in %s", len(self._subjects), self._file, extra=facts)


def issuer_of(certificate: x509.Certificate) -> Issuer:
    """Who has issued a certificate. Raises ValueError where it can not be read."""
    try:
        key = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        key = None
    return certificate.issuer.public_bytes(), key


def _subjects(file: Path) -> list[Issuer]:
    return [(one.subject.public_bytes(), _key_of(one)) for one in x509.load_pem_x509_certificates(file.read_bytes())]


def _key_of(authority: x509.Certificate) -> bytes | None:
    try:
        return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None
