"""Serves services on a port: threads for generate, train and evaluate; asyncio for the scheduler.

Both come with the gate (who may call what, how often), error mapping, reflection, health, limits and keepalive, and
refuse to serve other machines without TLS and identities unless told to.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EADDRINUSE
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from nasmesh import limits
from nasmesh.errors import Invalid, Unavailable
from nasmesh.logs import get_logger
from nasmesh.rpc import options
from nasmesh.rpc.access import NO_SERVER_ACCESS, ServerAccess
from nasmesh.rpc.gate import Gate
from nasmesh.rpc.health import SERVICE_NAME as HEALTH
from nasmesh.rpc.health import AioHealth, Health
from nasmesh.rpc.interceptors import aio_guard, guard
from nasmesh.rpc.rates import Rates
from nasmesh.settings import format_address, is_loopback, parse_address

_LOG = get_logger("rpc")


class _AnyServer(Protocol):
    """Either kind of gRPC server."""

    def add_insecure_port(self, address: str) -> int:
        """Bind in plain text."""
        ...

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Bind with TLS."""
        ...


@dataclass(frozen=True, slots=True)
class Door:
    """Who gets in: what is shown and asked for, and how much is allowed."""

    access: ServerAccess = NO_SERVER_ACCESS
    insecure: bool = False
    """Serve other machines without TLS, or without asking who calls."""
    rates: Rates = field(default_factory=Rates)
    connections: options.Connections = field(default_factory=options.Connections)
    around: Sequence[Any] = ()
    """Interceptors around the gate, of the kind that the server takes: they see every call and its status."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service to serve: full proto name, the generated add_XServicer_to_server, and the servicer."""

    name: str
    add: Callable[..., None]
    servicer: object


class RunningServer:
    """A threaded server that is serving."""

    def __init__(self, server: grpc.Server, address: str, health_servicer: Any, gate: Gate) -> None:
        """Hold a started server."""
        self.address = address
        self.gate = gate
        self._server = server
        self._health = health_servicer
        self._stop_lock = threading.Lock()
        self._over = threading.Event()
        if gate.asks_identity:
            threading.Thread(target=self._look, name="gate", daemon=True).start()

    def set_serving(self, serving: bool) -> None:
        """Say in health whether calls are welcome; calls are answered either way."""
        for name in self._health.names:
            self._health.set(name, _health_status(serving))

    def stop(self, grace_s: float = limits.STOP_GRACE_S) -> None:
        """Refuse new calls, give those in hand `grace_s` seconds to end, and return when the port is free."""
        self._over.set()
        with self._stop_lock:
            self._health.enter_graceful_shutdown()
            self._server.stop(grace_s).wait()

    def wait(self) -> None:
        """Return when the server has been stopped."""
        self._server.wait_for_termination()

    def _look(self) -> None:
        while not self._over.wait(limits.CREDENTIAL_LOOK_S):
            self.gate.look()


