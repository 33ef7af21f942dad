"""Health of a program as a balancer hears it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_health.v1 import health_pb2, health_pb2_grpc

from nasmesh.rpc.channel import open_aio_channel

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def health_of(address: str) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    async with open_aio_channel(address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def until(stub: health_pb2_grpc.HealthStub, status: int) -> None:
    """Return when a watch has told the status, as a balancer would hear it."""
    call = stub.Watch(health_pb2.HealthCheckRequest())
    try:
        while (await call.read()).status != status:
            pass
    finally:
        call.cancel()
