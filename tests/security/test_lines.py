"""Callers that live longer than their certificates: the next call shows what the files hold then, with no restart."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from generate_svc.service import GenerateServicer
from nasmesh.agent.targets import GENERATE, RemoteTarget
from nasmesh.client import Client
from nasmesh.errors import Denied
from nasmesh.rpc.server import Door, Service, serve_threads
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1.generate_service_pb2_grpc import add_GenerateServiceServicer_to_server
from scheduler.program import Options
from tests.builders.access import UNLIMITED, Mesh, make_mesh
from tests.builders.every_service import SchedulerThread


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return make_mesh(tmp_path)


@pytest.fixture
def generating(mesh: Mesh) -> Iterator[str]:
    """The address of a generate server that asks for certificates."""
    service = Service(GENERATE, add_GenerateServiceServicer_to_server, GenerateServicer())
    running = serve_threads([service], "127.0.0.1:0", door=Door(mesh.access(mutual=True), rates=UNLIMITED))
    try:
        yield running.address
    finally:
        running.stop(0)


def asked(target: RemoteTarget) -> int:
    request, answer = pb.ListServedGeneratorsRequest(), pb.ListServedGeneratorsResponse
    return len(target.unary("ListServedGenerators", request, answer).generators)


def test_agent_before_a_server_when_its_pair_is_renewed_then_shows_the_new_one(mesh: Mesh, generating: str) -> None:
    # Who may not call tells that the files were read again: what has expired cannot be made while somebody waits.
    target = RemoteTarget(generating, GENERATE, access=mesh.client(mesh.authority.pair("client", "x", file="mine")))
    with pytest.raises(Denied, match="clients/x may not call"):
        asked(target)
    mesh.authority.pair("agent", "gpu", file="mine")
    assert asked(target) > 0
    mesh.authority.pair("client", "y", file="mine")
    with pytest.raises(Denied, match="clients/y may not call"):
        asked(target)


def test_agent_before_a_server_when_half_of_its_pair_is_there_then_shows_the_one_before(
    mesh: Mesh, generating: str
) -> None:
    mine = mesh.authority.pair("agent", "gpu", file="mine")
    target = RemoteTarget(generating, GENERATE, access=mesh.client(mine))
    assert asked(target) > 0
    next_pair = mesh.authority.pair("client", "x", file="next")
    for file, content in ((mine.key, next_pair.key.read_bytes()), (mine.cert, b"rubbish")):
        file.write_bytes(content)
        assert asked(target) > 0
    mine.cert.unlink()
    assert asked(target) > 0
    mine.cert.write_bytes(next_pair.cert.read_bytes())
    with pytest.raises(Denied, match="clients/x may not call"):
        asked(target)


def test_client_when_its_pair_is_renewed_then_shows_the_new_one(mesh: Mesh) -> None:
    door = Door(mesh.access(mutual=True), rates=UNLIMITED)
    scheduler = SchedulerThread(door, Options("127.0.0.1:0", "memory:", "memory:"))
    try:
        access = mesh.client(mesh.authority.pair("agent", "gpu", file="mine"))
        with Client(scheduler.address, access=access, patience_s=20) as client:
            with pytest.raises(Denied, match="agents/gpu may not call"):
                list(client.agents())
            mesh.authority.pair("admin", "root", file="mine")
            assert list(client.agents()) == []
    finally:
        scheduler.stop()
