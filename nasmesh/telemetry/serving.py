"""Server interceptors around all others: they count calls and go on with the traces of callers, where that is wanted.

Streams are counted when they end and are not traced: they last as long as what they watch.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import grpc
import grpc.aio

from nasmesh.clock import Clock, SystemClock
from nasmesh.telemetry import tracing
from nasmesh.telemetry.calls import Calls

Handler = Any  # grpc.RpcMethodHandler is generic over messages that an interceptor cannot know

# Calls that begin a trace where their caller has none; of any other, a trace without a caller would tell nothing.
_BEGINNINGS = frozenset({"/nasmesh.v1.SchedulerService/CreateSearch"})

_MAKERS = {
    ("unary", "unary"): grpc.unary_unary_rpc_method_handler,
    ("unary", "stream"): grpc.unary_stream_rpc_method_handler,
    ("stream", "unary"): grpc.stream_unary_rpc_method_handler,
    ("stream", "stream"): grpc.stream_stream_rpc_method_handler,
}


class _Watched(NamedTuple):
    """One method as it is observed."""

    method: str
    behavior: Callable[..., Any]
    calls: Calls
    clock: Clock

    def ended(self, context: Any, began: float | None, *, failed: bool) -> None:
        seconds = None if began is None else self.clock.monotonic() - began
        self.calls.answered(self.method, _code(context, failed=failed), seconds)

    def span(self, context: Any) -> Any:
        if not tracing.enabled():
            return tracing.NO_SPAN
        sent = str(dict(context.invocation_metadata() or ()).get(tracing.HEADER, ""))
        if not tracing.checked(sent) and self.method not in _BEGINNINGS:
            return tracing.NO_SPAN
        return tracing.span(self.method.lstrip("/"), parent=sent, kind="server")


class _Observer:
    """Wraps handlers, each once."""

    def __init__(self, calls: Calls, clock: Clock | None) -> None:
        self._calls = calls
        self._clock = clock or SystemClock()
        self._made: dict[str, tuple[Handler, Handler]] = {}

    def wrap(self, handler: Handler, method: str, choose: Callable[[Handler], Callable[[_Watched], Any]]) -> Handler:
        if handler is None:
            return None
        known = self._made.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        asks = "stream" if handler.request_streaming else "unary"
        answers = "stream" if handler.response_streaming else "unary"
        make: Callable[..., Any] = _MAKERS[asks, answers]
        behavior = getattr(handler, f"{asks}_{answers}")
        made = make(
            choose(handler)(_Watched(method, behavior, self._calls, self._clock)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        self._made[method] = (handler, made)
        return made


class ObservingInterceptor(grpc.ServerInterceptor):
    """Observes the calls of a threaded server."""

    def __init__(self, calls: Calls, *, clock: Clock | None = None) -> None:
        """Count into `calls`."""
        self._observer = _Observer(calls, clock)

    def intercept_service(self, continuation: Callable[[Any], Handler | None], details: Any) -> Handler | None:
        """Return the method's handler, observed."""
        return self._observer.wrap(
            continuation(details), details.method, lambda handler: _stream if handler.response_streaming else _single
        )


class AioObservingInterceptor(grpc.aio.ServerInterceptor):
    """Observes the calls of an asyncio server, where streams are async generators."""

    def __init__(self, calls: Calls, *, clock: Clock | None = None) -> None:
        """Count into `calls`."""
        self._observer = _Observer(calls, clock)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler | None]], details: Any
    ) -> Handler | None:
        """Return the method's handler, observed."""
        return self._observer.wrap(await continuation(details), details.method, _aio_choice)


def _code(context: Any, *, failed: bool) -> str:
    code = context.code()
    if isinstance(code, int):
        return next((known.name for known in grpc.StatusCode if known.value[0] == code), "UNKNOWN")
    return code.name if code is not None else "CANCELLED" if failed else "OK"


def _single(watched: _Watched) -> Callable[..., Any]:
    def call(request: Any, context: Any) -> Any:
        began, failed = watched.clock.monotonic(), True
        try:
            with watched.span(context):
                answer = watched.behavior(request, context)
            failed = False
            return answer
        finally:
            watched.ended(context, began, failed=failed)

    return call


def _stream(watched: _Watched) -> Callable[..., Any]:
    def call(request: Any, context: Any) -> Iterator[Any]:
        failed = True
        try:
            yield from watched.behavior(request, context)
            failed = False
        finally:
            watched.ended(context, None, failed=failed)

    return call


def _aio_choice(handler: Handler) -> Callable[[_Watched], Any]:
    if not handler.response_streaming:
        return _aio_single
    behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream
    return _aio_stream if inspect.isasyncgenfunction(behavior) else _aio_written


def _aio_single(watched: _Watched) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        began, failed = watched.clock.monotonic(), True
        try:
            with watched.span(context):
                answer = await watched.behavior(request, context)
            failed = False
            return answer
        finally:
            watched.ended(context, began, failed=failed)

    return call


def _aio_stream(watched: _Watched) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        failed = True
        try:
            async for answer in watched.behavior(request, context):
                yield answer
            failed = False
        finally:
            watched.ended(context, None, failed=failed)

    return call


def _aio_written(watched: _Watched) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> None:
        failed = True
        try:
            await watched.behavior(request, context)
            failed = False
        finally:
            watched.ended(context, None, failed=failed)

    return call
