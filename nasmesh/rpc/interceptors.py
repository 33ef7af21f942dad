"""Server interceptors: what a servicer raises becomes a status of ours, in the first message or in mid-stream.

They touch only the services they are told of; health and reflection answer in their own way.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NoReturn

import grpc
import grpc.aio
from grpc_status import rpc_status

from nasmesh.rpc.call import entered
from nasmesh.rpc.status import DETAILS_KEY, to_rpc_status

_NOT_SERVED = "this server does not serve this call"
Handler = Any  # grpc.RpcMethodHandler is generic over messages that an interceptor cannot know

_MAKERS = {
    ("unary", "unary"): grpc.unary_unary_rpc_method_handler,
    ("unary", "stream"): grpc.unary_stream_rpc_method_handler,
    ("stream", "unary"): grpc.stream_unary_rpc_method_handler,
    ("stream", "stream"): grpc.stream_stream_rpc_method_handler,
}


def _covers(services: frozenset[str], method: str) -> bool:
    return method.rpartition("/")[0].lstrip("/") in services


class ErrorInterceptor(grpc.ServerInterceptor):
    """Maps errors of servicers on a threaded server."""

    def __init__(self, services: frozenset[str]) -> None:
        """Cover the services with these full names."""
        self._services = services

    def intercept_service(self, continuation: Callable[[Any], Handler | None], details: Any) -> Handler | None:
        """Return the method's handler with its errors mapped."""
        handler = continuation(details)
        if handler is None or not _covers(self._services, details.method):
            return handler
        return _replace(handler, _stream if handler.response_streaming else _single)


class AioErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps errors of servicers on an asyncio server, where streams are async generators."""

    def __init__(self, services: frozenset[str]) -> None:
        """Cover the services with these full names."""
        self._services = services

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler | None]], details: Any
    ) -> Handler | None:
        """Return the method's handler with its errors mapped."""
        handler = await continuation(details)
        if handler is None or not _covers(self._services, details.method):
            return handler
        return _replace(handler, _aio_stream if handler.response_streaming else _aio_single)


def _replace(handler: Handler, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Handler:
    """Return the handler with its behaviour wrapped in one of the same shape."""
    asks = "stream" if handler.request_streaming else "unary"
    answers = "stream" if handler.response_streaming else "unary"
    make: Callable[..., Any] = _MAKERS[asks, answers]
    return make(
        wrap(getattr(handler, f"{asks}_{answers}")),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _single(behavior: Callable[..., Any]) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            with entered(context):
                return behavior(request, context)
        except Exception as error:  # noqa: BLE001  (the edge: nothing may pass with its text)
            _abort(context, error)

    return call


def _stream(behavior: Callable[..., Any]) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            with entered(context):
                yield from behavior(request, context)
        except Exception as error:  # noqa: BLE001  (the edge: nothing may pass with its text)
            _abort(context, error)

    return call


def _aio_single(behavior: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await behavior(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  (the edge: nothing may pass with its text)
            await _aio_abort(context, error)

    return call


def _aio_stream(behavior: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in behavior(request, context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  (the edge: nothing may pass with its text)
            await _aio_abort(context, error)

    return call


def _abort(context: Any, error: Exception) -> NoReturn:
    """End a call with an error's status."""
    if context.code() is grpc.StatusCode.UNIMPLEMENTED:  # the generated base class set it
        context.abort(grpc.StatusCode.UNIMPLEMENTED, _NOT_SERVED)
    context.abort_with_status(rpc_status.to_status(to_rpc_status(error)))
    raise AssertionError("unreachable: abort raises")


async def _aio_abort(context: Any, error: Exception) -> NoReturn:
    """End an asyncio call with an error's status."""
    if context.code() is grpc.StatusCode.UNIMPLEMENTED:  # the generated base class set it
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NOT_SERVED)
    status = rpc_status.to_status(to_rpc_status(error))
    await context.abort(status.code, status.details, ((DETAILS_KEY, status.trailing_metadata[0][1]),))
    raise AssertionError("unreachable: abort raises")
