"""GenerateService over real gRPC: what any generator server must do, asked of ours."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from generate_svc.service import GenerateServicer
from nasmesh.errors import Invalid, NotFound
from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.rpc.server import Service, serve_threads
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import generate_service_pb2_grpc as rpc
from nasmesh.v1 import search_pb2
from tests.builders.generating import build, chain, envelope, observe, request

SERVICE = Service("nasmesh.v1.GenerateService", rpc.add_GenerateServiceServicer_to_server, GenerateServicer())


def serve() -> Iterator[rpc.GenerateServiceStub]:
    server = serve_threads([SERVICE], "127.0.0.1:0", workers=4)
    try:
        with open_channel(server.address) as channel:
            yield rpc.GenerateServiceStub(channel)
    finally:
        server.stop(0)


@pytest.fixture(scope="module")
def stub() -> Iterator[rpc.GenerateServiceStub]:
    yield from serve()


def test_lists_and_gets_the_same_generators(stub: rpc.GenerateServiceStub) -> None:
    listed = stub.ListServedGenerators(pb.ListServedGeneratorsRequest()).generators
    assert [generator.name for generator in listed] == ["generators/fixed", "generators/nac", "generators/random"]
    for generator in listed:
        assert stub.GetGenerator(pb.GetGeneratorRequest(name=generator.name)).generator == generator


def test_unknown_generator_is_not_found(stub: rpc.GenerateServiceStub) -> None:
    with pytest.raises(NotFound) as caught, errors_from_rpc():
        stub.GetGenerator(pb.GetGeneratorRequest(name="generators/nothing"))
    assert caught.value.reason == "GENERATOR_UNKNOWN"


@pytest.mark.parametrize(
    ("asked", "reason", "field"),
    [
        (request("nac", envelope(), settings={"iteration": 1}), "SETTINGS_INVALID", "settings.iteration"),
        (request("nac", chain()), "SPACE_UNSUPPORTED", "space"),
        (request("nac", envelope(), state=b"junk"), "STATE_UNREADABLE", "state"),
    ],
)
def test_refusals_carry_reason_and_field(
    stub: rpc.GenerateServiceStub, asked: pb.ProposeRequest, reason: str, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as raw:
        stub.Propose(asked)
    assert raw.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(Invalid) as caught, errors_from_rpc():
        stub.Propose(asked)
    assert caught.value.reason == reason
    assert [violation.field for violation in caught.value.violations] == [field]


def test_same_request_same_answer(stub: rpc.GenerateServiceStub) -> None:
    asked = request("random", envelope((1, 2, True), width=16), count=3)
    answers = {stub.Propose(asked).SerializeToString(deterministic=True) for _ in range(3)}
    assert len(answers) == 1


def test_search_survives_a_new_server_for_every_call() -> None:
    """Killing the server between any two calls changes nothing: all that is remembered travels in the state."""

    def search(*, restart: bool) -> list[bytes]:
        space = envelope((1, 3, True), (1, 1, False), width=16)
        servers = serve()
        stub = next(servers)
        state, results, answers, done, call = b"", [], [], False, 0
        while not done:
            call += 1
            answer = stub.Propose(request("nac", space, call=call, state=state, results=results))
            answers.append(answer.SerializeToString(deterministic=True))
            results = [observe(p, build(space, p.choices), call, call) for p in answer.proposals]
            state, done = answer.state, answer.done
            if restart:
                servers.close()
                servers = serve()
                stub = next(servers)
        servers.close()
        return answers

    uninterrupted = search(restart=False)
    assert search(restart=True) == uninterrupted
    assert len(uninterrupted) == 5


def test_outcomes_are_known_to_every_generator(stub: rpc.GenerateServiceStub) -> None:
    space = envelope((1, 3, True), width=16)
    for name in ("nac", "random"):
        first = stub.Propose(request(name, space))
        for number in search_pb2.TrialOutcome.values():
            result = pb.Result(trial="searches/s/trials/1", proposal_id=first.proposals[0].proposal_id, outcome=number)
            for metric in ("accuracy", "mean_square", "value"):
                for element in ("", *(f"s1_c1_b{b}" for b in ("1x1", "3x3", "3x3sep", "5x5", "5x5sep", "7x7sep"))):
                    result.measurements.add(metric=metric, element=element, value=0.5)
            answer = stub.Propose(request(name, space, call=2, state=first.state, results=[result]))
            assert answer.proposals or answer.done


def test_program_serves_drains_and_ends_with_success(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "generate_svc", "--listen", "127.0.0.1:0", "--port-file", str(port_file)]
    home = {**os.environ, "NASMESH_HOME": str(tmp_path / "home"), "GRPC_ENABLE_FORK_SUPPORT": "0"}
    with subprocess.Popen(command, env=home, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert program.stderr is not None
            for line in program.stderr:
                if "serving" in line:
                    break
            with open_channel(port_file.read_text().strip()) as channel:
                answer = rpc.GenerateServiceStub(channel).ListServedGenerators(pb.ListServedGeneratorsRequest())
            assert len(answer.generators) == 3
            program.send_signal(signal.SIGTERM)
            program.communicate(timeout=20)
        finally:
            program.kill()
    assert program.returncode == 0
