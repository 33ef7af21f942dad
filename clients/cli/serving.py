"""Whether a program of a local mesh serves."""

from nasmesh.client.patience import Patience, call_patiently
from nasmesh.errors import Unavailable
from nasmesh.rpc.access import ClientAccess


def await_health(address: str, access: ClientAccess, patience: Patience) -> None:
    """Return once the program at an address says that it serves; raises Unavailable when patience ends before."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from nasmesh.rpc.channel import errors_from_rpc, open_channel

    with open_channel(address, access=access) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def ask() -> None:
            with errors_from_rpc(address):
                answer = stub.Check(health_pb2.HealthCheckRequest())
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                raise Unavailable("NOT_SERVING", f"the program at {address} is up but does not serve; see its log")

        call_patiently(ask, patience)
