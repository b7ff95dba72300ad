"""TLS of the web page, by the certificate of the aggregator, read again when its files change."""

from __future__ import annotations

import logging
import ssl
import time
from typing import Final

from loiter.logs import fields
from loiter.transport import SecurityFileError
from loiter_aggregator.access.files import Watch
from loiter_aggregator.access.requirements import read_pair
from loiter_aggregator.config import TlsSettings

_log = logging.getLogger(__name__)

_PROTOCOLS: Final = ["http/1.1"]


def tls_context(tls: TlsSettings, address: str) -> ssl.SSLContext | None:
    """What serves each new connection with the files as they are then; None without a certificate.

    Files that can not be used, or do not fit each other, leave the old ones in force. `address` is for the log.

    Raises:
        SecurityFileError: The files can not be used to begin with.
    """
    if tls.certificate is None or tls.key is None:
        return None
    watch = Watch([tls.certificate, tls.key], time.monotonic)
    current = _load(tls)

    def on_hello(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called by OpenSSL at the beginning of each handshake, with a name or without."""
        nonlocal current
        if watch.changed():
            try:
                current = _load(tls)
            except SecurityFileError as error:
                # The key and the certificate are written one after the other: between, they do not fit.
                _log.error(
                    "%s; new connections to %s go on with the files read before",
                    error,
                    address,
                    extra=fields(address=address, reason=error),
                )
            else:
                _log.info("certificates read again for %s", address, extra=fields(address=address))
        connection.context = current

    outer = _load(tls)
    outer.sni_callback = on_hello  # of streams of asyncio, it is given an SSLObject
    return outer


def _load(tls: TlsSettings) -> ssl.SSLContext:
    assert tls.certificate is not None, "only asked where there is a certificate"
    read_pair(tls)  # says what is wrong in words for people
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_PROTOCOLS)
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise SecurityFileError(f"{tls.certificate} or {tls.key} can not be used: {error}") from None
    return context
