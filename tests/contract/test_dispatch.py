"""The Work stream on a real port: leases, heartbeats, outcomes, fences, drain, restart."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from nasmesh.errors import Invalid, NotFound, Stale, Unavailable
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from nasmesh.v1 import generate_service_pb2, job_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as api
from tests.builders import scheduling as make
from tests.builders.scheduler_server import (
    ScriptedAgent,
    client,
    create,
    ended,
    open_aio_channel,
    running,
    scripted,
    trials_of,
    working,
)

TRAIN = search_pb2.TASK_KIND_TRAIN
GENERATE = search_pb2.TASK_KIND_GENERATE


def go(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 30))


def hello_of(generator: generate_service_pb2.Generator) -> pb.WorkRequest:
    slots = [pb.AgentSlots(kind=GENERATE, slots=1)]
    server = job_pb2.Server(generators=[generator])
    return pb.WorkRequest(hello=pb.AgentHello(agent="agents/a", slots=slots, server=server))


def hello_saying(**server: object) -> pb.WorkRequest:
    """Return the hello of a server that says this of itself."""
    return pb.WorkRequest(hello={"agent": "agents/a", "slots": [{"kind": TRAIN, "slots": 1}], "server": server})


async def first_train_lease(agent: ScriptedAgent) -> pb.Lease:
    """Answer the generator's call and return the first train lease."""
    await agent.want(GENERATE)
    lease = (await agent.hear("lease")).lease
    assert await agent.finish(make.make_outcome(lease)) == pb.OUTCOME_DISPOSITION_RECORDED
    await agent.want(TRAIN)
    return (await agent.hear("lease")).lease


def test_hello_when_sent_then_welcome_with_epoch_and_lease() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            welcome = await agent.greet(make.make_hello("one"))
            assert welcome.epoch == 1
            assert welcome.lease.ToMilliseconds() == 30_000
            shown = (await stub.GetAgent(api.GetAgentRequest(name="agents/one"))).agent
            assert shown.connected
            assert [slots.slots for slots in shown.slots] == [2, 2, 2]

    go(body())


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (pb.WorkRequest(ready=pb.AgentReady(kind=TRAIN, free=1)), "HELLO_MISSING"),
        (pb.WorkRequest(hello=pb.AgentHello(agent="agents/NO")), "NAME_INVALID"),
        (pb.WorkRequest(hello=pb.AgentHello(agent="agents/a")), "HELLO_INVALID"),
        (pb.WorkRequest(hello={"agent": "agents/a", "slots": [{"kind": TRAIN, "slots": -1}]}), "HELLO_INVALID"),
        (hello_of(make.make_generator(a={"pattern": "(a+)+$"})), "SETTINGS_SCHEMA_INVALID"),
        (hello_saying(losses=["x" * 200]), "HELLO_INVALID"),
        (hello_saying(metrics=["x" * 200]), "HELLO_INVALID"),
        (hello_saying(table_contents=[{"name": "tables/a", "figures": [{"metric": "x" * 200}]}]), "HELLO_INVALID"),
        (hello_saying(table_contents=[{"name": "a"}]), "NAME_INVALID"),
    ],
)
def test_hello_when_wrong_then_typed_error(message: pb.WorkRequest, reason: str) -> None:
    async def body() -> None:
        async with running() as scheduler, open_aio_channel(scheduler.address) as channel:
            call = dispatch_rpc.DispatchServiceStub(channel).Work()
            await call.write(message)
            with pytest.raises(Invalid) as caught, errors_from_rpc():
                await call.read()
            assert caught.value.reason == reason

    go(body())


def test_hello_when_epoch_is_higher_then_stale() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent:
            hello = make.make_hello("one")
            hello.epoch = 5
            await agent.say(hello=hello)
            with pytest.raises(Stale) as caught, errors_from_rpc():
                await agent.call.read()
            assert caught.value.reason == "EPOCH_STALE"

    go(body())


def test_leases_when_more_work_than_room_then_never_beyond_slots_and_wishes() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(make.make_hello("one", slots=2))
            await create(stub, make.make_spec(max_trials=8, parallelism=8), search_id="s")
            lease = await first_train_lease(agent)
            await agent.want(TRAIN, 5)
            second = (await agent.hear("lease")).lease
            assert second.token.task != lease.token.task
            shown = (await stub.GetAgent(api.GetAgentRequest(name="agents/one"))).agent
            assert {token.task for token in shown.attempts} == {lease.token.task, second.token.task}

    go(body())


def test_train_lease_when_given_then_complete() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(make.make_hello("one"))
            await create(stub, make.make_spec(), search_id="s")
            await agent.want(GENERATE)
            asked = (await agent.hear("lease")).lease.generate
            assert (list(asked.request.input_dims), asked.request.classes) == ([1, 8, 8], 10)
            assert (asked.request.call, asked.request.count, asked.request.seed) == (1, 2, 7)
            assert asked.request.settings["width"] == 4
            assert asked.data.validation_fraction == pytest.approx(0.1)

    go(body())


