"""`nasmesh health`: asks one program of the mesh whether it serves; a probe for containers, balancers and scripts."""

from typing import Annotated

import typer

from clients.cli.access_options import client_access
from clients.cli.options import SCHEDULER, AsJson, Insecure
from clients.cli.output import print_json, print_line
from nasmesh.errors import Unavailable

_ASK_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("health")(health)


def health(
    scheduler: Annotated[
        str,
        typer.Argument(metavar="[HOST:PORT]", envvar="NASMESH_SCHEDULER", help="The scheduler, or any other program."),
    ] = SCHEDULER,
    any_answer: Annotated[
        bool, typer.Option("--any", help="Be content with any answer: it lives, whether or not it serves.")
    ] = False,
    wait: Annotated[float, typer.Option("--wait", min=0.0, max=3600.0, metavar="S", help="Ask again so long.")] = 0.0,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Ask a program of the mesh for its health, by gRPC's own protocol. Exit code 0: it serves; 3: it does not."""
    from nasmesh.client.patience import Patience, call_patiently

    def ask() -> str:
        found = _status(scheduler, insecure=insecure)
        if found != "SERVING" and not any_answer:
            raise Unavailable("NOT_SERVING", f"{scheduler} answers and says {found}; it may be starting or draining")
        return found

    status = call_patiently(ask, Patience(wait))
    if as_json:
        print_json({"address": scheduler, "status": status})
    else:
        print_line(f"{scheduler} says {status}")


def _status(address: str, *, insecure: bool) -> str:
    """Return the name of the status that a server gives of itself as a whole."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from nasmesh.rpc.channel import errors_from_rpc, open_channel

    with open_channel(address, insecure=insecure, access=client_access()) as channel, errors_from_rpc(address):
        told = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_ASK_S)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(told.status))
