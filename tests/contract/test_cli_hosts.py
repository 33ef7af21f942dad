"""`nasmesh hosts`: machines, each once, with what they have and when they were heard of."""

import asyncio
import json
from pathlib import Path

import pytest

from clients.cli.commands import hosts
from nasmesh import __version__
from nasmesh.v1 import dispatch_service_pb2, job_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.builders import scheduling as make
from tests.builders.cli_runs import Run, runner
from tests.builders.scheduler_server import running, scripted

TRAIN, EVALUATE = search_pb2.TASK_KIND_TRAIN, search_pb2.TASK_KIND_EVALUATE
H100 = "NVIDIA H100"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    return runner(monkeypatch, capsys)


def agent(name: str, kind: int = TRAIN, *, gpus: int = 0, seen_s: int = 1_700_000_000, **more: object) -> pb.Agent:
    found = pb.Agent(name=f"agents/{name}", connected=True, version=__version__)
    found.slots.append(dispatch_service_pb2.AgentSlots(kind=search_pb2.TaskKind.ValueType(kind), slots=2))
    found.server.devices.append(job_pb2.Device(id="cpu", model="EPYC", memory_bytes=64 << 30))
    found.server.devices.extend(
        job_pb2.Device(id=f"cuda:{number}", model=H100, memory_bytes=80 << 30) for number in range(gpus)
    )
    found.last_seen_time.FromSeconds(seen_s)
    found.MergeFrom(pb.Agent(**more))  # type: ignore[arg-type]
    return found


def row(*agents: pb.Agent, version: str = __version__, now: float = 1_700_000_060) -> tuple[str, ...]:
    found = hosts.grouped(agents)
    assert len(found) == 1
    return hosts._row(found[0], version, now)


def test_agents_of_one_machine_are_one_row() -> None:
    train = agent("gpu1-train", gpus=2, host="gpu1", address="10.0.0.3", labels={"rack": "7"}, attempts=[{"task": "t"}])
    evaluate = agent("gpu1-evaluate", EVALUATE, gpus=2, host="gpu1", address="10.0.0.3", draining=True, version="")
    evaluate.version = "0.0.9"
    assert row(train, evaluate) == (
        "gpu1",
        "10.0.0.3",
        "train 2; evaluate 2 (draining)",
        "1",
        "2 x NVIDIA H100 80 GiB",
        f"0.0.9 (scheduler: {__version__}), {__version__}",
        "1:00 ago",
        "rack=7",
    )


def test_machines_are_told_apart_by_name_and_address_and_strangers_by_their_own() -> None:
    agents = [
        agent("b", host="gpu1", address="10.0.0.4"),
        agent("a", host="gpu1", address="10.0.0.3"),
        agent("stranger", address="10.0.0.5"),
    ]
    assert [(found.name, found.address) for found in hosts.grouped(agents)] == [
        ("gpu1", "10.0.0.3"),
        ("gpu1", "10.0.0.4"),
        ("stranger", "10.0.0.5"),
    ]


def test_a_machine_without_gpus_shows_its_processor_and_one_that_is_gone_since_when() -> None:
    gone = agent("a", host="gpu1", seen_s=1_700_000_055)
    gone.connected = False
    assert row(gone)[2:7] == ("train 2 (away)", "0", "EPYC 64 GiB", __version__, "5.0 s ago")
    assert row(agent("a", host="gpu1", seen_s=1_700_000_055))[6] == "now"


def test_command_against_a_real_scheduler(run: Run) -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as there:
            nobody = await asyncio.to_thread(run, "hosts", "--scheduler", scheduler.address)
            assert (nobody[0], "no host has connected yet" in nobody[1]) == (0, True)
            hello = make.make_hello("one", kinds=(TRAIN,))
            hello.MergeFrom(dispatch_service_pb2.AgentHello(host="gpu1", labels={"rack": "7"}))
            await there.greet(hello)
            code, out, err = await asyncio.to_thread(run, "hosts", "--scheduler", scheduler.address, "--json")
            assert code == 0, err
            (host,) = json.loads(out)
            assert (host["host"], host["address"], host["connected"]) == ("gpu1", "127.0.0.1", True)
            (server,) = host["servers"]
            assert (server["slots"], server["labels"], server["atWork"]) == ({"train": 2}, {"rack": "7"}, 0)
            assert (server["version"], server["isSchedulersVersion"]) == (__version__, True)
            code, out, err = await asyncio.to_thread(run, "hosts", "--scheduler", scheduler.address)
            assert (code, out.splitlines()[1].split()[:4]) == (0, ["gpu1", "127.0.0.1", "train", "2"]), err

    asyncio.run(asyncio.wait_for(body(), 60))
