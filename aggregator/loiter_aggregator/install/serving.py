"""Tells whether an aggregator serves, as a client would find out."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TRY_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Door:
    """Where it listens and how: by TLS with a certificate, which is checked against `trust` where that is known."""

    listen: str
    certificate: Path | None = None
    trust: Path | None = None
    name: str | None = None

    @property
    def address(self) -> str:
        """Where to connect from this machine."""
        host, _, port = self.listen.rpartition(":")
        return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}.get(host, host) }:{port}"  # noqa: S104 - not bound to


def wait_until_serving(
    door: Door,
    timeout: float,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """Waits, for `timeout` seconds at most, until it serves. Returns why it does not; None where it does."""
    end = monotonic() + timeout
    while (problem := why_not_serving(door)) is not None and monotonic() < end:
        sleep(_AGAIN_SECONDS)
    return problem


def why_not_serving(door: Door) -> str | None:
    """Asks its health service; of a certificate that nobody here vouches for, whether it is shown."""
    if door.certificate is not None and door.trust is None:
        return _shows(door, door.certificate)
    try:
        with _channel(door) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TRY_SECONDS)
    except OSError as error:
        return f"{door.trust}: {error.strerror}"
    except grpc.RpcError as error:
        return f"{door.address} does not answer: {_short(error)}"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"{door.address} says that it is not serving"
    return None


def _channel(door: Door) -> grpc.Channel:
    if door.trust is None:
        return grpc.insecure_channel(door.address)
    # The name that others use may not lead here from here.
    options = (("grpc.ssl_target_name_override", door.name),) if door.name else ()
    return grpc.secure_channel(door.address, grpc.ssl_channel_credentials(door.trust.read_bytes()), options)


def _short(error: grpc.RpcError) -> str:
    """gRPC nests its reasons; the last one is the system's own."""
    if not isinstance(error, grpc.Call):  # every error of a call in progress is one
        return str(error)
    return (error.details() or error.code().name).rpartition(": ")[2]


def _shows(door: Door, certificate: Path) -> str | None:
    host, _, port = door.address.rpartition(":")
    try:
        wanted = certificate.read_text()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is compared, which says more
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host.strip("[]"), int(port)), _TRY_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=door.name) as connection,
        ):
            shown = ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")
    except OSError as error:
        return f"{door.address} does not answer: {error.strerror or error}"
    return None if shown.strip() in wanted else f"{door.address} shows another certificate than {certificate}"
