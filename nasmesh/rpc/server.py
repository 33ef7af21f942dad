"""Serves services on a port: threads for generate, train and evaluate; asyncio for the scheduler.

Both come with the error mapping, reflection, health, message limits and keepalive, and refuse to serve plaintext
beyond this machine unless told to.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from errno import EADDRINUSE
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from nasmesh import limits
from nasmesh.errors import Invalid, Unavailable
from nasmesh.logs import get_logger
from nasmesh.rpc import options
from nasmesh.rpc.interceptors import AioErrorInterceptor, ErrorInterceptor
from nasmesh.settings import format_address, parse_address

_LOG = get_logger("rpc")


class _AnyServer(Protocol):
    """Either kind of gRPC server."""

    def add_insecure_port(self, address: str) -> int:
        """Bind."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """One service to serve: full proto name, the generated add_XServicer_to_server, and the servicer."""

    name: str
    add: Callable[..., None]
    servicer: object


class RunningServer:
    """A threaded server that is serving."""

    def __init__(self, server: grpc.Server, address: str, health_servicer: Any, names: Sequence[str]) -> None:
        """Hold a started server."""
        self.address = address
        self._server = server
        self._health = health_servicer
        self._names = ("", *names)
        self._stop_lock = threading.Lock()

    def set_serving(self, serving: bool) -> None:
        """Say in health whether calls are welcome; calls are answered either way."""
        for name in self._names:
            self._health.set(name, _health_status(serving))

    def stop(self, grace_s: float = limits.STOP_GRACE_S) -> None:
        """Refuse new calls, give those in hand `grace_s` seconds to end, and return when the port is free."""
        with self._stop_lock:
            self._health.enter_graceful_shutdown()
            self._server.stop(grace_s).wait()

    def wait(self) -> None:
        """Return when the server has been stopped."""
        self._server.wait_for_termination()


class RunningAioServer:
    """An asyncio server that is serving."""

    def __init__(self, server: grpc.aio.Server, address: str, health_servicer: Any, names: Sequence[str]) -> None:
        """Hold a started server."""
        self.address = address
        self._server = server
        self._health = health_servicer
        self._names = ("", *names)

    async def set_serving(self, serving: bool) -> None:
        """Say in health whether calls are welcome; calls are answered either way."""
        for name in self._names:
            await self._health.set(name, _health_status(serving))

    async def stop(self, grace_s: float = limits.STOP_GRACE_S) -> None:
        """Refuse new calls, give those in hand `grace_s` seconds to end, and return when the port is free."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def wait(self) -> None:
        """Return when the server has been stopped."""
        await self._server.wait_for_termination()


def serve_threads(
    services: Sequence[Service], listen: str, *, workers: int = limits.SERVER_THREADS, insecure: bool = False
) -> RunningServer:
    """Serve on "HOST:PORT" (port 0: any) with at most `workers` calls at once; each open stream is one.

    Raises Invalid (ADDRESS_INVALID, LISTEN_PLAINTEXT, LISTEN_INVALID), Unavailable (PORT_IN_USE).
    """
    target = _listen_address(listen, insecure=insecure)
    names = [service.name for service in services]
    server = grpc.server(
        futures.ThreadPoolExecutor(workers, thread_name_prefix="rpc"),
        interceptors=[ErrorInterceptor(frozenset(names))],
        options=options.SERVER,
        maximum_concurrent_rpcs=workers,
    )
    health_servicer = health.HealthServicer()
    _add(server, services, health_servicer)
    address = _bind(server, target)
    server.start()
    running = RunningServer(server, address, health_servicer, names)
    running.set_serving(True)
    return running


async def serve_aio(
    services: Sequence[Service], listen: str, *, insecure: bool = False, serving: bool = True
) -> RunningAioServer:
    """Serve on "HOST:PORT" (port 0: any) from this event loop; streaming methods must be async generators.

    With `serving` false, health answers NOT_SERVING until set_serving(True). Raises as serve_threads does.
    """
    target = _listen_address(listen, insecure=insecure)
    names = [service.name for service in services]
    server = grpc.aio.server(
        interceptors=[AioErrorInterceptor(frozenset(names))],
        options=options.SERVER,
        maximum_concurrent_rpcs=limits.CONCURRENT_CALLS,
    )
    health_servicer = health.aio.HealthServicer()
    _add(server, services, health_servicer)
    address = _bind(server, target)
    running = RunningAioServer(server, address, health_servicer, names)
    await running.set_serving(serving)
    await server.start()
    return running


def _listen_address(listen: str, *, insecure: bool) -> str:
    """Return the address to bind; says so in the log when it serves plaintext to other machines."""
    target = options.plaintext_address(listen, insecure=insecure, reason="LISTEN_PLAINTEXT", field="listen")
    if not options.is_loopback(parse_address(target)[0]):
        _LOG.warning("serving_plaintext", listen=target, advice="anyone who reaches this port may use it")
    return target


def _add(server: Any, services: Sequence[Service], health_servicer: Any) -> None:
    """Put services, health and reflection on a server."""
    for service in services:
        service.add(service.servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    shown = [*(service.name for service in services), health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(shown, server)


def _bind(server: _AnyServer, target: str) -> str:
    """Bind and return the address with its real port."""
    host, wanted = parse_address(target)
    # gRPC does not say why it cannot bind, and prints its own lines about it; the operating system does say.
    _check_free(host, wanted)
    try:
        port = server.add_insecure_port(target)
    except RuntimeError:
        raise _port_in_use(host, wanted) from None
    return format_address(host, port)


def _check_free(host: str, port: int) -> None:
    """Raise where an address cannot be bound. Another program may still take it before gRPC does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        if error.errno == EADDRINUSE:
            raise _port_in_use(host, port) from None
        where = format_address(host, port)
        raise Invalid("LISTEN_INVALID", f"listen: cannot serve on {where}: {error.strerror}", field="listen") from None


def _port_in_use(host: str, port: int) -> Unavailable:
    return Unavailable(
        "PORT_IN_USE",
        f"listen: port {port} on {host} is in use by another program; choose another, port 0 takes any free one",
        field="listen",
        metadata={"port": str(port)},
    )


def _health_status(serving: bool) -> int:
    status = health_pb2.HealthCheckResponse
    return int(status.SERVING if serving else status.NOT_SERVING)
