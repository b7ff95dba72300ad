"""What TLS needs to listen, read again when its files change."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import grpc

from loiter.logs import fields
from loiter.transport import SecurityFileError, read_certificates
from loiter_aggregator.access.files import Watch
from loiter_aggregator.access.requirements import read_pair
from loiter_aggregator.config import TlsSettings

_log = logging.getLogger(__name__)


def server_credentials(tls: TlsSettings, address: str, *, ask_clients: bool) -> grpc.ServerCredentials | None:
    """Credentials that serve each new connection with the files as they are then; None without a certificate.

    Open streams are not touched. Files that can not be used, or do not fit each other, leave the old ones in force.
    `ask_clients` has clients show a certificate of `client_ca`, if that is set. `address` is for the log.

    Raises:
        SecurityFileError: The files can not be used to begin with.
    """
    if tls.certificate is None:
        return None
    ca = tls.client_ca if ask_clients else None
    watch = Watch([file for file in (tls.certificate, tls.key, ca) if file is not None], time.monotonic)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC's threads before each handshake."""
        if not watch.changed():
            return None
        try:
            configuration = _read(tls, ca)
        except SecurityFileError as error:
            # The key and the certificate are written one after the other: between, they do not fit.
            _log.error(
                "%s; new connections to %s go on with the files read before",
                error,
                address,
                extra=fields(address=address, reason=error),
            )
            return None
        _log.info("certificates read again for %s", address, extra=fields(address=address))
        return configuration

    return grpc.dynamic_ssl_server_credentials(
        _read(tls, ca),
        fetch,  # type: ignore[arg-type]  # None stands for "as before": see the documentation of gRPC
        require_client_authentication=ca is not None,
    )


def _read(tls: TlsSettings, ca: Path | None) -> grpc.ServerCertificateConfiguration:
    pair = read_pair(tls)
    assert pair is not None, "only asked where there is a certificate"
    chain, key = pair
    roots = None if ca is None else read_certificates(ca)
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=roots)
