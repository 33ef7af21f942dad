"""`nasmesh pools`: the pools of a deployer, how many servers their work asks for, and where each server stands."""

from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.access_options import client_access
from clients.cli.options import AsJson, Insecure
from clients.cli.output import message_dict, print_json, print_line, print_table

if TYPE_CHECKING:
    from nasmesh.v1.deployer_service_pb2 import ListPoolsResponse, PoolStatus

DEPLOYER = "127.0.0.1:7404"
Deployer = Annotated[str, typer.Option("--deployer", metavar="HOST:PORT", help="Address of the deployer.")]
Servers = Annotated[bool, typer.Option("--servers", help="A line for each server.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pools")(pools)


def pools(
    deployer: Deployer = DEPLOYER, servers: Servers = False, as_json: AsJson = False, insecure: Insecure = False
) -> None:
    """List the pools that a deployer keeps in step with the queue."""
    answer = _ask(deployer, insecure=insecure)
    if as_json:
        print_json(message_dict(answer))
        return
    if servers:
        rows = [(s.name, pool.name, _word(s.state), s.reason) for pool in answer.pools for s in pool.servers]
        print_table(("server", "pool", "state", "engine says"), rows, empty="no server is there or on its way")
    else:
        headers = ("pool", "kind", "engine", ">wanted", ">min", ">max", "servers", "")
        print_table(headers, [_row(pool) for pool in answer.pools], empty="the deployer has not looked yet")
    if answer.trouble:
        print_line(f"the last look failed: {answer.trouble}")


def _ask(deployer: str, *, insecure: bool) -> "ListPoolsResponse":
    from nasmesh.rpc.channel import errors_from_rpc, open_channel
    from nasmesh.v1 import deployer_service_pb2 as pb
    from nasmesh.v1.deployer_service_pb2_grpc import DeployerServiceStub

    with open_channel(deployer, insecure=insecure, access=client_access()) as channel, errors_from_rpc(deployer):
        return DeployerServiceStub(channel).ListPools(pb.ListPoolsRequest())


def _row(pool: "PoolStatus") -> tuple[str, ...]:
    from nasmesh.v1 import search_pb2

    counts: dict[str, int] = {}
    for server in pool.servers:
        counts[_word(server.state)] = counts.get(_word(server.state), 0) + 1
    kind = search_pb2.TaskKind.Name(pool.kind).removeprefix("TASK_KIND_").lower()
    there = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"
    wait = f"; the next start in {pool.retry_delay.seconds} s" if pool.retry_delay.seconds else ""
    bounds = (str(pool.wanted), str(pool.min_servers), str(pool.max_servers))
    return (pool.name, kind, pool.engine, *bounds, there, f"{pool.reason}{wait}")


def _word(state: int) -> str:
    from nasmesh.v1 import deployer_service_pb2 as pb

    name = pb.PoolServerState.Name(pb.PoolServerState.ValueType(state))
    return name.removeprefix("POOL_SERVER_STATE_").lower()
