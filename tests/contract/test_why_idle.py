"""A search of which nothing is at work says why: to whoever asks, and to who watches it in a pipe."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from nasmesh.client.written import dump_spec
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.builders import scheduler_lifecycle as wish
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import go
from tests.builders.scheduler_server import WAIT_S, ScriptedAgent, client, create, running, scripted

GENERATE, TRAIN, EVALUATE = make.ALL_KINDS
ABSENT = "trial 1 waits: no train server is connected; start one: nasmesh serve train"
OTHER_DATA = "trial 1 waits: none of the connected train servers (1) has datasets/digits"


def hello(name: str, kind: int, data: str = "datasets/digits") -> dispatch_pb.AgentHello:
    """Return the hello of an agent with one slot."""
    found = make.make_hello(name, slots=1, kinds=(kind,))
    found.server.datasets[0].name = data
    return found


async def generate(agent: ScriptedAgent) -> None:
    """Propose one network."""
    await agent.want(GENERATE)
    lease = (await agent.hear("lease")).lease
    outcome = make.make_outcome(lease)
    del outcome.generate.trials[1:]
    await agent.finish(outcome)


async def why(stub: Any, search: str = "s") -> str:
    return str((await stub.GetSearch(pb.GetSearchRequest(name=f"searches/{search}"))).search.reason)


def test_search_when_nothing_of_it_is_at_work_then_says_which_servers_are_not_there_or_have_no_room() -> None:
    async def body() -> None:
        async with (
            running() as scheduler,
            client(scheduler.address) as stub,
            scripted(scheduler.address) as generator,
            scripted(scheduler.address) as other,
            scripted(scheduler.address) as trainer,
        ):
            await generator.greet(hello("generator", GENERATE))
            await create(stub, make.make_spec(max_trials=1, parallelism=1), search_id="s")
            assert await why(stub) == "", "it begins as soon as the agent asks"
            await generate(generator)
            assert await why(stub) == ABSENT
            assert (await stub.ListSearches(pb.ListSearchesRequest())).searches[0].reason == "", "too much for a page"
            await other.greet(hello("other", TRAIN, "datasets/cifar10"))
            assert await why(stub) == OTHER_DATA
            await trainer.greet(hello("trainer", TRAIN))
            assert await why(stub) == ""
            await stub.DrainAgent(wish.drain("agents/trainer")[1])
            assert await why(stub) == "trial 1 waits: all train servers that could do it (1) are drained"
            await stub.UndrainAgent(wish.undrain("agents/trainer")[1])
            await trainer.want(TRAIN)
            await trainer.hear("lease")
            assert await why(stub) == ""
            await create(stub, make.make_spec(max_trials=1, parallelism=1), search_id="t")
            await generate(generator)
            taken = "trial 1 waits: all slots of the train servers that could do it (1) are taken"
            assert (await why(stub, "t"), await why(stub)) == (taken, "")
            await stub.PauseSearch(wish.pause("t")[1])
            assert await why(stub, "t") == ""

    go(body())


def test_generator_when_its_server_is_gone_then_the_search_says_so() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:
            async with scripted(scheduler.address) as generator:
                await generator.greet(hello("generator", GENERATE))
                await create(stub, make.make_spec(max_trials=1), search_id="s")
            async with asyncio.timeout(WAIT_S):
                while not (told := await why(stub)):  # until the scheduler has noticed
                    await asyncio.sleep(0)
            assert told == "the next networks wait: no generate server is connected; start one: nasmesh serve generate"

    go(body())


async def until(lines: asyncio.StreamReader, words: str) -> list[str]:
    """Return the lines up to one with these words."""
    found: list[str] = []
    async with asyncio.timeout(3 * WAIT_S):
        while not found or words not in found[-1]:
            line = await lines.readline()
            assert line, f"it ended: {found}"
            found.append(line.decode())
    return found


def test_watch_in_a_pipe_when_nothing_starts_then_says_why_once_and_again_when_it_is_another_cause(
    tmp_path: Path,
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(dump_spec(make.make_spec(max_trials=1, parallelism=1)))
    environment = {**os.environ, "NASMESH_HOME": str(tmp_path)}

    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as generator:
            await generator.greet(hello("generator", GENERATE))
            created = ("search", "create", "-f", str(spec), "--id", "s", "--wait", "--scheduler", scheduler.address)
            program = (sys.executable, "-m", "clients.cli.main", *created)
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(*program, stdout=pipe, stderr=pipe, env=environment)
            try:
                assert process.stdout is not None
                await generate(generator)
                said = await until(process.stdout, ABSENT)
                async with scripted(scheduler.address) as other:
                    await other.greet(hello("other", TRAIN, "datasets/cifar10"))
                    said += await until(process.stdout, OTHER_DATA)
                    await stub.CancelSearch(pb.CancelSearchRequest(name="searches/s"))
                    said += (await process.stdout.read()).decode().splitlines()
                    assert await process.wait() == 1
                assert [sum(cause in line for line in said) for cause in (ABSENT, OTHER_DATA)] == [1, 1], said
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    go(body())
