"""Says in plain words why a TLS connection to an aggregator can not be made, where gRPC says little.

gRPC is told by its peer that the connection was closed, and no more. So the handshake is done once again, by OpenSSL:
    python -m loiter.tls_diagnosis SERVER [--ca FILE] [--certificate FILE] [--key FILE] [--insecure]
prints a sentence, or nothing where nothing is wrong or nobody answers. The agent runs it as a process of its own: it
keeps `ssl` out of its memory.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from loiter.text import printable
from loiter.transport import Security, read_certificates, read_key, system_roots, wants_tls

_TIMEOUT_SECONDS: Final = 2.0

# X509_V_ERR_… of OpenSSL's include/openssl/x509_vfy.h.in.
_SIGNATURE_FAILURE: Final = 7
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_SELF_SIGNED: Final = 18
_NOT_FOR_CLIENTS: Final = 26
_UNKNOWN_ISSUER: Final = frozenset((2, _SIGNATURE_FAILURE, 19, 20, 21))
_WRONG_NAME: Final = frozenset((62, 64))


def diagnose(server: str, security: Security) -> str | None:
    """Tries to connect as a client with these files would, for a few seconds at most.

    Returns:
        What is wrong, or None where it is not to do with TLS, or not to be found out.
    """
    host, _, port = server.rpartition(":")
    address = (host.strip("[]"), int(port))
    try:
        if not wants_tls(server, security):
            return _speaks_tls(address)
        context = _client(security)
    except OSError as error:
        return _file_error(error)
    try:
        with socket.create_connection(address, _TIMEOUT_SECONDS) as raw:
            return _handshake(raw, address, context, security)
    except OSError:  # nobody there, or they hung up: gRPC's own words are as good
        return None


def pair_problem(certificate: Path, key: Path) -> str | None:
    """What is wrong with a certificate and its key by themselves; None where nothing is."""
    try:
        _load_own(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key)
    except OSError as error:
        return _file_error(error)
    return None


def authorities_problem(file: Path) -> str | None:
    """What is wrong with a file of authorities; None where nothing is."""
    try:
        read_certificates(file)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except OSError as error:
        return f"{file}: no certificate in PEM that can be read" if isinstance(error, ssl.SSLError) else str(error)
    return None


def validity(file: Path) -> tuple[datetime, datetime] | None:
    """From when until when the first certificate of a file is valid; None where it can not be read."""
    try:
        shown = _look_at(ssl.PEM_cert_to_DER_cert(_first(file.read_text())))
        begin, end = (ssl.cert_time_to_seconds(shown[key]) for key in ("notBefore", "notAfter"))
    except (OSError, ValueError, KeyError):
        return None
    return datetime.fromtimestamp(begin, UTC), datetime.fromtimestamp(end, UTC)


def _handshake(raw: socket.socket, address: tuple[str, int], context: ssl.SSLContext, security: Security) -> str | None:
    try:
        connection = context.wrap_socket(raw, server_hostname=address[0])
    except ssl.SSLCertVerificationError as error:
        return _servers_certificate(error, address, security)
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
            return "the server speaks no TLS: it listens in plaintext"
        return _own_certificate(security) if "ALERT" in (error.reason or "") else None
    with connection:
        try:
            # By TLS 1.3 a server sees the client's certificate after the client has done its part. A gRPC server that
            # is content sends its settings at once (RFC 9113, section 3.4).
            if connection.recv(1):
                return None
        except TimeoutError:
            return None
        except OSError:
            pass
    return _own_certificate(security)


def _client(security: Security) -> ssl.SSLContext:
    roots = security.ca or system_roots(os.environ)
    if roots is not None:
        read_certificates(roots)
    context = ssl.create_default_context(cafile=None if roots is None else str(roots))
    context.set_alpn_protocols(["h2"])
    if security.certificate is not None and security.key is not None:
        _load_own(context, security.certificate, security.key)
    return context


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    read_certificates(certificate)
    read_key(key)
    # The passphrase is one that nobody is there to be asked for.
    context.load_cert_chain(certificate, key, password="")


def _file_error(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return str(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key does not fit the certificate that it is given with"
    return f"a file of certificates or keys can not be used ({error.reason or 'not PEM'})"


def _speaks_tls(address: tuple[str, int]) -> str | None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(address, _TIMEOUT_SECONDS) as raw, context.wrap_socket(raw):
            return "the server speaks TLS, and it was asked in plaintext; name the authority that it is trusted by"
    except OSError:
        return None


def _servers_certificate(error: ssl.SSLCertVerificationError, address: tuple[str, int], security: Security) -> str:
    shown = _shown_by(address)
    code = error.verify_code
    whose = "the server's certificate"
    if code == _EXPIRED:
        return f"{whose} has expired{_date(shown, 'notAfter', ' on ')}"
    if code == _NOT_YET_VALID:
        return f"{whose} is not valid yet{_date(shown, 'notBefore', ', but from ')}"
    if code == _SELF_SIGNED:
        return f"{whose} is self-signed, and {_store(security)} does not hold it"
    if code in _UNKNOWN_ISSUER:
        return f"{whose} is issued by {_issuer(shown)}, an authority that {_store(security)} does not hold"
    if code in _WRONG_NAME:
        return f"{whose} is for {_names(shown)}, not for {address[0]}"
    return f"{whose} is not trusted: {error.verify_message}"


def _own_certificate(security: Security) -> str:
    """Finds out what a server has against our certificate, by verifying it ourselves as a server would."""
    if security.certificate is None or security.key is None:
        return "the server asks for a certificate, and none is configured: tls.certificate, tls.key"
    file = security.certificate
    roots = security.ca or system_roots(os.environ)
    try:
        code, shown = _verify_own(file, security.key, roots)
    except OSError as error:
        return _file_error(error)
    refused = "the server refuses this side's certificate"
    if code == _EXPIRED:
        return f"{refused}: {file} has expired{_date(shown, 'notAfter', ' on ')}"
    if code == _NOT_YET_VALID:
        return f"{refused}: {file} is not valid yet{_date(shown, 'notBefore', ', but from ')}"
    if code == _SELF_SIGNED:
        return f"{refused}: {file} is self-signed"
    if code in _UNKNOWN_ISSUER:
        return f"{refused}: {file} is issued by {_issuer(shown)}, an authority that {roots} does not hold"
    if code == _NOT_FOR_CLIENTS:
        return f"{refused}: {file} is not made for clients (extended key usage)"
    return f"{refused}; nothing is wrong with {file} here, and the server's log says more"


def _verify_own(certificate: Path, key: Path, roots: Path | None) -> tuple[int, dict[str, Any]]:
    """Shakes hands with ourselves in memory. Returns the code of the verification, 0 for good, and the certificate."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    _load_own(client, certificate, key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_own(server, certificate, key)
    server.verify_mode = ssl.CERT_REQUIRED
    if roots is None:
        server.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    else:
        server.load_verify_locations(roots)
    code = 0
    try:
        _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        code = error.verify_code
    return code, _look_at(ssl.PEM_cert_to_DER_cert(_first(certificate.read_text())))


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    """Returns the client's view of the server's certificate, empty where it did not verify it."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (one, other, one, other):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return dict(one.getpeercert() or {})


def _shown_by(address: tuple[str, int]) -> dict[str, Any]:
    """The certificate that a server shows, whatever is wrong with it; empty where it can not be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(address, _TIMEOUT_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=address[0]) as connection,
        ):
            return _look_at(connection.getpeercert(binary_form=True) or b"")
    except OSError:
        return {}