def test_outcome_when_sent_again_then_duplicate_and_late_one_superseded() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(make.make_hello("one"))
            await create(stub, make.make_spec(), search_id="s")
            lease = await first_train_lease(agent)
            outcome = make.make_outcome(lease)
            assert await agent.finish(outcome) == pb.OUTCOME_DISPOSITION_RECORDED
            assert await agent.finish(outcome) == pb.OUTCOME_DISPOSITION_DUPLICATE
            other = make.make_failure(lease)
            assert await agent.finish(other) == pb.OUTCOME_DISPOSITION_SUPERSEDED
            unknown = pb.AttemptOutcome(token=pb.AttemptToken(task="no-such", attempt=1, epoch=1))
            assert await agent.finish(unknown) == pb.OUTCOME_DISPOSITION_SUPERSEDED
            forged = make.make_outcome(lease)
            forged.token.epoch = 99
            assert await agent.finish(forged) == pb.OUTCOME_DISPOSITION_SUPERSEDED

    go(body())


def test_outcome_when_another_agent_sends_it_then_superseded() -> None:
    async def body() -> None:
        async with (
            running() as scheduler,
            scripted(scheduler.address) as agent,
            scripted(scheduler.address) as thief,
            client(scheduler.address) as stub,
        ):
            await agent.greet(make.make_hello("one"))
            await thief.greet(make.make_hello("two"))
            await create(stub, make.make_spec(), search_id="s")
            lease = await first_train_lease(agent)
            assert await thief.finish(make.make_outcome(lease)) == pb.OUTCOME_DISPOSITION_SUPERSEDED
            assert await agent.finish(make.make_outcome(lease)) == pb.OUTCOME_DISPOSITION_RECORDED

    go(body())


def not_finite(lease: pb.Lease) -> pb.AttemptOutcome:
    outcome = make.make_outcome(lease)
    outcome.train.measurements[0].value = float("nan")
    return outcome


def wrong_key(lease: pb.Lease) -> pb.AttemptOutcome:
    outcome = make.make_outcome(lease)
    outcome.train.checkpoint.key = "checkpoints/../../etc/passwd"
    return outcome


def wrong_kind(lease: pb.Lease) -> pb.AttemptOutcome:
    return pb.AttemptOutcome(token=lease.token, generate=pb.GenerateResult())


def nothing(lease: pb.Lease) -> pb.AttemptOutcome:
    return pb.AttemptOutcome(token=lease.token)


@pytest.mark.parametrize("spoil", [not_finite, wrong_key, wrong_kind, nothing])
def test_outcome_when_it_contradicts_the_contract_then_invalid_and_three_of_them_quarantine(spoil: Any) -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(make.make_hello("one"))
            await create(stub, make.make_spec(max_trials=1, parallelism=1), search_id="s")
            lease = await first_train_lease(agent)
            assert await agent.finish(spoil(lease)) == pb.OUTCOME_DISPOSITION_INVALID
            attempt = await dispatch_rpc.DispatchServiceStub(agent.channel).GetAttempt(
                pb.GetAttemptRequest(task=lease.token.task)
            )
            assert attempt.attempt.failure.reason == "OUTCOME_INVALID"
            assert attempt.attempt.failure.counted

    go(body())


def test_attempt_when_unknown_then_not_found() -> None:
    async def body() -> None:
        async with running() as scheduler, open_aio_channel(scheduler.address) as channel:
            with pytest.raises(NotFound) as caught, errors_from_rpc():
                await dispatch_rpc.DispatchServiceStub(channel).GetAttempt(pb.GetAttemptRequest(task="none"))
            assert caught.value.reason == "ATTEMPT_UNKNOWN"

    go(body())


def test_cancel_when_an_attempt_runs_then_the_agent_is_told_and_its_outcome_refused() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(make.make_hello("one"))
            await create(stub, make.make_spec(), search_id="s")
            lease = await first_train_lease(agent)
            search = (await stub.CancelSearch(api.CancelSearchRequest(name="searches/s"))).search
            assert search.state == search_pb2.SEARCH_STATE_CANCELLED
            assert (await agent.hear("cancel")).cancel.token == lease.token
            assert await agent.finish(make.make_outcome(lease)) == pb.OUTCOME_DISPOSITION_SUPERSEDED
            assert {trial.outcome for trial in await trials_of(stub, "searches/s")} == {
                search_pb2.TRIAL_OUTCOME_STOPPED
            }

    go(body())


