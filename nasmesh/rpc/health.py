"""Health, as the standard servicers answer it, kept from remembering names that nobody serves."""

from collections.abc import Iterable, Iterator
from typing import Any

from grpc_health.v1 import health, health_pb2

SERVICE_NAME: str = health.SERVICE_NAME


class Health(health.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Of a threaded server. `names` are the services whose health it tells; the empty one is the server's."""

    def __init__(self, names: Iterable[str]) -> None:
        """Tell of these services."""
        super().__init__(experimental_non_blocking=False)
        self.names = ("", *names)

    # A subclass's own function: the base class marks its Watch for a thread pool that interceptors do not pass on.
    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Iterator[Any]:  # noqa: N802
        """Stream a service's health; of one that is not served, say so and end.

        The base class keeps every name that it was ever asked for, whoever asked.
        """
        if request.service not in self.names:
            return iter([health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)])
        watched: Iterator[Any] = super().Watch(request, context, send_response_callback)
        return watched


class AioHealth(health.aio.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Of an asyncio server; forgets by itself what nobody watches."""

    def __init__(self, names: Iterable[str]) -> None:
        """Tell of these services."""
        super().__init__()
        self.names = ("", *names)