def _look_at(der: bytes) -> dict[str, Any]:
    """Parses a certificate. `ssl` has a parser, by the name of which its own tests call it, that takes a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as stream:
        try:
            stream.write(ssl.DER_cert_to_PEM_cert(der))
            stream.flush()
            return dict(ssl._ssl._test_decode_cert(stream.name))  # type: ignore[attr-defined]
        except (AttributeError, OSError, ValueError):
            return {}


def _first(text: str) -> str:
    begin, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
    return text[begin : end + len(ssl.PEM_FOOTER)]


def _date(certificate: dict[str, Any], key: str, before: str) -> str:
    if key not in certificate:
        return ""
    moment = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate[key]), UTC)
    return f"{before}{moment:%Y-%m-%d %H:%M} UTC"


def _issuer(certificate: dict[str, Any]) -> str:
    names = [value for part in certificate.get("issuer", ()) for key, value in part if key == "commonName"]
    return repr(printable(names[-1])) if names else "another"


def _names(certificate: dict[str, Any]) -> str:
    names = [printable(value) for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "no name at all"


def _store(security: Security) -> str:
    return str(security.ca or system_roots(os.environ) or "the system")


def main() -> None:
    """Prints the diagnosis."""
    parser = argparse.ArgumentParser(prog="python -m loiter.tls_diagnosis")
    parser.add_argument("server")
    for flag in ("--ca", "--certificate", "--key"):
        parser.add_argument(flag, type=Path)
    parser.add_argument("--insecure", action="store_true")
    options = parser.parse_args()
    found = diagnose(
        options.server,
        Security(options.ca, options.certificate, options.key, insecure=options.insecure),
    )
    if found is not None:
        sys.stdout.write(found + "\n")


if __name__ == "__main__":
    main()
