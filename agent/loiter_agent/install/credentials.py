"""Reads and checks the files that an agent shows and trusts, before they are copied to where the service finds them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from loiter.service_install.errors import InstallError
from loiter.tls_diagnosis import authorities_problem, pair_problem, validity
from loiter.transport import SecurityFileError, read_certificates, read_key, read_token


def read_credentials(files: Mapping[str, Path | None], now: datetime | None = None) -> dict[str, bytes]:
    """Reads the files that are given, by credential. Raises InstallError where one can not be used."""
    ca, certificate, key, token = (files.get(name) for name in ("ca.pem", "certificate.pem", "key.pem", "token"))
    if (certificate is None) != (key is None):
        raise InstallError("--certificate and --key come together: give both or neither")
    read: dict[str, bytes] = {}
    try:
        if ca is not None:
            read["ca.pem"] = read_certificates(ca)
            _refuse(authorities_problem(ca))
            _check_validity(ca, now)
        if certificate is not None and key is not None:
            read["certificate.pem"], read["key.pem"] = read_certificates(certificate), read_key(key)
            if problem := pair_problem(certificate, key):
                raise InstallError(f"{certificate}, {key}: {problem}")
            _check_validity(certificate, now)
        if token is not None:
            read["token"] = f"{read_token(token)}\n".encode()
    except SecurityFileError as error:
        raise InstallError(str(error)) from None
    return read


def _check_validity(file: Path, now: datetime | None) -> None:
    period = validity(file)
    now = now or datetime.now(UTC)
    if period is None:
        return
    if now >= period[1]:
        raise InstallError(f"{file} has expired on {period[1]:%Y-%m-%d %H:%M} UTC; have a new one made")
    if now < period[0]:
        raise InstallError(f"{file} is not valid before {period[0]:%Y-%m-%d %H:%M} UTC; is this host's clock right?")


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise InstallError(problem)
