"""Opens channels to servers: message limits, keepalive, a deadline on every call, and errors of our own kind."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import grpc
import grpc.aio

from nasmesh.rpc import options
from nasmesh.rpc.access import NO_CLIENT_ACCESS, ClientAccess
from nasmesh.rpc.deadlines import deadline_s
from nasmesh.rpc.status import from_rpc_error
from nasmesh.telemetry import tracing

Item = TypeVar("Item")


def open_channel(
    address: str, *, insecure: bool = False, access: ClientAccess = NO_CLIENT_ACCESS, hurried: bool = False
) -> grpc.Channel:
    """Return a channel to HOST:PORT; it connects when first used. Every call gets its deadline unless given one.

    `hurried`: there are others to try, so a host that does not answer is given up after options.HURRIED_S seconds.
    Raises Invalid (ADDRESS_INVALID, DIAL_PLAINTEXT, and what is wrong with a file of `access`).
    """
    target, credentials = _destination(address, insecure, access)
    told = [*options.channel_options(target), *(options.HURRIED if hurried else ())]
    if credentials is None:
        channel = grpc.insecure_channel(target, options=told)
    else:
        channel = grpc.secure_channel(target, credentials, options=told)
    return grpc.intercept_channel(channel, _Deadlines())


def open_aio_channel(
    address: str, *, insecure: bool = False, access: ClientAccess = NO_CLIENT_ACCESS
) -> grpc.aio.Channel:
    """Return an asyncio channel to HOST:PORT; as open_channel, but streams have no deadline of themselves."""
    target, credentials = _destination(address, insecure, access)
    told = options.channel_options(target)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=told, interceptors=[_AioDeadlines()])
    return grpc.aio.secure_channel(target, credentials, options=told, interceptors=[_AioDeadlines()])


def _destination(address: str, insecure: bool, access: ClientAccess) -> tuple[str, grpc.ChannelCredentials | None]:
    """Return what to dial, and how to be known there; None: in plain text."""
    if not access.has_tls:
        return options.plaintext_address(address, insecure=insecure, reason="DIAL_PLAINTEXT", field="address"), None
    # Here, not above: a program without TLS need not load the library for certificates.
    from nasmesh.rpc.credentials import channel_credentials

    return options.tls_address(address, field="address"), channel_credentials(access)


@contextmanager
def errors_from_rpc(address: str = "") -> Iterator[None]:
    """Raise nasmesh.errors in place of gRPC's errors within the block; also a decorator of plain functions.

    Works around `await` too. `address` is what was dialled, for the sentence when nobody answers.
    """
    try:
        yield
    except grpc.RpcError as error:
        found = from_rpc_error(error, address=address)
        raise found from error


def results(call: Iterable[Item], *, address: str = "") -> Iterator[Item]:
    """Yield what a streaming call returns, raising nasmesh.errors."""
    with errors_from_rpc(address):
        yield from call


class _Details(NamedTuple):
    """A call's details with the deadline put in; gRPC reads these attributes."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


def _with_deadline(details: Any) -> Any:
    """Return the details with the table's deadline where the caller gave none, and with the trace in work."""
    trace = tracing.metadata()
    if details.timeout is not None and trace is None:
        return details
    method = details.method.decode() if isinstance(details.method, bytes) else details.method
    return _Details(
        details.method,
        deadline_s(method) if details.timeout is None else details.timeout,
        details.metadata if trace is None else (*(details.metadata or ()), *trace),
        details.credentials,
        details.wait_for_ready,
        getattr(details, "compression", None),
    )


class _Deadlines(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):
    """Gives calls their deadline."""

    def intercept_unary_unary(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        """Call with a deadline."""
        return continuation(_with_deadline(details), request)

    def intercept_unary_stream(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        """Call with a deadline."""
        return continuation(_with_deadline(details), request)

    def intercept_stream_unary(self, continuation: Callable[[Any, Any], Any], details: Any, requests: Any) -> Any:
        """Call with a deadline."""
        return continuation(_with_deadline(details), requests)


class _AioDeadlines(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives asyncio calls their deadline."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Call with a deadline."""
        return await continuation(_aio_details(details), request)


def _aio_details(details: Any) -> Any:
    """Return asyncio details with the table's deadline where the caller gave none."""
    filled = _with_deadline(details)
    return grpc.aio.ClientCallDetails(
        filled.method, filled.timeout, filled.metadata, filled.credentials, filled.wait_for_ready
    )
