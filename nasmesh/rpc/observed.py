"""Server interceptors around all others: they count calls and go on with the traces of callers, where that is wanted.

Streams are counted when they end and are not traced: they last as long as what they watch.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc

from nasmesh.clock import Clock, SystemClock
from nasmesh.rpc.wrapping import AioInterceptor, Behavior, Handler, Interceptor, behavior_of, with_behavior, yields
from nasmesh.telemetry import tracing
from nasmesh.telemetry.calls import Calls

# Calls that begin a trace where their caller has none; of any other, a trace without a caller would tell nothing.
_BEGINNINGS = frozenset({"/nasmesh.v1.SchedulerService/CreateSearch"})


class _Watched(NamedTuple):
    """One method as it is observed."""

    method: str
    behavior: Behavior
    calls: Calls
    clock: Clock

    @contextmanager
    def stream(self, context: Any) -> Iterator[None]:
        """Count a stream that lasts as long as the block."""
        failed = True
        try:
            yield
            failed = False
        finally:
            self.calls.answered(self.method, _code(context, failed=failed), None)

    @contextmanager
    def call(self, context: Any) -> Iterator[None]:
        """Count, time and trace a call with one answer that lasts as long as the block."""
        began, failed = self.clock.monotonic(), True
        try:
            with self._span(context):
                yield
            failed = False
        finally:
            seconds = self.clock.monotonic() - began
            self.calls.answered(self.method, _code(context, failed=failed), seconds)

    def _span(self, context: Any) -> Any:
        if not tracing.enabled():
            return tracing.NO_SPAN
        sent = str(dict(context.invocation_metadata() or ()).get(tracing.HEADER, ""))
        if not tracing.checked(sent) and self.method not in _BEGINNINGS:
            return tracing.NO_SPAN
        return tracing.span(self.method.lstrip("/"), parent=sent, kind="server")


def observe(calls: Calls) -> Interceptor:
    """Return what observes the calls of a threaded server, counting into `calls`."""
    clock = SystemClock()

    def wrap(handler: Handler, method: str) -> Handler:
        watched = _Watched(method, behavior_of(handler), calls, clock)
        return with_behavior(handler, (_stream if handler.response_streaming else _single)(watched))

    return Interceptor(wrap)


def aio_observe(calls: Calls) -> AioInterceptor:
    """Return what observes the calls of an asyncio server, where streams are async generators."""
    clock = SystemClock()

    def wrap(handler: Handler, method: str) -> Handler:
        streaming = _aio_stream if yields(handler) else _aio_written
        watched = _Watched(method, behavior_of(handler), calls, clock)
        return with_behavior(handler, (streaming if handler.response_streaming else _aio_single)(watched))

    return AioInterceptor(wrap)


def _code(context: Any, *, failed: bool) -> str:
    code = context.code()
    if isinstance(code, int):
        return next((known.name for known in grpc.StatusCode if known.value[0] == code), "UNKNOWN")
    return code.name if code is not None else "CANCELLED" if failed else "OK"


def _single(watched: _Watched) -> Callable[..., Any]:
    def call(request: Any, context: Any) -> Any:
        with watched.call(context):
            return watched.behavior(request, context)

    return call


def _stream(watched: _Watched) -> Callable[..., Any]:
    def call(request: Any, context: Any) -> Iterator[Any]:
        with watched.stream(context):
            yield from watched.behavior(request, context)

    return call


def _aio_single(watched: _Watched) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        with watched.call(context):
            return await watched.behavior(request, context)

    return call


def _aio_stream(watched: _Watched) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        with watched.stream(context):
            async for answer in watched.behavior(request, context):
                yield answer

    return call


def _aio_written(watched: _Watched) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> None:
        with watched.stream(context):
            await watched.behavior(request, context)

    return call
