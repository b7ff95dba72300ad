"""A private certificate authority in a folder, for those who have no PKI: the root, and what it signs.

Everything is EC P-256 (FIPS 186-5), signed with ECDSA and SHA-256, after the profile of RFC 5280. The root signs leaves
itself (path length 0), and what a leaf is for stands in its extended key usage: an agent's certificate can not serve,
an aggregator's can not report. There are no name constraints: whoever trusts this root trusts it for loiter alone.

The folder holds `ca.pem` and `ca.key`, `aggregator.pem` and `.key`, `agents/NAME.pem` and `.key`, `issued.txt`, a line
for each certificate that was ever signed, and `revoked.txt`, the serial numbers that an aggregator is to refuse.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from loiter.files import write_atomically
from loiter_aggregator.access.files import locked

HOST_URI_PREFIX: Final = "urn:loiter:host:"

# A clock that is behind the authority's must not take a new certificate for one of the future.
_BACKDATED: Final = timedelta(hours=1)
_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")


class AuthorityError(Exception):
    """The authority can not do what is asked. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, where they were written, and until when it is valid."""

    certificate: Path
    key: Path
    expires: datetime


class Authority:
    """The authority of one folder."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Takes what `open_authority` or `create_authority` read or made."""
        self._folder = folder
        self._certificate = certificate
        self._key = key

    def issue_server(self, names: Sequence[str], days: int, now: datetime, *, force: bool = False) -> Issued:
        """Signs a certificate for an aggregator that is reached by these DNS names and IP addresses."""
        extension = x509.SubjectAlternativeName([_server_name(name) for name in names])
        return self._issue(
            self._folder / "aggregator", names[0].lower(), extension, ExtendedKeyUsageOID.SERVER_AUTH, days, now, force
        )

    def issue_agent(
        self, hostname: str, host_id: str | None, days: int, now: datetime, *, force: bool = False
    ) -> Issued:
        """Signs a certificate for the agent of one host."""
        name = _checked(hostname).lower()
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if host_id is not None:
            names.append(x509.UniformResourceIdentifier(HOST_URI_PREFIX + host_id))
        folder = self._folder / "agents"
        folder.mkdir(exist_ok=True)
        extension = x509.SubjectAlternativeName(names)
        return self._issue(folder / name, name, extension, ExtendedKeyUsageOID.CLIENT_AUTH, days, now, force)

    def _issue(
        self,
        stem: Path,
        name: str,
        names: x509.SubjectAlternativeName,
        usage: x509.ObjectIdentifier,
        days: int,
        now: datetime,
        force: bool,
    ) -> Issued:
        certificate_file, key_file = Path(f"{stem}.pem"), Path(f"{stem}.key")
        _refuse_to_overwrite((certificate_file, key_file), force)
        # What outlives the authority would be refused from that day on, and say another date.
        expires = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        if expires <= now:
            raise AuthorityError(f"{self._folder / 'ca.pem'} has expired; make a new authority")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(name, self._certificate.subject, key, now, expires)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        # Before the certificate: what is not known to be issued can not be revoked.
        _append(self._folder / "issued.txt", f"{certificate.serial_number:x} {name} {now:%Y-%m-%d}\n")
        write_atomically(key_file, _key_pem(key), 0o600)
        write_atomically(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return Issued(certificate_file, key_file, expires)


def create_authority(folder: Path, name: str, days: int, now: datetime, *, force: bool = False) -> Issued:
    """Makes a new authority in a folder. Raises AuthorityError where there is one, OSError where it can not write."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate_file, key_file = folder / "ca.pem", folder / "ca.key"
    _refuse_to_overwrite((certificate_file, key_file), force)
    key = ec.generate_private_key(ec.SECP256R1())
    expires = now + timedelta(days=days)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(name, subject, key, now, expires)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign=False), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_atomically(key_file, _key_pem(key), 0o600)
    write_atomically(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    revoked = folder / "revoked.txt"
    if not revoked.exists():  # so that the aggregator can be told of it before there is a need
        write_atomically(revoked, b"", 0o644)
    return Issued(certificate_file, key_file, expires)


def open_authority(folder: Path) -> Authority:
    """Opens the authority of a folder. Raises AuthorityError where there is none, or it is damaged."""
    certificate_file, key_file = folder / "ca.pem", folder / "ca.key"
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except FileNotFoundError as error:
        raise AuthorityError(f"{error.filename} is missing; make an authority by: loiter ca init {folder}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError(f"{certificate_file} or {key_file} can not be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise AuthorityError(f"{key_file} is not the key of {certificate_file}")
    return Authority(folder, certificate, key)


def revoke(folder: Path, hostname: str, copy: Path | None = None) -> int:
    """Has every certificate that was signed for a host refused from now on, and returns how many that were.

    They are added to the list of the authority, and to `copy`, which is the list that an aggregator reads.
    One that is signed afterwards is good. Raises AuthorityError where none was ever signed for that name.
    """
    name = _checked(hostname).lower()
    issued, revoked = folder / "issued.txt", folder / "revoked.txt"
    try:
        lines = [line.split() for line in issued.read_text().splitlines()]
    except FileNotFoundError:
        raise AuthorityError(f"{folder} has issued no certificate") from None
    serials = [words[0] for words in lines if len(words) > 1 and words[1] == name]
    if not serials:
        raise AuthorityError(f"{folder} has issued no certificate for {name}")
    if copy is not None:
        _add_revoked(copy, serials, name)
    return _add_revoked(revoked, serials, name)


def _add_revoked(revoked: Path, serials: list[str], name: str) -> int:
    with locked(revoked):
        text = revoked.read_text() if revoked.exists() else ""
        known = {line.split()[0] for line in text.splitlines() if line.split()}
        new = [serial for serial in serials if serial not in known]
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        text += "".join(f"{serial} {name} {day}\n" for serial in new)
        write_atomically(revoked, text.encode(), 0o644)
    return len(new)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, expires: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        # A common name holds 64 characters (RFC 5280, appendix A.1); it is for people, the SAN decides.
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    """That of a leaf, which signs handshakes, or that of the root, which signs certificates."""
    return x509.KeyUsage(
        digital_signature=sign,
        key_cert_sign=not sign,
        crl_sign=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _server_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        wildcard = "*." if name.startswith("*.") else ""
        return x509.DNSName(wildcard + _checked(name.removeprefix("*.")).lower())


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise AuthorityError(f"{name!r} is not the name of a host: letters, digits, '.', '-' and '_'")
    return name


def _refuse_to_overwrite(files: Sequence[Path], force: bool) -> None:
    for file in files:
        if file.exists() and not force:
            raise AuthorityError(f"{file} is there already; --force replaces it")


def _append(file: Path, line: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(line)
