"""What decides who gets in: tokens, the file of tokens, certificates, and the file of those that are revoked."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path
from typing import Final

from fuzz.oracle import is_printable_refusal, is_refusal
from fuzz.scratch import scratch
from loiter.transport import SecurityFileError, read_token
from loiter_aggregator.access.certificates import (
    CertificateRefused,
    RevocationFileError,
    load_revoked,
    parse,
)
from loiter_aggregator.access.principal import Right
from loiter_aggregator.access.tokens import TokenFileError, TokenRefused, TokenStore, load

# The SHA-256 of the secret "0…0", 64 digits.
TOKEN: Final = "loiter_0123abcd_" + "0" * 64
TOKEN_FILE: Final = (
    b'{"version": 1, "tokens": [{"id": "0123abcd", "name": "alice", "right": "read", "sha256": '
    b'"60e05bd1b195af2f94112fa7197a5c88289058840ce7c6df9693756bc6250f55", "created": "2026-01-01T00:00:00+00:00", '
    b'"expires": null, "revoked": null}]}'
)


def _file(data: bytes) -> Path:
    file = scratch() / "input"
    if not file.exists():
        file.touch(0o600)
    file.write_bytes(data)
    return file


@cache
def _store() -> TokenStore:
    file = scratch() / "tokens.json"
    file.write_bytes(TOKEN_FILE)
    return TokenStore(file, monotonic=lambda: 0.0)


def token(data: bytes) -> None:
    """What a caller shows: the one token that there is, or it is refused by TokenRefused, which has nothing of it."""
    text = data.decode("utf-8", "replace")
    try:
        found = _store().check(text)
    except TokenRefused as error:
        is_printable_refusal(error)
        refusal = str(error)
    else:
        assert text == TOKEN
        assert found.right is Right.READ
        refusal = ""
    # A guess that is nearly right must not end up in a log.
    assert len(text) < 20 or text not in refusal


def token_file(data: bytes) -> None:
    """The file of tokens, and a file that an agent reads its own from."""
    file = _file(data)
    try:
        tokens = load(file)
    except TokenFileError as error:
        is_refusal(error)
    else:
        assert len({one.id for one in tokens}) == len(tokens)
    try:
        assert read_token(file).startswith("loiter_")
    except SecurityFileError as error:
        is_refusal(error)


def certificate(data: bytes) -> None:
    """A certificate in PEM, or the bytes that PEM wraps. It is refused by CertificateRefused, or names a host."""
    try:
        found = parse(data if b"-" in data[:1] else ssl.DER_cert_to_PEM_cert(data).encode())
    except CertificateRefused as error:
        is_refusal(error)
        return
    assert found.hostnames or found.host_ids
    assert found.name.isprintable()


def revoked_file(data: bytes) -> None:
    """The file of serial numbers that are revoked."""
    try:
        serials = load_revoked(_file(data))
    except RevocationFileError as error:
        is_refusal(error)
        return
    assert all(isinstance(serial, int) for serial in serials)
