"""Notes how long each call of gRPC took, and how it ended."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

# The method, the name of the status code, and seconds.
Observe = Callable[[str, str, float], None]

_Context = grpc.aio.ServicerContext[Any, Any]
# As texts: the class itself takes no parameters.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Stands before all others, so that calls that are refused are noted, too. Methods there are none of are not."""

    def __init__(self, observe: Observe) -> None:
        """Takes what to tell of each call that has ended."""
        self._observe = observe

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Puts a watch before a handler. See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        return handler if handler is None else self._watched(handler, handler_call_details.method.rpartition("/")[2])

    def _watched(self, handler: _Handler, method: str) -> _Handler:
        def watch(behaviour: Callable[..., Any]) -> Callable[..., Any]:
            async def answer(request: Any, context: _Context) -> Any:
                with self._noting(method, context):
                    return await behaviour(request, context)

            async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
                with self._noting(method, context):
                    async for response in behaviour(request, context):
                        yield response

            return stream if inspect.isasyncgenfunction(behaviour) else answer

        serializers = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(watch(handler.unary_unary), **serializers)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(watch(handler.unary_stream), **serializers)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(watch(handler.stream_unary), **serializers)
        assert handler.stream_stream is not None, "a method is one of four kinds"
        return grpc.stream_stream_rpc_method_handler(watch(handler.stream_stream), **serializers)

    @contextmanager
    def _noting(self, method: str, context: _Context) -> Iterator[None]:
        began = time.monotonic()
        code = "UNKNOWN"  # what a mistake of ours becomes
        try:
            yield
            code = _said(context) or "OK"
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except BaseException:
            code = _said(context) or code
            raise
        finally:
            self._observe(method, code, time.monotonic() - began)


def _said(context: _Context) -> str | None:
    """The status that a handler has set, by `abort` or otherwise; None where it has not, or has set OK."""
    code: grpc.StatusCode | None = context.code()
    return None if code is None or code is grpc.StatusCode.OK else code.name
