"""Reports and batches on a real port: one message in and one out a task; old agents and a mesh of both; many agents."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from nasmesh.errors import Invalid
from nasmesh.rpc.channel import errors_from_rpc, open_aio_channel
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from nasmesh.v1 import search_pb2
from scheduler.program import Options, Scheduler, start
from tests.builders import scheduling as make
from tests.builders.scheduler_server import ScriptedAgent, client, create, ended, running, scripted, trials_of, work

GENERATE = search_pb2.TASK_KIND_GENERATE
TRAIN = search_pb2.TASK_KIND_TRAIN
RECORDED = pb.OUTCOME_DISPOSITION_RECORDED
MANY = 300


def go(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 60))


def hello(name: str, *, batches: bool = True, slots: int = 1) -> pb.AgentHello:
    message = make.make_hello(name, slots=slots)
    message.accepts_batches = batches
    return message


def report(*outcomes: pb.AttemptOutcome, ready: tuple[int, ...] = (), free: int = 1) -> pb.AgentReport:
    made = pb.AgentReport(outcomes=outcomes)
    for kind in ready:
        made.ready.add(kind=search_pb2.TaskKind.ValueType(kind), free=free)
    return made


async def first_lease(agent: ScriptedAgent, stub: rpc.SchedulerServiceAsyncStub) -> pb.Lease:
    await create(stub, make.make_spec(max_trials=4, parallelism=4), search_id="s")
    await agent.say(report=report(ready=(GENERATE,)))
    return (await agent.hear("lease")).lease


def test_report_when_an_outcome_leads_to_work_then_answer_and_lease_in_one_message() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            assert (await agent.greet(hello("one"))).accepts_reports
            lease = await first_lease(agent, stub)
            await agent.say(report=report(make.make_outcome(lease), ready=(TRAIN,)))
            for _ in range(3):
                message = await agent.read()
                assert message.WhichOneof("kind") == "batch"
                assert [reply.token for reply in message.batch.outcome_replies] == [lease.token]
                assert message.batch.outcome_replies[0].disposition == RECORDED
                assert len(message.batch.leases) == 1
                lease = message.batch.leases[0]
                assert lease.HasField("train")
                await agent.say(report=report(make.make_outcome(lease), ready=(TRAIN,)))

    go(body())


def test_report_when_the_agent_takes_no_batches_then_single_messages() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(hello("one", batches=False))
            lease = await first_lease(agent, stub)
            await agent.say(report=report(make.make_outcome(lease), ready=(TRAIN,)))
            assert [(await agent.read()).WhichOneof("kind") for _ in range(2)] == ["outcome_reply", "lease"]

    go(body())


def test_report_when_several_outcomes_then_each_is_answered_as_alone() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(hello("one", slots=3))
            generate = make.make_outcome(await first_lease(agent, stub))
            await agent.say(report=report(generate, ready=(TRAIN,), free=3))
            leases = (await agent.hear("batch")).batch.leases
            outcomes = [make.make_outcome(lease) for lease in leases]
            late = pb.AttemptOutcome()
            late.CopyFrom(outcomes[0])
            late.train.device_time_s += 1
            wrong = pb.AttemptOutcome(token=leases[2].token, generate=pb.GenerateResult())
            await agent.say(report=report(outcomes[0], outcomes[1], outcomes[0], late, wrong))
            replies = (await agent.hear("batch")).batch.outcome_replies
            assert [reply.disposition for reply in replies] == [
                RECORDED,
                RECORDED,
                pb.OUTCOME_DISPOSITION_DUPLICATE,
                pb.OUTCOME_DISPOSITION_SUPERSEDED,
                pb.OUTCOME_DISPOSITION_INVALID,
            ]

    go(body())


def test_report_when_a_part_makes_no_sense_then_refused_whole() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(hello("one"))
            lease = await first_lease(agent, stub)
            await agent.say(report=report(make.make_outcome(lease), ready=(99,)))
            with pytest.raises(Invalid) as caught, errors_from_rpc():
                await agent.call.read()
            assert caught.value.reason == "READY_INVALID"
            assert not await trials_of(stub, "searches/s")
            async with scripted(scheduler.address) as again:
                message = hello("one")
                message.held.append(lease.token)
                assert not (await again.greet(message)).superseded
                assert await again.finish(make.make_outcome(lease)) == RECORDED

    go(body())


async def work_in_batches(address: str, name: str) -> None:
    async with open_aio_channel(address) as channel:
        agent = ScriptedAgent(channel)
        await agent.greet(hello(name))
        await agent.say(report=report(ready=make.ALL_KINDS))
        while isinstance(message := await agent.call.read(), pb.WorkResponse):
            leases = [message.lease] if message.HasField("lease") else list(message.batch.leases)
            if leases:
                await agent.say(report=report(*map(make.make_outcome, leases), ready=make.ALL_KINDS))


def test_mesh_when_old_and_new_agents_work_together_then_every_trial_succeeds_once() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:
            workers = [asyncio.create_task(work(scheduler.address, f"old-{n}", slots=1)) for n in range(3)]
            workers += [asyncio.create_task(work_in_batches(scheduler.address, f"new-{n}")) for n in range(3)]
            await create(stub, make.make_spec(max_trials=60, parallelism=12), search_id="s")
            search = await ended(stub, "searches/s")
            assert search.trials.succeeded == 60
            tasks = scheduler.core.engine.state.tasks
            agents = {tasks[f"s-t{n}-{kind}"].attempts[0].agent for n in range(1, 61) for kind in ("train", "evaluate")}
            assert any(agent.startswith("agents/old") for agent in agents)
            assert any(agent.startswith("agents/new") for agent in agents)
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    go(body())


async def connect(channels: list[grpc.aio.Channel], held: dict[int, pb.AttemptToken]) -> list[ScriptedAgent]:
    """Open all streams at once, each naming what it holds."""

    async def one(number: int) -> ScriptedAgent:
        agent = ScriptedAgent(channels[number % len(channels)])
        message = hello(f"many-{number}")
        if number in held:
            message.held.append(held[number])
        assert not (await agent.greet(message)).superseded
        return agent

    return list(await asyncio.gather(*(one(number) for number in range(MANY))))


async def begin(journal: Path, address: str) -> Scheduler:
    return await start(Options(address, f"sqlite:{journal}", "memory:"))


def test_many_agents_when_the_scheduler_restarts_then_all_are_back_at_once_with_what_they_hold(tmp_path: Path) -> None:
    async def body() -> None:
        scheduler = await begin(tmp_path / "journal.db", "127.0.0.1:0")
        address = scheduler.address
        channels = [open_aio_channel(address) for _ in range(4)]
        agents = await connect(channels, {})
        async with client(address) as stub:
            await create(stub, make.make_spec(max_trials=90, parallelism=90), search_id="s")
        await agents[0].say(report=report(ready=(GENERATE,)))
        generate = (await agents[0].hear("lease")).lease
        await agents[0].say(report=report(make.make_outcome(generate)))
        await agents[0].hear("outcome_reply")
        held = {}
        for number in range(1, 91):
            await agents[number].say(report=report(ready=(TRAIN,)))
            held[number] = (await agents[number].hear("lease")).lease.token
        await scheduler.stop(0)
        for channel in channels:
            await channel.close()
        scheduler = await begin(tmp_path / "journal.db", address)
        try:
            channels = [open_aio_channel(address) for _ in range(4)]
            agents = await connect(channels, held)
            connected = [entry.name for entry in scheduler.core.engine.agents.connected()]
            assert connected == sorted(f"agents/many-{number}" for number in range(MANY))
            for channel in channels:
                await channel.close()
            assert all(len(scheduler.core.engine.agents.held_by(f"agents/many-{n}")) == 1 for n in held)
            async with client(address) as stub:
                shown = (await stub.GetAgent(api.GetAgentRequest(name="agents/many-1"))).agent
            assert [token.task for token in shown.attempts] == [held[1].task]
        finally:
            await scheduler.stop(0)

    go(body())
