"""Puts code around the methods of a server: interceptors that hand out each handler in a wrapping of its own."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

Handler = Any  # grpc.RpcMethodHandler is generic over messages that an interceptor cannot know
Behavior = Callable[..., Any]
Wrap = Callable[[Handler, str], Handler]
"""From the handler of a full method name to the one that is served."""

_MAKERS = {
    ("unary", "unary"): grpc.unary_unary_rpc_method_handler,
    ("unary", "stream"): grpc.unary_stream_rpc_method_handler,
    ("stream", "unary"): grpc.stream_unary_rpc_method_handler,
    ("stream", "stream"): grpc.stream_stream_rpc_method_handler,
}


def behavior_of(handler: Handler) -> Behavior:
    """Return the servicer's own function."""
    asks, answers = _shape(handler)
    behavior: Behavior = getattr(handler, f"{asks}_{answers}")
    return behavior


def yields(handler: Handler) -> bool:
    """Say whether a streaming method of an asyncio server is an async generator; else it writes its answers itself."""
    return inspect.isasyncgenfunction(behavior_of(handler))


def with_behavior(handler: Handler, behavior: Behavior, **codecs: Callable[[Any], Any] | None) -> Handler:
    """Return a handler of the same shape with another function, and other codecs where they are named."""
    make: Callable[..., Any] = _MAKERS[_shape(handler)]
    own = {name: getattr(handler, name) for name in ("request_deserializer", "response_serializer")}
    return make(behavior, **{**own, **codecs})


def _shape(handler: Handler) -> tuple[str, str]:
    return ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")


class _Wrapped:
    """Handlers by method, each wrapped once."""

    def __init__(self, wrap: Wrap) -> None:
        self._wrap = wrap
        self._made: dict[str, tuple[Handler, Handler]] = {}

    def get(self, handler: Handler, method: str) -> Handler:
        """Return a handler in its wrapping; None for None: the call is not served."""
        if handler is None:
            return None
        known = self._made.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        made = self._wrap(handler, method)
        self._made[method] = (handler, made)
        return made


class Interceptor(grpc.ServerInterceptor):
    """Wraps the methods of a threaded server."""

    def __init__(self, wrap: Wrap) -> None:
        """Wrap each method when it is called first."""
        self._wrapped = _Wrapped(wrap)

    def intercept_service(self, continuation: Callable[[Any], Handler | None], details: Any) -> Handler | None:
        """Return the method's handler, wrapped."""
        return self._wrapped.get(continuation(details), details.method)


class AioInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of an asyncio server."""

    def __init__(self, wrap: Wrap) -> None:
        """Wrap each method when it is called first."""
        self._wrapped = _Wrapped(wrap)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler | None]], details: Any
    ) -> Handler | None:
        """Return the method's handler, wrapped."""
        return self._wrapped.get(await continuation(details), details.method)
