"""Steps that make what lets people and agents in: an authority, a certificate, tokens. None makes one a second time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from loiter.files import write_atomically
from loiter.service_install.errors import InstallError
from loiter.service_install.steps import Make, under
from loiter_aggregator.access import tokens
from loiter_aggregator.access.authority import AuthorityError, create_authority, open_authority
from loiter_aggregator.access.principal import Right
from loiter_aggregator.install.places import (
    AUTHORITY,
    AUTHORITY_CERTIFICATE,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    TRUST,
    credential,
)

AUTHORITY_DAYS: Final = 3_650
SERVER_DAYS: Final = 365
# A certificate that ends sooner is made anew.
_RENEW_WITHIN: Final = timedelta(days=30)


def make_authority() -> Make:
    """Makes a private authority, and a copy of its certificate to hand out."""
    made = tuple(AUTHORITY / name for name in ("ca.pem", "ca.key", "revoked.txt"))

    def make(root: Path) -> None:
        try:
            create_authority(under(root, AUTHORITY), "loiter", AUTHORITY_DAYS, datetime.now(UTC))
        except AuthorityError as error:
            raise InstallError(str(error)) from None

    return Make(f"make a private authority in {AUTHORITY}", made, make)


def make_server_certificate(names: Sequence[str]) -> Make:
    """Has the authority sign a certificate for these names, and gives it to the service."""
    copies = {credential("certificate.pem"): SERVER_CERTIFICATE, credential("key.pem"): SERVER_KEY}
    made = (SERVER_CERTIFICATE, SERVER_KEY, AUTHORITY / "issued.txt", *copies)

    def make(root: Path) -> None:
        try:
            authority = open_authority(under(root, AUTHORITY))
            authority.issue_server(names, SERVER_DAYS, datetime.now(UTC), force=True)
        except AuthorityError as error:
            raise InstallError(str(error)) from None
        for target, source in copies.items():
            write_atomically(under(root, target), under(root, source).read_bytes(), 0o600)

    return Make(f"make a certificate for {', '.join(names)} in {credential('certificate.pem')}", made, make)


def hand_out_authority() -> Make:
    """Copies the authority's certificate to where everyone may read it."""

    def make(root: Path) -> None:
        write_atomically(under(root, TRUST), under(root, AUTHORITY_CERTIFICATE).read_bytes(), 0o644)

    return Make(f"write {TRUST}, by which agents and readers trust the aggregator", (TRUST,), make)


def make_token(token_file: Path, name: str, right: Right, into: Path) -> Make:
    """Makes a token, which is kept as a hash in `token_file`, and writes it for root alone."""
    lock = token_file.with_name(f".{token_file.name}.lock")

    def make(root: Path) -> None:
        try:
            text = tokens.add(under(root, token_file), name, right, None, datetime.now(UTC))
        except tokens.TokenFileError as error:
            raise InstallError(str(error)) from None
        write_atomically(under(root, into), f"{text}\n".encode(), 0o600)

    return Make(f"make token {name}, which allows to {right.value}, in {into}", (into, token_file, lock), make)


def names_in(certificate: bytes) -> list[str]:
    """The DNS names and IP addresses of a certificate. Raises ValueError where it can not be read."""
    parsed = x509.load_pem_x509_certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def is_signed_by(certificate: bytes, authority: bytes) -> bool:
    """Whether an authority has signed a certificate; not where one can not be read."""
    try:
        signer = x509.load_pem_x509_certificate(authority)
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def names_to_certify(certificate: bytes | None, names: Sequence[str], now: datetime) -> list[str]:
    """The names to make a certificate for; none where the one that is there will do for a while.

    Raises:
        ValueError: It can not be read.
    """
    if certificate is None:
        return list(names)
    known = names_in(certificate)
    missing = [name for name in names if name.lower() not in known]
    expires = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    return [*known, *missing] if missing or expires - now < _RENEW_WITHIN else []
