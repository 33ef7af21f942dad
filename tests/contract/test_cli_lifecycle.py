"""The commands that hold, change, delete and add, against a real scheduler with an agent that answers by a script."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.cli import main
from nasmesh.v1 import search_pb2
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import go
from tests.builders.scheduler_server import client, create, running, scripted

Call = Callable[..., "asyncio.Future[tuple[int, str, str]]"]


def run_command(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    sys.argv = ["nasmesh", *arguments]
    with pytest.raises(SystemExit) as ended:
        main.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["nasmesh"])

    def begin(address: str, *arguments: str) -> Any:
        monkeypatch.setenv("NASMESH_SCHEDULER", address)
        return asyncio.to_thread(run_command, arguments, capsys)

    return begin


def test_commands_when_a_search_runs_then_it_is_held_changed_and_deleted(call: Call) -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a"))
            await create(stub, make.make_spec(), search_id="s")

            async def told(*arguments: str) -> Any:
                code, out, err = await call(scheduler.address, *arguments, "--json")
                assert code == 0, err
                return json.loads(out)

            async def refused(*arguments: str) -> tuple[int, str]:
                code, _, err = await call(scheduler.address, *arguments)
                assert err.startswith("error: ")
                assert err.count("\n") == 1
                return code, err

            assert (await told("search", "pause", "s"))["state"] == "SEARCH_STATE_PAUSED"
            assert (
                "searches/s is paused; go on with: nasmesh search resume s"
                in (await call(scheduler.address, "search", "pause", "s"))[1]
            )
            assert (await told("search", "list", "--filter", "state=PAUSED"))[0]["name"] == "searches/s"
            assert (await told("search", "resume", "s"))["state"] == "SEARCH_STATE_RUNNING"
            changes = ("--set", "budget.maxTrials=9", "--set", "priority=5", "--set", "labels.team=a")
            checked = await told("search", "update", "s", *changes, "--check")
            assert checked["spec"]["priority"] == 5
            assert "priority" not in (await told("search", "show", "s"))["spec"]
            changed = await told("search", "update", "s", *changes, "--set", "budget.target=0.9")
            assert changed["spec"]["budget"] == {"maxTrials": "9", "target": 0.9}
            changed = await told("search", "update", "s", "--unset", "budget.target", "--set", "labels.site=b")
            assert changed["spec"]["budget"] == {"maxTrials": "9"}
            assert changed["spec"]["labels"] == {"team": "a", "site": "b"}
            changed = await told("search", "update", "s", "--unset", "labels.team")
            assert changed["spec"]["labels"] == {"site": "b"}
            assert await refused("search", "update", "s") == (2, (await refused("search", "update", "s"))[1])
            code, err = await refused("search", "update", "s", "--set", "seed=3")
            assert (code, "cannot be changed" in err) == (2, True)
            code, err = await refused("search", "update", "s", "--set", "budget.maxTrial=3")
            assert (code, "did you mean 'maxTrials'" in err) == (2, True)
            code, err = await refused("search", "delete", "s", "--apply")
            assert (code, "cancel it first" in err) == (1, True)
            assert (await refused("search", "pause", "none"))[0] == 4
            await told("search", "cancel", "s")
            assert (await refused("search", "resume", "s"))[0] == 1
            would = (await call(scheduler.address, "search", "delete", "s"))[1]
            assert would == "would delete s: 0 trials; nothing else names 0 objects (0B); --apply does it\n"
            assert (await told("search", "delete", "s", "--apply"))["applied"] is True
            assert (await refused("search", "show", "s"))[0] == 4
            swept = await call(scheduler.address, "admin", "sweep", "--min-age-h", "1")
            assert swept[1].startswith("would delete 0 objects")
            assert (await refused("admin", "sweep", "--min-age-h", "0.5"))[0] == 2

    go(body())


def test_commands_when_a_network_is_added_then_its_trial_waits(call: Call, tmp_path: Path) -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a"))
            await create(stub, make.make_spec(max_trials=9), search_id="s")
            choices, network = tmp_path / "choices.yaml", tmp_path / "network.onnx"
            choices.write_text("layer_1.pool: off\nlayers: 2\nrate: 1e-3\n")
            network.write_bytes(b"onnx" * 200_000)  # too large for a message: imported first
            added = ["trial", "add", "s", "--choices", str(choices), "--set", "train.epochs=2", "--set", "note=mine"]
            code, out, err = await call(scheduler.address, *added, "--json")
            assert code == 0, err
            trial = json.loads(out)
            assert (trial["enqueued"], trial["note"], trial["train"]["epochs"]) == (True, "mine", 2.0)
            assert trial["choices"]["values"] == {"layer_1.pool": "off", "layers": "2", "rate": "1e-3"}
            assert (await call(scheduler.address, "trial", "add", "s", "--onnx", str(network)))[0] == 0
            await agent.want(search_pb2.TASK_KIND_GENERATE, 3)
            leases = [(await agent.hear("lease")).lease for _ in range(2)]
            assert [lease.admit.proposal.WhichOneof("network") for lease in leases if lease.HasField("admit")]
            for arguments, code in (
                (("--choices", str(choices), "--onnx", str(network)), 2),
                ((), 2),
                (("--choices", str(tmp_path / "none.yaml")), 2),
                (("--choices", str(network)), 2),
                (("--architecture", str(choices)), 2),
                (("--choices", str(choices), "--set", "train.epoch=2"), 2),
            ):
                found = await call(scheduler.address, "trial", "add", "s", *arguments)
                assert found[0] == code, found
                assert found[2].startswith("error: ")

    go(body())


def test_commands_when_an_agent_is_drained_then_listed_so(call: Call) -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a"))
            code, out, _ = await call(scheduler.address, "agent", "drain", "a", "--release")
            assert (code, out) == (0, "agents/a is drained\n")
            code, out, _ = await call(scheduler.address, "agents", "--json")
            assert json.loads(out)[0]["draining"] is True
            code, out, _ = await call(scheduler.address, "agent", "undrain", "agents/a", "--json")
            assert "draining" not in json.loads(out)
            assert (await call(scheduler.address, "agent", "drain", "b"))[0] == 4
            assert (await call(scheduler.address, "agent", "drain", "x/y"))[0] == 2

    go(body())
