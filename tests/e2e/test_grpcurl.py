"""The page docs/grpcurl.md with a real grpcurl; every RPC is reachable through reflection and answers for itself."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from nasmesh.v1 import (
    deployer_service_pb2,
    dispatch_service_pb2,
    evaluate_service_pb2,
    generate_service_pb2,
    scheduler_service_pb2,
    train_service_pb2,
)
from tests.builders.deploying import deployer
from tests.e2e.mesh import GRPCURL, ROOT, Mesh

PAGE = ROOT / "docs" / "grpcurl.md"
SERVED = {
    "scheduler": (scheduler_service_pb2, dispatch_service_pb2),
    "generate": (generate_service_pb2,),
    "train": (train_service_pb2,),
    "evaluate": (evaluate_service_pb2,),
    "deployer": (deployer_service_pb2,),
}
# A pool that stays as it is: the deployer serves, and starts nothing.
POOLS = "pools: [{ name: gen, kind: TASK_KIND_GENERATE, external: {} }]"
# Codes that a person can act upon. INTERNAL and UNKNOWN are faults of ours; UNIMPLEMENTED is a promise not kept.
ANSWERS = {"OK", "InvalidArgument", "NotFound", "FailedPrecondition", "AlreadyExists"}


@pytest.fixture(scope="module", autouse=True)
def grpcurl() -> None:
    if not GRPCURL.exists():
        assert os.environ.get("CI") != "true", "scripts/tools.sh must bring grpcurl where CI=true"
        pytest.skip("no .tools/bin/grpcurl; scripts/tools.sh obtains it")


@pytest.fixture(scope="module")
def addresses(mesh: Mesh) -> Iterator[dict[str, str]]:
    """Return where each program serves: those of the mesh, and a deployer beside them."""
    with deployer(mesh, POOLS) as running:
        yield {**mesh.addresses, "deployer": running.address}


def services(program: str) -> list[ServiceDescriptor]:
    return [service for module in SERVED[program] for service in module.DESCRIPTOR.services_by_name.values()]


def methods(program: str) -> Iterator[MethodDescriptor]:
    for service in services(program):
        yield from service.methods


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(GRPCURL), "-plaintext", "-max-time", "20", *arguments], capture_output=True, text=True, timeout=30
    )


def messages(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that grpcurl printed one after the other, other lines left out."""
    decoder, found, at = json.JSONDecoder(), [], 0
    for match in re.finditer(r"^\{", text, re.MULTILINE):
        if match.start() >= at:
            value, at = decoder.raw_decode(text, match.start())
            found.append(value)
    return found


def test_every_command_of_the_page_runs(mesh: Mesh, tmp_path: Path) -> None:
    page = PAGE.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    variables = {"SCHEDULER": mesh.addresses["scheduler"], "TRAIN": mesh.addresses["train"]}
    assert all(f"{name}=127.0.0.1:74" in page for name in variables), "the page says what the variables are"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        env={**mesh.environment(), **variables, "PATH": f"{GRPCURL.parent}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    # The one error on the page is the one that it shows.
    assert re.findall(r"Code: (\w+)", done.stderr) == ["NotFound"]
    assert "SEARCH_UNKNOWN" in done.stderr
    printed = messages(done.stdout)
    searches = {message["search"]["name"]: message["search"]["state"] for message in printed if "search" in message}
    assert searches == {
        "searches/by-hand": "SEARCH_STATE_SUCCEEDED",
        "searches/by-hand-long": "SEARCH_STATE_CANCELLED",
        "searches/by-hand-held": "SEARCH_STATE_CANCELLED",
    }
    states = [message["search"]["state"] for message in printed if "search" in message]
    assert "SEARCH_STATE_PAUSED" in states
    assert [message["agent"].get("draining", False) for message in printed if "agent" in message] == [True, False]
    cancelled = next(message["searches"] for message in printed if "searches" in message)
    assert [search["name"] for search in cancelled] == ["searches/by-hand-long"]
    trainings = [message["training"] for message in printed if "training" in message]
    done_ones = [training for training in trainings if training["state"] == "JOB_STATE_SUCCEEDED"]
    assert done_ones[-1]["training_id"] == "by-hand"
    assert done_ones[-1]["result"]["model"]["key"].startswith("checkpoints/sha256/")
    assert (trainings[-1]["training_id"], trainings[-1]["state"]) == ("by-hand-long", "JOB_STATE_CANCELLED")


@pytest.mark.parametrize("program", SERVED)
def test_reflection_lists_every_service_and_method(addresses: dict[str, str], program: str) -> None:
    listed = call(addresses[program], "list").stdout.split()
    expected = {service.full_name for service in services(program)}
    assert {name for name in listed if name.startswith("nasmesh.")} == expected
    assert "grpc.health.v1.Health" in listed
    for service in services(program):
        found = call(addresses[program], "list", service.full_name).stdout.split()
        assert set(found) == {f"{service.full_name}.{method.name}" for method in service.methods}


def test_every_service_of_the_protos_is_served_by_one_program() -> None:
    files = {path.stem for path in (ROOT / "protos" / "nasmesh" / "v1").glob("*_service.proto")}
    served = [module.DESCRIPTOR.name for modules in SERVED.values() for module in modules]
    assert sorted(served) == sorted(f"nasmesh/v1/{stem}.proto" for stem in files)


@pytest.mark.parametrize("program", SERVED)
def test_an_empty_request_gets_an_answer_that_one_can_act_upon(addresses: dict[str, str], program: str) -> None:
    codes = {}
    for method in methods(program):
        done = call("-d", "{}", addresses[program], f"{method.containing_service.full_name}/{method.name}")
        code = re.search(r"Code: (\w+)", done.stderr)
        codes[method.name] = code[1] if code else "OK" if done.returncode == 0 else done.stderr
        if code:
            assert re.search(r"Message: \S", done.stderr), f"{method.name} says nothing"
            assert '"domain": "nasmesh"' in done.stderr, f"{method.name} gives no reason: {done.stderr}"
    assert codes
    assert {name: code for name, code in codes.items() if code not in ANSWERS} == {}
