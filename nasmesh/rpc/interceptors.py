"""Server interceptors: who calls and whether it may, then the call, then what it raises as a status of ours.

Requests are parsed only once their caller is admitted. Health and reflection pass the gate and answer in their own way.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio
from grpc_status import rpc_status

from nasmesh.errors import Invalid
from nasmesh.rpc.call import CALL
from nasmesh.rpc.gate import Cut, Gate
from nasmesh.rpc.identity import CALLER
from nasmesh.rpc.status import DETAILS_KEY, to_rpc_status
from nasmesh.rpc.wrapping import AioInterceptor, Behavior, Handler, Interceptor, behavior_of, with_behavior, yields

_NOT_SERVED = "this server does not serve this call"
Parse = Callable[[Any], Any]
Encode = Callable[[Any], bytes]


class _Served(NamedTuple):
    """One method as it is served."""

    method: str
    behavior: Behavior
    parse: Parse
    gate: Gate


def guard(gate: Gate) -> Interceptor:
    """Return what guards the calls of a threaded server and maps the errors of its servicers."""
    return Interceptor(
        lambda handler, method: _guarded(handler, method, gate, _stream if handler.response_streaming else _single)
    )


def aio_guard(gate: Gate) -> AioInterceptor:
    """Return what guards the calls of an asyncio server, where streams are async generators, and maps errors."""

    def wrap(handler: Handler, method: str) -> Handler:
        streaming = _aio_stream if yields(handler) else _aio_written
        return _guarded(handler, method, gate, streaming if handler.response_streaming else _aio_single)

    return AioInterceptor(wrap)


def _guarded(handler: Handler, method: str, gate: Gate, wrap: Callable[[_Served], Behavior]) -> Handler:
    parse = _typed(handler.request_deserializer)
    # The one message of a unary request is parsed by the wrapper; those of a stream when the servicer asks for them.
    streaming = handler.request_streaming
    served = _Served(method, behavior_of(handler), _as_it_is if streaming else parse, gate)
    return with_behavior(
        handler,
        wrap(served),
        request_deserializer=parse if streaming else None,
        response_serializer=_encoding(handler.response_serializer),
    )


def _encoding(serializer: Encode | None) -> Encode | None:
    """Return an encoder that lets pass what a servicer has encoded itself."""
    if serializer is None:
        return None

    def encode(answer: Any) -> bytes:
        return answer if isinstance(answer, bytes) else serializer(answer)

    return encode


def _as_it_is(request: Any) -> Any:
    return request


def _typed(deserializer: Parse | None) -> Parse:
    """Return a parser whose failures are the caller's fault, not the server's."""
    if deserializer is None:
        return _as_it_is

    def parse(content: Any) -> Any:
        try:
            return deserializer(content)
        except Exception as error:
            if isinstance(error, Invalid):
                raise
            raise Invalid("MESSAGE_MALFORMED", "the bytes are not a message of this method's type") from None

    return parse


# --- threads --------------------------------------------------------------------------------------------------------


class _Standing:
    """A call that is over when its caller hangs up or its credential ends."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self.cut: Cut | None = None

    def is_active(self) -> bool:
        """Say whether the caller still waits, and may."""
        return (self.cut is None or self.cut.error is None) and self._context.is_active()


def _single(served: _Served) -> Callable[..., Any]:
    method, behavior, parse, gate = served

    def call(request: Any, context: Any) -> Any:
        try:
            caller = gate.admit(method, context)
            with CALL.within(context), CALLER.within(caller.identity):
                return behavior(parse(request), context)
        except Exception as error:  # noqa: BLE001  (the edge: nothing may pass with its text)
            _abort(context, error)

    return call


def _stream(served: _Served) -> Callable[..., Any]:
    method, behavior, parse, gate = served

    def call(request: Any, context: Any) -> Iterator[Any]:
        try:
            caller = gate.admit(method, context)
            standing = _Standing(context)
            with (
                gate.opened(method, caller, _nothing) as cut,
                CALL.within(standing),
                CALLER.within(caller.identity),
            ):
                standing.cut = cut
                for response in behavior(parse(request), context):
                    if cut.error is not None:
                        break
                    yield response
                if cut.error is not None:
                    raise cut.error
        except Exception as error:  # noqa: BLE001  (the edge: nothing may pass with its text)
            _abort(context, error)

    return call


def _nothing() -> None:
    """The stream looks for itself, between messages and in caller_waits."""


# --- asyncio --------------------------------------------------------------------------------------------------------


def _aio_single(served: _Served) -> Callable[..., Any]:
    method, behavior, parse, gate = served

    async def call(request: Any, context: Any) -> Any:
        try:
            caller = gate.admit(method, context)
            CALLER.set(caller.identity)
            return await behavior(parse(request), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  (the edge: nothing may pass with its text)
            await _aio_abort(context, error)

    return call


def _aio_stream(served: _Served) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        async with _aio_open(served, context):
            async for response in served.behavior(served.parse(request), context):
                yield response

    return call


def _aio_written(served: _Served) -> Callable[..., Any]:
    """Wrap a streaming method that writes its answers instead of yielding them, as health's Watch does."""

    async def call(request: Any, context: Any) -> None:
        async with _aio_open(served, context):
            await served.behavior(served.parse(request), context)

    return call


@asynccontextmanager
async def _aio_open(served: _Served, context: Any) -> AsyncIterator[None]:
    """Guard a stream for as long as the block lasts, and end it with the status of what it raises."""
    cut: Cut | None = None
    try:
        caller = served.gate.admit(served.method, context)
        CALLER.set(caller.identity)
        with served.gate.opened(served.method, caller, _canceller()) as cut:
            yield
    except grpc.aio.AbortError:
        raise
    except asyncio.CancelledError:
        await _aio_cut(context, cut)
        raise
    except Exception as error:  # noqa: BLE001  (the edge: nothing may pass with its text)
        await _aio_abort(context, error)


def _canceller() -> Callable[[], object]:
    """Return what ends the current call from another thread: its task is cancelled."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    return lambda: loop.call_soon_threadsafe(task.cancel) if task is not None else None


async def _aio_cut(context: Any, cut: Cut | None) -> None:
    """Tell a caller whose stream was ended by the gate why; returns where somebody else cancelled the call."""
    if cut is not None and cut.error is not None:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        await _aio_abort(context, cut.error)


def _abort(context: Any, error: Exception) -> NoReturn:
    """End a call with an error's status."""
    if context.code() is not None:  # it has its status already: the generated base class, or the servicer's own abort
        context.abort(context.code(), _NOT_SERVED if _unserved(context) else context.details() or b"")
    context.abort_with_status(rpc_status.to_status(to_rpc_status(error)))
    raise AssertionError("unreachable: abort raises")


async def aio_refuse(context: Any, error: Exception) -> NoReturn:
    """End an asyncio call, of a handler that no guard is around, with an error's status."""
    await _aio_abort(context, error)
    raise AssertionError("unreachable: abort raises")


async def _aio_abort(context: Any, error: Exception) -> NoReturn:
    """End an asyncio call with an error's status."""
    if _unserved(context):  # the generated base class set it
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NOT_SERVED)
    status = rpc_status.to_status(to_rpc_status(error))
    await context.abort(status.code, status.details, ((DETAILS_KEY, status.trailing_metadata[0][1]),))
    raise AssertionError("unreachable: abort raises")


def _unserved(context: Any) -> bool:
    return context.code() is grpc.StatusCode.UNIMPLEMENTED