class RunningAioServer:
    """An asyncio server that is serving."""

    def __init__(self, server: grpc.aio.Server, address: str, health_servicer: Any, gate: Gate) -> None:
        """Hold a server on its own event loop."""
        self.address = address
        self.gate = gate
        self._server = server
        self._health = health_servicer
        self._looking = asyncio.create_task(self._look()) if gate.asks_identity else None

    async def set_serving(self, serving: bool) -> None:
        """Say in health whether calls are welcome; calls are answered either way."""
        for name in self._health.names:
            await self._health.set(name, _health_status(serving))

    async def stop(self, grace_s: float = limits.STOP_GRACE_S) -> None:
        """Refuse new calls, give those in hand `grace_s` seconds to end, and return when the port is free."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def wait(self) -> None:
        """Return when the server has been stopped."""
        await self._server.wait_for_termination()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(limits.CREDENTIAL_LOOK_S)
            self.gate.look()


def serve_threads(
    services: Sequence[Service],
    listen: str,
    *,
    workers: int = limits.SERVER_THREADS,
    insecure: bool = False,
    door: Door | None = None,
) -> RunningServer:
    """Serve on "HOST:PORT" (port 0: any) with at most `workers` calls at once; each open stream is one.

    `insecure` is short for a door with nothing but that. Raises Invalid (ADDRESS_INVALID, LISTEN_PLAINTEXT,
    LISTEN_ANONYMOUS, LISTEN_INVALID, and what is wrong with a file of the door), Unavailable (PORT_IN_USE).
    """
    door = door or Door(insecure=insecure)
    target = _listen_address(listen, door)
    gate = _gate(target, door)
    server = grpc.server(
        futures.ThreadPoolExecutor(workers, thread_name_prefix="rpc"),
        interceptors=[*door.around, guard(gate)],
        options=options.server_options(door.connections),
        maximum_concurrent_rpcs=workers,
    )
    health_servicer = Health(service.name for service in services)
    _add(server, services, health_servicer)
    address = _bind(server, target, door.access)
    server.start()
    running = RunningServer(server, address, health_servicer, gate)
    running.set_serving(True)
    return running


async def serve_aio(
    services: Sequence[Service],
    listen: str,
    *,
    insecure: bool = False,
    serving: bool = True,
    door: Door | None = None,
) -> RunningAioServer:
    """Serve on "HOST:PORT" (port 0: any) from this event loop; streaming methods must be async generators.

    With `serving` false, health answers NOT_SERVING until set_serving(True). Raises as serve_threads does.
    """
    door = door or Door(insecure=insecure)
    target = _listen_address(listen, door)
    gate = _gate(target, door)
    server = grpc.aio.server(
        interceptors=[*door.around, aio_guard(gate)],
        options=options.server_options(door.connections),
        maximum_concurrent_rpcs=limits.CONCURRENT_CALLS,
    )
    health_servicer = AioHealth(service.name for service in services)
    _add(server, services, health_servicer)
    address = _bind(server, target, door.access)
    running = RunningAioServer(server, address, health_servicer, gate)
    await running.set_serving(serving)
    await server.start()
    return running


def _listen_address(listen: str, door: Door) -> str:
    """Return the address to bind; says so in the log when it serves other machines less than safely."""
    if not door.access.has_tls:
        target = options.plaintext_address(listen, insecure=door.insecure, reason="LISTEN_PLAINTEXT", field="listen")
        if not _is_here(target):
            _LOG.warning("serving_plaintext", listen=target, advice="anyone who reaches this port may use it")
        return target
    target = options.tls_address(listen, field="listen")
    if not door.access.asks_identity and not _is_here(target):
        if not door.insecure:
            raise Invalid(
                "LISTEN_ANONYMOUS",
                f"listen: {listen} is reachable from other machines, and TLS alone keeps nobody out; "
                "add --tokens or --tls-ca, or --insecure on a network that you trust",
                field="listen",
            )
        _LOG.warning("serving_anyone", listen=target, advice="anyone who reaches this port may use it")
    return target


def _is_here(target: str) -> bool:
    return is_loopback(parse_address(target)[0])


def _gate(target: str, door: Door) -> Gate:
    return Gate(door.access, open_to_network=not _is_here(target), rates=door.rates)


def _add(server: Any, services: Sequence[Service], health_servicer: Any) -> None:
    """Put services, health and reflection on a server."""
    for service in services:
        service.add(service.servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    shown = [*(service.name for service in services), HEALTH, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(shown, server)


def _bind(server: _AnyServer, target: str, access: ServerAccess) -> str:
    """Bind and return the address with its real port."""
    credentials = None
    if access.has_tls:
        # Here, not above: a server without TLS need not load the library for certificates.
        from nasmesh.rpc.credentials import server_credentials

        credentials = server_credentials(access)
    host, wanted = parse_address(target)
    # gRPC does not say why it cannot bind, and prints its own lines about it; the operating system does say.
    _check_free(host, wanted)
    try:
        port = server.add_insecure_port(target) if credentials is None else server.add_secure_port(target, credentials)
    except RuntimeError:
        raise _port_in_use(host, wanted) from None
    return format_address(host, port)


def _check_free(host: str, port: int) -> None:
    """Raise where an address cannot be bound. Another program may still take it before gRPC does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Not listen: agents that wait for this port would be accepted here, and then cut off.
            probe.bind((host, port))
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
