"""What an aggregator needs before it listens: files that can be used, and, off this machine, locks on its doors."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from loiter.addresses import is_loopback
from loiter.settings import SettingsError
from loiter.transport import SecurityFileError, read_certificates, read_key
from loiter_aggregator.access.certificates import RevocationFileError, load_revoked
from loiter_aggregator.access.tokens import TokenFileError, load
from loiter_aggregator.config import AggregatorSettings, TlsSettings


def token_file(settings: AggregatorSettings) -> Path:
    """Where the tokens are."""
    return settings.tokens or settings.data_dir / "tokens.json"


def check(settings: AggregatorSettings) -> None:
    """Raises SettingsError where a file can not be used, or strangers could get in. The message says what to do."""
    if settings.http is not None and settings.http in (settings.listen, settings.listen_readers):
        raise SettingsError(f"{settings.http} is taken twice: the web page (http) needs an address of its own, or off")
    tls = settings.tls
    if (tls.certificate is None) != (tls.key is None):
        raise SettingsError("a certificate and its key come together: --certificate and --key")
    if tls.client_ca is not None and tls.certificate is None:
        raise SettingsError("--client-ca needs TLS, and there is no certificate to serve with: --certificate and --key")
    if tls.revoked is not None and tls.client_ca is None:
        raise SettingsError("--revoked needs --client-ca: without, no certificate is asked for")
    try:
        read_pair(tls)
        if tls.client_ca is not None:
            read_certificates(tls.client_ca)
        if tls.revoked is not None:
            load_revoked(tls.revoked)
        load(token_file(settings))
    except (SecurityFileError, RevocationFileError, TokenFileError) as error:
        raise SettingsError(str(error)) from None
    if not settings.insecure:
        _check_doors(settings, token_file(settings).exists())


def read_pair(tls: TlsSettings) -> tuple[bytes, bytes] | None:
    """Reads the certificate and the key of the aggregator; None without.

    Raises:
        SecurityFileError: They can not be used, or do not fit: gRPC would take them, and fail every handshake.
    """
    if tls.certificate is None or tls.key is None:
        return None
    chain, key = read_certificates(tls.certificate), read_key(tls.key)
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
        public = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SecurityFileError(f"{tls.certificate} or {tls.key} can not be read: {error}") from None
    if certificate.public_key() != public:
        raise SecurityFileError(f"{tls.key} is not the key of {tls.certificate}")
    return chain, key


def _check_doors(settings: AggregatorSettings, tokens: bool) -> None:
    """Off this machine, nobody gets in who shows nothing, and nobody listens in."""
    tls = settings.tls
    missing = []
    doors = (settings.listen, settings.listen_readers, settings.http)
    off = [address for address in doors if address is not None and not is_loopback(address)]
    if not off:
        return
    listen_off = settings.listen in off
    if tls.certificate is None:
        missing.append(
            "traffic is not encrypted. Give --certificate and --key; to make them:\n"
            "    loiter ca init /etc/loiter/ca && loiter ca server /etc/loiter/ca NAME-OF-THIS-MACHINE"
        )
    if listen_off and tls.client_ca is None and not tokens:
        missing.append(
            "anyone could report. Give --client-ca for agents with certificates, or make a token:\n"
            "    loiter token add agents --right ingest"
        )
    if not tokens:
        missing.append(
            f"anyone could read: there are no tokens in {token_file(settings)}. To make one:\n"
            "    loiter token add YOUR-NAME --right read"
        )
    if missing:
        reasons = "\n".join(f"- {reason}" for reason in missing)
        raise SettingsError(
            f"{off[0]} is off this machine, and it is not safe to listen there:\n{reasons}\n"
            "Or listen on 127.0.0.1, or give --insecure if the network is yours alone"
        )
