"""Certificates of every kind, good and bad, in a folder: by the authority of `loiter ca` and without one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loiter.transport import Security
from loiter_aggregator.access.authority import Authority, Issued, create_authority, open_authority
from loiter_aggregator.config import TlsSettings

LONG_AGO = timedelta(days=400)


class Pki:
    """An authority with a certificate for the loopback addresses."""

    def __init__(self, folder: Path, name: str = "loiter") -> None:
        """Makes it."""
        self.folder = folder
        create_authority(folder, name, 3_650, datetime.now(UTC))
        self.authority: Authority = open_authority(folder)
        self.server = self.authority.issue_server(["localhost", "127.0.0.1"], 365, datetime.now(UTC))

    @property
    def ca(self) -> Path:
        """What others trust it by."""
        return self.folder / "ca.pem"

    @property
    def tls(self) -> TlsSettings:
        """What an aggregator is set to that asks agents for certificates of this authority."""
        return TlsSettings(self.server.certificate, self.server.key, self.ca, self.folder / "revoked.txt")

    def renew_server(self, *names: str, ago: timedelta = timedelta()) -> Issued:
        """Replaces the certificate of the server. One of long ago has expired."""
        return self.authority.issue_server(names or ["localhost"], 365, datetime.now(UTC) - ago, force=True)

    def agent(self, hostname: str, host_id: str | None = None, ago: timedelta = timedelta()) -> Security:
        """What an agent is set to that trusts this authority and has a certificate of it."""
        issued = self.authority.issue_agent(hostname, host_id, 365, datetime.now(UTC) - ago, force=True)
        return Security(self.ca, issued.certificate, issued.key)


def self_signed(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that nobody vouches for but itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / f"self-signed-{name}.pem", folder / f"self-signed-{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file