def test_heartbeat_when_held_then_extended_and_checkpoint_is_resumed_from() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(make.make_hello("one"))
            await create(stub, make.make_spec(max_trials=1, parallelism=1), search_id="s")
            lease = await first_train_lease(agent)
            checkpoint = make.make_ref("half way", "checkpoints")
            beat = pb.AgentHeartbeat(
                attempts=[
                    pb.AttemptProgress(token=lease.token, checkpoint=checkpoint),
                    pb.AttemptProgress(token=pb.AttemptToken(task="gone", attempt=1, epoch=1)),
                ]
            )
            await agent.say(heartbeat=beat)
            reply = (await agent.hear("heartbeat_reply")).heartbeat_reply
            assert [token.task for token in reply.extended] == [lease.token.task]
            assert [token.task for token in reply.superseded] == ["gone"]
            released = pb.AttemptOutcome(token=lease.token, released=pb.AttemptReleased())
            assert await agent.finish(released) == pb.OUTCOME_DISPOSITION_RECORDED
            await agent.want(TRAIN)
            again = (await agent.hear("lease")).lease
            assert again.token.attempt == 2
            assert again.train.resume_from == checkpoint

    go(body())


def test_draining_agent_when_it_gives_work_back_then_another_takes_it_uncounted() -> None:
    async def body() -> None:
        async with (
            running() as scheduler,
            scripted(scheduler.address) as agent,
            scripted(scheduler.address) as other,
            client(scheduler.address) as stub,
        ):
            await agent.greet(make.make_hello("one"))
            await create(stub, make.make_spec(max_trials=1, parallelism=1), search_id="s")
            lease = await first_train_lease(agent)
            await agent.say(draining=pb.AgentDraining())
            await agent.want(TRAIN, 2)
            await agent.finish(pb.AttemptOutcome(token=lease.token, released=pb.AttemptReleased()))
            await other.greet(make.make_hello("two"))
            await other.want(TRAIN)
            assert (await other.hear("lease")).lease.token.task == lease.token.task
            assert scheduler.core.engine.state.tasks[lease.token.task].counted == 0

    go(body())


def test_second_stream_of_the_same_agent_when_opened_then_it_keeps_what_it_names() -> None:
    async def body() -> None:
        async with running() as scheduler, scripted(scheduler.address) as agent, client(scheduler.address) as stub:
            await agent.greet(make.make_hello("one"))
            await create(stub, make.make_spec(), search_id="s")
            lease = await first_train_lease(agent)
            async with scripted(scheduler.address) as again:
                hello = make.make_hello("one")
                hello.held.extend([lease.token, pb.AttemptToken(task="s-g1", attempt=1, epoch=1)])
                welcome = await again.greet(hello)
                assert [token.task for token in welcome.superseded] == ["s-g1"]
                with pytest.raises(Unavailable) as caught, errors_from_rpc():
                    await agent.call.read()
                assert caught.value.reason == "AGENT_REPLACED"
                assert await again.finish(make.make_outcome(lease)) == pb.OUTCOME_DISPOSITION_RECORDED

    go(body())


def test_agent_when_it_forgot_its_attempt_then_it_is_lost_and_counted() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub:
            async with scripted(scheduler.address) as agent:
                await agent.greet(make.make_hello("one"))
                await create(stub, make.make_spec(), search_id="s")
                lease = await first_train_lease(agent)
            async with scripted(scheduler.address) as again:
                await again.greet(make.make_hello("one"))
                task = scheduler.core.engine.state.tasks[lease.token.task]
                assert task.attempts[0].failure is not None
                assert task.attempts[0].failure.reason == "AGENT_FORGOT"
                assert task.counted == 1

    go(body())


def test_restart_when_an_attempt_runs_then_the_agent_goes_on_with_it(tmp_path: Path) -> None:
    async def body() -> None:
        journal = tmp_path / "journal.db"
        async with running(journal) as scheduler, client(scheduler.address) as stub:  # noqa: SIM117
            async with scripted(scheduler.address) as agent:
                await agent.greet(make.make_hello("one"))
                await create(stub, make.make_spec(max_trials=2, final=True), search_id="s")
                lease = await first_train_lease(agent)
        async with running(journal) as scheduler, client(scheduler.address) as stub:
            async with scripted(scheduler.address) as agent:
                hello = make.make_hello("one")
                hello.held.append(lease.token)
                welcome = await agent.greet(hello)
                assert welcome.epoch == 2
                assert not welcome.superseded
                assert await agent.finish(make.make_outcome(lease)) == pb.OUTCOME_DISPOSITION_RECORDED
            async with working(scheduler.address):
                search = await ended(stub, "searches/s")
            assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED
            trials = await trials_of(stub, "searches/s")
            assert [trial.outcome for trial in trials] == [search_pb2.TRIAL_OUTCOME_SUCCEEDED] * 3
            assert [trial.final for trial in trials] == [False, False, True]

    go(body())
