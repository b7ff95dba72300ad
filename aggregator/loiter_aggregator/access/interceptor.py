"""Asks who it is before every call, and goes on asking while a call lasts."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc

from loiter.text import printable
from loiter_aggregator.access.authentication import Authenticator, Credentials, Refused
from loiter_aggregator.access.peers import peer_host
from loiter_aggregator.access.principal import Right, caller, caller_address
from loiter_aggregator.access.refusals import RefusalLog

_log = logging.getLogger(__name__)

# One question, one answer: what load balancers ask. Watch, which goes on and on, takes the right to read.
_HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
_INGEST: Final = "/loiter.v1.IngestService/"
# Within which a revoked token ends what it is used for. With 10,000 streams, a look takes 8 ms.
_RECHECK_SECONDS: Final = 2.0
_WITHDRAWN: Final = "loiter: what the caller showed is no longer in force"

_Context = grpc.aio.ServicerContext[Any, Any]
# As texts: the class itself takes no parameters.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"


@dataclass(eq=False, slots=True)
class _OpenCall:
    """A call that goes on, and why it was ended where what its caller showed is no longer in force."""

    credentials: Credentials
    task: asyncio.Task[Any]
    refused: Refused | None = None


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Lets callers do what they may, and turns the others away with a reason, to them and in the log.

    Health checks are open to all. Reflection takes the right to read, as every service but that for ingest.
    """

    def __init__(self, authenticator: Authenticator, on_refused: Callable[[], None]) -> None:
        """Takes who knows the callers, and what to call for each call that is refused."""
        self._authenticator = authenticator
        self._on_refused = on_refused
        self._refusals = RefusalLog(_log)
        self._open: set[_OpenCall] = set()

    async def run(self) -> None:
        """Ends the calls whose token or certificate was revoked or has expired, within seconds, until cancelled."""
        while True:
            await asyncio.sleep(_RECHECK_SECONDS)
            for call in tuple(self._open):
                try:
                    self._authenticator.recheck(call.credentials)
                except Refused as refused:
                    if call.refused is None:
                        call.refused = refused
                        call.task.cancel(_WITHDRAWN)

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Puts the check before a handler. See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method == _HEALTH_CHECK:
            return handler
        right = Right.INGEST if method.startswith(_INGEST) else Right.READ
        return self._guard(handler, method, right, handler_call_details.invocation_metadata)

    def _guard(self, handler: _Handler, method: str, right: Right, metadata: Any) -> _Handler:
        def guarded(behaviour: Callable[..., Any]) -> Callable[..., Any]:
            async def answer(request: Any, context: _Context) -> Any:
                call = await self._admit(context, method, right, metadata)
                try:
                    return await behaviour(request, context)
                except asyncio.CancelledError:
                    await self._withdraw(call, context, method)
                    raise
                finally:
                    self._open.discard(call)

            async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
                call = await self._admit(context, method, right, metadata)
                try:
                    async for response in behaviour(request, context):
                        yield response
                except asyncio.CancelledError:
                    await self._withdraw(call, context, method)
                    raise
                finally:
                    self._open.discard(call)

            return stream if inspect.isasyncgenfunction(behaviour) else answer

        serializers = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(guarded(handler.unary_unary), **serializers)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(guarded(handler.unary_stream), **serializers)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(guarded(handler.stream_unary), **serializers)
        assert handler.stream_stream is not None, "a method is one of four kinds"
        return grpc.stream_stream_rpc_method_handler(guarded(handler.stream_stream), **serializers)

    async def _admit(self, context: _Context, method: str, right: Right, metadata: Any) -> _OpenCall:
        try:
            credentials = self._authenticator.authenticate(context.auth_context(), metadata or ())
            self._authenticator.authorize(credentials, right)
        except Refused as refused:
            await self._turn_away(context, method, refused)
            raise AssertionError("unreachable: abort raises") from None
        caller.set(credentials.principal)
        caller_address.set(peer_host(context.peer()))
        task = asyncio.current_task()
        assert task is not None, "gRPC runs each call in a task"
        call = _OpenCall(credentials, task)
        self._open.add(call)
        return call

    async def _withdraw(self, call: _OpenCall, context: _Context, method: str) -> None:
        """Says why the call ends, where it was us who ended it and not the caller who went away."""
        if call.refused is not None:
            call.task.uncancel()
            await self._turn_away(context, method, call.refused)

    async def _turn_away(self, context: _Context, method: str, refused: Refused) -> None:
        peer, name = peer_host(context.peer()), printable(method.rpartition("/")[2])
        self._on_refused()
        self._refusals.say(
            (peer, method, refused.reason),
            f"{peer} refused at {name}: {refused.reason}",
            peer=peer,
            method=name,
            reason=refused.reason,
        )
        await context.abort(refused.code, refused.reason)
