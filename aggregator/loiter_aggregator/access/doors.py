"""The addresses that the aggregator listens on, each with what it asks of those who come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from loiter.limits import MAX_MESSAGE_BYTES
from loiter.v1 import ingest_service_pb2
from loiter_aggregator.access.authentication import Authenticator
from loiter_aggregator.access.authorities import Authorities
from loiter_aggregator.access.certificates import ClientCertificates
from loiter_aggregator.access.interceptor import AccessInterceptor
from loiter_aggregator.access.listening import server_credentials
from loiter_aggregator.access.requirements import token_file
from loiter_aggregator.access.tokens import TokenStore
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.metrics.calls import CallInterceptor, Observe

_INGEST_SERVICE: Final = ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name

_SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Two aggregators on one port would each get some of the agents, and neither would say a word.
    ("grpc.so_reuseport", 0),
    # A whole fleet connects at once when the aggregator was away: by default, gRPC turns down what exceeds a thousand.
    ("grpc.server.max_pending_requests", 200_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    # Agents ping every 30 s, also when they have nothing to send.
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class ListenError(OSError):
    """The address can not be listened on."""


@dataclass(frozen=True, slots=True)
class Door:
    """One address. `ingest` is whether agents may report there."""

    address: str
    ingest: bool
    server: grpc.aio.Server
    interceptor: AccessInterceptor
    encrypted: bool

    def __str__(self) -> str:
        """What the log says of it."""
        return (
            f"listening on {self.address}{'' if self.ingest else ' for readers'}"
            f"{' by TLS' if self.encrypted else ', in plaintext'}"
        )


def make_doors(
    settings: AggregatorSettings, on_refused: Callable[[], None], observe: Observe = lambda *_: None
) -> tuple[Door, ...]:
    """Makes a server for each address, bound but not started. `observe` is told of each call that has ended.

    gRPC for Python can require a certificate of all clients of an address or of none. So where agents have
    certificates, people need either one as well, or an address of their own.

    Raises:
        ListenError: An address is in use, or is none of this machine's.
        SecurityFileError, TokenFileError, RevocationFileError: A file can not be used.
    """
    tokens = TokenStore(token_file(settings))
    tls = settings.tls
    certificates = None if tls.client_ca is None else ClientCertificates(tls.revoked)
    authorities = None if tls.client_ca is None else Authorities(tls.client_ca)
    asking = Authenticator(tokens, certificates, authorities)
    doors = [_door(settings, settings.listen, asking, on_refused, observe, ingest=True)]
    if settings.listen_readers is not None:
        readers = Authenticator(tokens, None)
        doors.append(_door(settings, settings.listen_readers, readers, on_refused, observe, ingest=False))
    return tuple(doors)


def reader_authenticator(settings: AggregatorSettings) -> Authenticator:
    """Knows the readers' tokens: what the web page asks, as it does without certificates."""
    return Authenticator(TokenStore(token_file(settings)), None)


def _door(
    settings: AggregatorSettings,
    address: str,
    authenticator: Authenticator,
    on_refused: Callable[[], None],
    observe: Observe,
    *,
    ingest: bool,
) -> Door:
    credentials = server_credentials(settings.tls, address, ask_clients=ingest)
    interceptor = AccessInterceptor(authenticator, on_refused)
    server = grpc.aio.server(interceptors=(CallInterceptor(observe), interceptor), options=_SERVER_OPTIONS)
    try:
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ListenError(
            f"cannot listen on {address}: the port is in use, or the address is not of this machine"
        ) from None
    return Door(address, ingest, server, interceptor, credentials is not None)


def no_ingest_handler() -> grpc.GenericRpcHandler:
    """Answers agents that came to the address of the readers."""

    async def refuse(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, "this address is for readers; agents report to the one of 'listen'"
        )

    return grpc.method_handlers_generic_handler(
        _INGEST_SERVICE, {"StreamReports": grpc.stream_stream_rpc_method_handler(refuse)}
    )
